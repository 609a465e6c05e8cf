//! The look of a job's log, byte for byte: stamps in front of lines, section markers.
//!
//! GitLab's web page and whoever shows a trace read them, agent and manager write them. A stamped line is
//! `2026-11-24T22:46:05.123456Z 01O text`: UTC time with microseconds, number and letter of its stream, and a blank or,
//! when the line goes on where the one before of its stream stopped, a `+`. Pure: the caller has the clock.

/// Length of a stamp with everything up to the text.
pub const STAMP: usize = 32;
/// Erases what stands in the line; GitLab's page takes the section marker before it away.
pub const ERASE: &str = "\x1b[0K";

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    number: u8,
    letter: u8,
}

impl Stream {
    /// Messages of the runner.
    pub const RUNNER: Self = Self { number: 0, letter: b'O' };
    /// Output of the job's work.
    pub const WORK: Self = Self { number: 1, letter: b'O' };
    /// Error output of the job's work, where it comes apart.
    pub const WORK_ERRORS: Self = Self { number: 1, letter: b'E' };

    /// Output of a service, counted from 0.
    pub fn service(index: u8) -> Self {
        Self { number: index.saturating_add(15), letter: b'O' }
    }
}

/// The stamp of a line whose first byte came at `micros` after 1970.
pub fn stamp(micros: u64, stream: Stream, continues: bool) -> [u8; STAMP] {
    let mut out = *b"0000-00-00T00:00:00.000000Z 00O ";
    let (seconds, days) = (micros / 1_000_000, micros / 86_400_000_000);
    let (year, month, day) = date(days);
    let mut put = |at: usize, digits: usize, mut value: u64| {
        for place in (at..at + digits).rev() {
            out[place] = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, seconds / 3600 % 24);
    put(14, 2, seconds / 60 % 60);
    put(17, 2, seconds % 60);
    put(20, 6, micros % 1_000_000);
    let hex = b"0123456789abcdef";
    out[28] = hex[usize::from(stream.number >> 4)];
    out[29] = hex[usize::from(stream.number & 15)];
    out[30] = stream.letter;
    if continues {
        out[31] = b'+';
    }
    out
}

/// Year, month and day of a number of days since 1970 (years counted from March, so that the leap day is the last).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// A stamped line taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped<'a> {
    /// Where it comes from.
    pub stream: Stream,
    /// Whether it goes on where the line before of its stream stopped.
    pub continues: bool,
    /// What stands behind the stamp.
    pub text: &'a [u8],
}

/// Takes a line apart that begins with a stamp.
pub fn parse_stamp(line: &[u8]) -> Option<Stamped<'_>> {
    let (stamp, text) = line.split_at_checked(STAMP)?;
    let fits = b"0000-00-00T00:00:00.000000Z ".iter().zip(stamp).all(|(wanted, byte)| match wanted {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    });
    let number = u8::from_str_radix(std::str::from_utf8(&stamp[28..30]).ok()?, 16).ok()?;
    let known = fits && matches!(stamp[30], b'O' | b'E') && matches!(stamp[31], b' ' | b'+');
    known.then_some(Stamped { stream: Stream { number, letter: stamp[30] }, continues: stamp[31] == b'+', text })
}

/// A trace as its text was before it was stamped; lines without a stamp stay as they are.
pub fn without_stamps(trace: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(trace.len());
    let mut last = None;
    for line in trace.split_inclusive(|byte| *byte == b'\n') {
        let Some(stamped) = parse_stamp(line) else {
            last = None;
            out.extend_from_slice(line);
            continue;
        };
        if stamped.continues && last == Some(stamped.stream) && out.last() == Some(&b'\n') {
            out.pop();
        }
        last = Some(stamped.stream);
        out.extend_from_slice(stamped.text);
    }
    out
}

/// Whole lines of the runner's own, stamped.
pub fn stamped_lines(text: &[u8], micros: u64) -> Vec<u8> {
    let stamp = stamp(micros, Stream::RUNNER, false);
    text.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [&stamp[..], line].concat()).collect()
}

/// Opens a section; its title line follows at once. `options` are GitLab's words in brackets, or nothing.
pub fn section_start(seconds: u64, id: &str, options: &str) -> String {
    format!("section_start:{seconds}:{id}{options}\r{ERASE}")
}

/// Closes a section.
pub fn section_end(seconds: u64, id: &str) -> String {
    format!("section_end:{seconds}:{id}\r{ERASE}")
}

#[cfg(test)]
mod tests {
    use super::{STAMP, Stream, parse_stamp, section_end, section_start, stamp, stamped_lines, without_stamps};

    #[test]
    fn a_stamp_has_time_stream_and_a_mark_for_going_on() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let stamp = stamp(seconds * 1_000_000 + 42, Stream::WORK, false);
            assert_eq!(String::from_utf8_lossy(&stamp), format!("{text}.000042Z 01O "));
        }
        assert_eq!(&stamp(0, Stream::RUNNER, true)[28..], b"00O+");
        assert_eq!(&stamp(0, Stream::WORK_ERRORS, false)[28..], b"01E ");
        assert_eq!(&stamp(0, Stream::service(1), false)[28..], b"10O ");
        assert_eq!(STAMP, stamp(0, Stream::service(0), false).len());
    }

    #[test]
    fn what_was_stamped_is_read_again() {
        let line = [&stamp(7, Stream::service(0), true)[..], b"text\n"].concat();
        let read = parse_stamp(&line).unwrap();
        assert_eq!((read.stream, read.continues, read.text), (Stream::service(0), true, &b"text\n"[..]));
        for odd in [&b"2026-11-24 is a date, not a stamp, and long\n"[..], b"", b"2026-11-24T22:46:05.123456Z 01X text"] {
            assert_eq!(parse_stamp(odd), None);
        }
    }

    #[test]
    fn lines_that_go_on_are_joined_when_stamps_are_taken_away() {
        let parts: [(Stream, bool, &[u8]); 4] = [
            (Stream::RUNNER, false, b"section_start:1:a\r\x1b[0K\n"),
            (Stream::RUNNER, true, b"title\n"),
            (Stream::WORK, false, b"one\n"),
            (Stream::RUNNER, true, b"apart\n"),
        ];
        let trace = parts.map(|(stream, continues, text)| [&stamp(5, stream, continues)[..], text].concat()).concat();
        assert_eq!(without_stamps(&trace), b"section_start:1:a\r\x1b[0Ktitle\none\napart\n");
        assert_eq!(without_stamps(b"not\nstamped"), b"not\nstamped");
    }

    #[test]
    fn each_line_of_the_runner_gets_a_stamp() {
        let text = String::from_utf8(stamped_lines(b"one\ntwo\n", 0)).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000000Z 00O one\n1970-01-01T00:00:00.000000Z 00O two\n");
    }

    #[test]
    fn sections_are_marked_as_gitlab_reads_them() {
        assert_eq!(section_start(9, "step_script", ""), "section_start:9:step_script\r\x1b[0K");
        assert_eq!(section_start(9, "x", "[collapsed=true]"), "section_start:9:x[collapsed=true]\r\x1b[0K");
        assert_eq!(section_end(10, "x"), "section_end:10:x\r\x1b[0K");
    }
}
