//! Ages as kubectl writes them: two units at most, and fewer as things grow old.

use serde_json::Value;

/// Time since a time stamp of an object.
pub fn since(time: &Value) -> String {
    let parsed = time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    parsed.map_or_else(|| "<unknown>".to_owned(), |time| text(jiff::Timestamp::now().duration_since(time).as_secs()))
}

fn text(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match seconds {
        // The clock of another machine may be a little ahead.
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn ages_grow_coarse() {
        for (seconds, expected) in
            [(-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (3600, "60m"), (3 * 3600 + 60, "3h1m")]
        {
            assert_eq!(text(seconds), expected);
        }
        assert_eq!(text(30 * 3600), "30h");
        assert_eq!(text(50 * 3600), "2d2h");
        assert_eq!(text(400 * 86_400), "400d");
        assert_eq!(text(800 * 86_400), "2y70d");
        assert_eq!(text(9 * 365 * 86_400), "9y");
    }
}
