//! Durations as Go writes and reads them: that is what people's variables and log searches know.

use std::time::Duration;

/// A duration as Go prints it: `1h0m0s`, `2m5s`, `30s`.
pub fn print(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Reads `90s`, `10m`, `1h30m`, `1.5h`, `500ms` and `0`; `None` for anything else, a number without unit and less than
/// nothing among it.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim().strip_prefix('+').unwrap_or(text.trim());
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = None;
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|one: char| one.is_ascii_digit() || one == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        rest = &rest[end..];
        total = Some(Duration::try_from_secs_f64(number * unit).ok()?.checked_add(total.unwrap_or_default())?);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::{parse, print};
    use std::time::Duration;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (text, milliseconds) in [
            ("1h30m", Some(5_400_000)),
            (" 45s ", Some(45_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("+5m", Some(300_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90", None),
            ("-5m", None),
            ("soon", None),
            ("5 m", None),
            ("m", None),
            ("1e3s", None),
            ("99999999999999999999h", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
        }
        for (seconds, text) in [(3600, "1h0m0s"), (125, "2m5s"), (30, "30s"), (3 * 86_400, "72h0m0s")] {
            assert_eq!(print(Duration::from_secs(seconds)), text);
        }
    }
}
