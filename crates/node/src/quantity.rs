//! Kubernetes quantities as whole thousandths.
//!
//! `500m`, `1.5Gi`, `1e3`: a decimal number with a suffix. Everything we need (cores in thousandths, bytes) fits into
//! an `i128` of thousandths without a floating point number, so nothing is rounded by accident; what is finer than a
//! thousandth is rounded up, as Kubernetes does.

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a quantity")]
pub struct NotAQuantity(pub String);

/// Digits before and behind the point that are read; more is no sensible amount of anything.
const MOST_DIGITS: usize = 18;

/// Reads a quantity in thousandths of its unit.
pub fn thousandths(text: &str) -> Result<i128, NotAQuantity> {
    parse(text.trim()).ok_or_else(|| NotAQuantity(text.to_owned()))
}

/// Reads a quantity in whole units, rounded up; negative ones count as nothing.
pub fn whole(text: &str) -> Result<u64, NotAQuantity> {
    let amount = thousandths(text)?;
    Ok(u64::try_from(divide_up(amount.max(0), 1000)).unwrap_or(u64::MAX))
}

/// Reads a quantity in thousandths (of a core), rounded up; negative ones count as nothing.
pub fn milli(text: &str) -> Result<u64, NotAQuantity> {
    Ok(u64::try_from(thousandths(text)?.max(0)).unwrap_or(u64::MAX))
}

fn parse(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let (before, behind) = number.split_once('.').unwrap_or((number, ""));
    let sound = before.len() + behind.len() > 0 && before.len().max(behind.len()) <= MOST_DIGITS && !behind.contains('.');
    if !sound {
        return None;
    }
    let mantissa: i128 = format!("0{before}{behind}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(behind.len()).ok()?)?;
    let (multiply, divide) = factor(suffix)?;
    let amount = divide_up(mantissa.checked_mul(multiply)?.checked_mul(1000)?, scale.checked_mul(divide)?);
    Some(if negative { -amount } else { amount })
}

/// What a suffix multiplies by, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    if let Some(binary) = suffix.strip_suffix('i') {
        let power = ["K", "M", "G", "T", "P", "E"].iter().position(|known| *known == binary)?;
        return Some((1_i128 << (10 * (power + 1)), 1));
    }
    let exponent: i32 = match suffix {
        "" => 0,
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() <= 18)?,
    };
    let power = 10_i128.pow(exponent.unsigned_abs());
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

fn divide_up(amount: i128, by: i128) -> i128 {
    amount / by + i128::from(amount % by != 0)
}

#[cfg(test)]
mod tests {
    use super::{milli, thousandths, whole};

    #[test]
    fn quantities_are_read_exactly() {
        for (text, expected) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("128Mi", 134_217_728_000),
            ("2k", 2_000_000),
            ("1u", 1),
            ("-2", -2000),
            ("7Ei", 8_070_450_532_247_928_832_000),
        ] {
            assert_eq!(thousandths(text), Ok(expected), "{text}");
        }
        assert_eq!(whole("100m"), Ok(1), "a part of a byte is a byte");
        assert_eq!(whole("-5"), Ok(0));
        assert_eq!(milli("2"), Ok(2000));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", " ", "Gi", "1GB", "1.2.3", "--1", "1e", "1e99", "0x10", "1 Gi", "1234567890123456789012"] {
            assert!(thousandths(bad).is_err(), "{bad}");
        }
    }
}
