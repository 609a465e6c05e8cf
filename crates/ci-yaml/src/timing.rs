//! When a job runs and for how long: `when`, `start_in`, `timeout`, `allow_failure`, `tags`.

use crate::compile::Context;
use crate::pipeline::{AllowFailure, When};
use crate::yaml::{Map, Node, Value};

/// `when`, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    OnSuccess,
    OnFailure,
    Always,
    Manual,
    Delayed,
    Never,
}

impl Word {
    /// `None` for `never`.
    pub fn when(self) -> Option<When> {
        Some(match self {
            Word::OnSuccess => When::OnSuccess,
            Word::OnFailure => When::OnFailure,
            Word::Always => When::Always,
            Word::Manual => When::Manual,
            Word::Delayed => When::Delayed,
            Word::Never => return None,
        })
    }
}

/// Reads a `when` of a job or of a rule.
pub(crate) fn word(context: &Context<'_>, node: &Node, what: &str, never: bool) -> Option<Word> {
    let words: &[&str] = match never {
        true => &["on_success", "on_failure", "always", "manual", "delayed", "never"],
        false => &["on_success", "on_failure", "always", "manual", "delayed"],
    };
    Some(match context.choice(node, what, words)? {
        "on_failure" => Word::OnFailure,
        "always" => Word::Always,
        "manual" => Word::Manual,
        "delayed" => Word::Delayed,
        "never" => Word::Never,
        _ => Word::OnSuccess,
    })
}

/// `start_in` belongs to `when: delayed`, and is not waited for.
pub(crate) fn check_start_in(context: &Context<'_>, map: &Map, when: Option<Word>, job: &str) {
    let start_in = map.get("start_in");
    match (when, start_in) {
        (Some(Word::Delayed), Some(entry)) => {
            let text = entry.node.scalar_text().unwrap_or_default();
            if seconds(&text).is_none() {
                context.sink.error_with_hint(entry.node.place, "`start_in` is no duration", "as in `30 minutes`");
            }
            context.sink.unhandled(entry.place, "`start_in` is not handled yet: the job starts at once", job);
        }
        (Some(Word::Delayed), None) => {
            if let Some(entry) = map.get("when") {
                context.sink.error(entry.node.place, "`when: delayed` needs a `start_in`");
            }
        }
        (_, Some(entry)) => context.sink.error(entry.place, "`start_in` goes with `when: delayed` only"),
        _ => {}
    }
}

/// `timeout` in seconds.
pub(crate) fn timeout(context: &Context<'_>, job: &Map) -> Option<u64> {
    let entry = job.get("timeout").filter(|entry| !entry.node.is_null())?;
    let text = match entry.node.value {
        Value::Text(_) | Value::Int(_) => entry.node.scalar_text()?,
        _ => context.string(&entry.node, "timeout")?,
    };
    let month = 31 * 24 * 3600;
    match seconds(&text) {
        Some(seconds) if seconds > 0 && seconds <= month => Some(seconds),
        Some(_) => {
            context.sink.error(entry.node.place, "`timeout` must be more than nothing and at most a month");
            None
        }
        None => {
            context.sink.error_with_hint(entry.node.place, "`timeout` is no duration", "as in `1h 30m` or `3 hours`");
            None
        }
    }
}

/// A duration as people write it: `1h 30m`, `3 hours and 5 minutes`, `90`, `1:30:00`.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    if text.contains(':') {
        let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        return match parts[..] {
            [minutes, seconds] => minutes.checked_mul(60)?.checked_add(seconds),
            [hours, minutes, seconds] => hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds),
            _ => None,
        };
    }
    let mut total: f64 = 0.0;
    let mut rest = text.trim_start();
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|one: char| !one.is_ascii_digit() && one != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|one: char| !one.is_ascii_alphabetic()).unwrap_or(rest.len());
        total += number * unit(&rest[..letters])?;
        any = true;
        rest = rest[letters..].trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest).trim_start();
    }
    // Far below the largest whole number a float holds exactly.
    if any && total < 1e12 { Some(total as u64) } else { None }
}

fn unit(word: &str) -> Option<f64> {
    Some(match word {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "wk" | "wks" | "week" | "weeks" => 604_800.0,
        "mo" | "mos" | "mon" | "month" | "months" => 2_592_000.0,
        "y" | "yr" | "yrs" | "year" | "years" => 31_557_600.0,
        _ => return None,
    })
}

/// `allow_failure` of a job or a rule.
pub(crate) fn allow_failure(context: &Context<'_>, map: &Map) -> Option<AllowFailure> {
    let entry = map.get("allow_failure").filter(|entry| !entry.node.is_null())?;
    match &entry.node.value {
        Value::Bool(true) => Some(AllowFailure::Yes),
        Value::Bool(false) => Some(AllowFailure::No),
        Value::Map(options) => {
            context.check_keys(options, ("allow_failure", ""), &["exit_codes"], &[]);
            let codes = options.get("exit_codes")?;
            let items = codes.node.list().unwrap_or(std::slice::from_ref(&codes.node));
            Some(AllowFailure::ExitCodes(items.iter().filter_map(|item| exit_code(context, item)).collect()))
        }
        _ => {
            context.wrong(&entry.node, "allow_failure", "true, false or a map with `exit_codes`");
            None
        }
    }
}

fn exit_code(context: &Context<'_>, node: &Node) -> Option<i32> {
    let code = if let Value::Int(code) = node.value { i32::try_from(code).ok() } else { None };
    if code.is_none() {
        context.wrong(node, "allow_failure:exit_codes", "a number or a list of numbers");
    }
    code
}

/// `tags`.
pub(crate) fn tags(context: &Context<'_>, job: &Map) -> Vec<String> {
    match job.get("tags").filter(|entry| !entry.node.is_null()) {
        Some(entry) => match entry.node.list() {
            Some(items) => context.flatten(items, "tags").into_iter().filter_map(|item| context.string(item, "tags")).collect(),
            None => context.strings(&entry.node, "tags"),
        },
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1h 30m", Some(5400)),
            ("3 hours", Some(10800)),
            ("90", Some(90)),
            ("1 week and 2 days", Some(777_600)),
            ("2h20min", Some(8400)),
            ("1:30:00", Some(5400)),
            ("1.5 hours", Some(5400)),
            ("10 minutes, 5 seconds", Some(605)),
            ("soon", None),
            ("", None),
            ("3 parsecs", None),
            ("99999999999999999999 years", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
