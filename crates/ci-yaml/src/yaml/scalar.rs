//! What a plain scalar means: Psych's `ScalarScanner`, rule by rule.
//!
//! The odd ones are meant: `12:30` is 45000 (hours and minutes as seconds), `1e3` is a string, `1,000` is a number.

use super::Value;
use regex::Regex;
use std::sync::LazyLock;

/// A pattern that is known to be good.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern compiles")
}

static TIME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^-?[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|\s+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:\s*(?:Z|[-+][0-9]{1,2}:?(?:[0-9]{2})?))?$",
    )
});
static DATE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[0-9]{4}-(?:1[012]|0[0-9]|[0-9])-(?:[12][0-9]|3[01]|0[0-9]|[0-9])$"));
static SIXTY: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}$"));
static SIXTY_FLOAT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}\.[0-9_]*$"));
static FLOAT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[-+]?(?:[0-9][0-9_,]*)?\.[0-9]*(?:[eE][+-][0-9]+)?$"));
static INTEGER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:[-+]?0[b_][01_,]+|[-+]?0[0-7_,]+|[-+]?(?:0|[1-9](?:[0-9]|,[0-9]|_[0-9])*)|[-+]?0[x_][0-9a-fA-F_,]+)$")
});

/// What a plain scalar means, or that it is a date or a time, which GitLab refuses.
pub(super) enum Plain {
    Value(Value),
    Date,
}

/// Reads a plain scalar.
pub(super) fn plain(text: &str) -> Plain {
    let value = match text {
        "" | "~" => Value::Null,
        _ if text.len() <= 5 && word(text).is_some() => word(text).unwrap_or(Value::Null),
        _ if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => Value::Text(text.into()),
        _ if TIME.is_match(text) || DATE.is_match(text) => return Plain::Date,
        _ => number(text).unwrap_or_else(|| Value::Text(text.into())),
    };
    Plain::Value(value)
}

fn word(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "null" => Some(Value::Null),
        "yes" | "true" | "on" => Some(Value::Bool(true)),
        "no" | "false" | "off" => Some(Value::Bool(false)),
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        ".inf" | "+.inf" => return Some(Value::Float(f64::INFINITY)),
        "-.inf" => return Some(Value::Float(f64::NEG_INFINITY)),
        ".nan" => return Some(Value::Float(f64::NAN)),
        "." | "+." | "-." => return None,
        _ => {}
    }
    if SIXTY.is_match(text) {
        return base_sixty(text).map(Value::Int);
    }
    if SIXTY_FLOAT.is_match(text) {
        let (whole, _) = text.rsplit_once('.')?;
        let fraction: f64 = format!("0.{}", text.rsplit_once('.')?.1.replace('_', "")).parse().unwrap_or(0.0);
        // Hours and minutes stay whole numbers; what follows the dot counts as it stands.
        return base_sixty(whole).and_then(|value| i32::try_from(value).ok()).map(|value| {
            let scale = if whole.matches(':').count() == 1 { 60.0 } else { 1.0 };
            Value::Float(f64::from(value) + fraction * scale)
        });
    }
    let digits: String = text.chars().filter(|one| !"_,".contains(*one)).collect();
    if FLOAT.is_match(text) {
        return digits.trim_end_matches('.').replace(".e", "e").replace(".E", "E").parse().ok().map(Value::Float);
    }
    if INTEGER.is_match(text) {
        return Some(integer(&digits).map_or_else(|| Value::Text(digits.as_str().into()), Value::Int));
    }
    None
}

/// `12:30` as Psych counts it: the parts are hours, minutes and seconds.
fn base_sixty(text: &str) -> Option<i128> {
    let mut sum: i128 = 0;
    for (part, scale) in text.replace('_', "").split(':').zip([3600, 60, 1]) {
        sum = sum.checked_add(part.trim_start_matches('+').parse::<i128>().ok()?.checked_mul(scale)?)?;
    }
    Some(sum)
}

fn integer(digits: &str) -> Option<i128> {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.trim_start_matches('+')),
    };
    let value = if let Some(rest) = digits.strip_prefix("0b") {
        i128::from_str_radix(rest, 2).ok()?
    } else if let Some(rest) = digits.strip_prefix("0x") {
        i128::from_str_radix(rest, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(sign * value)
}

/// A float as Ruby writes it.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") };
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = value.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use super::{Plain, plain};
    use crate::yaml::{Node, Value};

    #[track_caller]
    fn check(text: &str, kind: &str, expected: &str) {
        let Plain::Value(value) = plain(text) else { panic!("`{text}` is a date") };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            _ => "text",
        };
        let node = Node::new(Default::default(), value);
        assert_eq!((found, node.scalar_text().as_deref()), (kind, Some(expected)), "{text}");
    }

    #[test]
    fn plain_scalars_mean_what_psych_4_says_they_mean() {
        // Each line was read by Ruby 3.1's Psych; the last column is the value's `to_s`.
        for line in include_str!("psych.tsv").lines() {
            let mut parts = line.split('\t');
            let (Some(text), Some(kind), Some(expected)) = (parts.next(), parts.next(), parts.next()) else {
                panic!("three columns: {line}")
            };
            check(text, kind, expected);
        }
    }

    #[test]
    fn dates_and_times_are_told_apart() {
        for text in ["2024-01-01", "2024-1-2", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43"] {
            assert!(matches!(plain(text), Plain::Date), "{text}");
        }
        for text in ["2024-13-01", "2024-01", "v2024-01-01"] {
            assert!(matches!(plain(text), Plain::Value(Value::Text(_))), "{text}");
        }
    }
}
