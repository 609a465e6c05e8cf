//! One line of a log file, in the kubelet's format: `TIME STREAM TAG TEXT`.
//!
//! The tag is `F` for a full line and `P` for a part that the next record goes on with. Text without a line end is
//! written at once as a part, so that a follower sees a prompt when it is printed. Time and stream are padded to a
//! fixed length; so nothing but the text has to be searched.

use k8s_openapi::jiff::Timestamp;

/// Longest text of one record (the kubelet's own).
pub const MOST_TEXT: usize = 16 * 1024;
/// `2026-11-24T16:19:09.123456789Z`.
const TIME: usize = 30;
/// `TIME stdout F `.
pub const HEADER: usize = TIME + 10;

/// Which stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its output.
    Stdout,
    /// Its errors.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How a time stands in the log; always of the same length, so that times compare as texts.
pub const TIME_FORMAT: &str = "%Y-%m-%dT%H:%M:%S.%9fZ";

/// A time as it stands in the log.
pub fn time(now: Timestamp) -> String {
    now.strftime(TIME_FORMAT).to_string()
}

/// Appends what a stream said to `out`, as records.
pub fn encode(now: &str, stream: Stream, bytes: &[u8], out: &mut Vec<u8>) {
    let mut put = |tag: u8, text: &[u8]| {
        out.extend_from_slice(now.as_bytes());
        out.push(b' ');
        out.extend_from_slice(stream.word().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.extend_from_slice(text);
        out.push(b'\n');
    };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (text, whole) = line.strip_suffix(b"\n").map_or((line, false), |text| (text, true));
        let mut parts = text.chunks(MOST_TEXT).peekable();
        if parts.peek().is_none() {
            put(b'F', b"");
        }
        while let Some(part) = parts.next() {
            put(if whole && parts.peek().is_none() { b'F' } else { b'P' }, part);
        }
    }
}

/// One record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When.
    pub time: &'a [u8],
    /// Where.
    pub stream: Stream,
    /// Whether the line ends here.
    pub ends_line: bool,
    /// What.
    pub text: &'a [u8],
}

/// Reads a record without its line end; `None` when it is none.
pub fn decode(line: &[u8]) -> Option<Record<'_>> {
    let (header, text) = line.split_at_checked(HEADER)?;
    let stream = match &header[TIME..TIME + 8] {
        b" stdout " => Stream::Stdout,
        b" stderr " => Stream::Stderr,
        _ => return None,
    };
    Some(Record { time: &header[..TIME], stream, ends_line: header[TIME + 8] == b'F', text })
}

#[cfg(test)]
mod tests {
    use super::{HEADER, MOST_TEXT, Stream, decode, encode, time};
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn lines_and_parts_come_back_as_they_were() {
        let now = time(Timestamp::from_millisecond(1_800_000_000_120).unwrap());
        assert_eq!(now, "2027-01-15T08:00:00.120000000Z");
        let mut out = Vec::new();
        let long = vec![b'x'; MOST_TEXT + 1];
        encode(&now, Stream::Stderr, b"one\n\npart", &mut out);
        encode(&now, Stream::Stderr, &long, &mut out);
        encode(&now, Stream::Stderr, b"\n", &mut out);
        let records: Vec<_> =
            out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| decode(line).unwrap()).collect();
        let shape: Vec<_> = records.iter().map(|record| (record.text.len(), record.ends_line)).collect();
        assert_eq!(shape, [(3, true), (0, true), (4, false), (MOST_TEXT, false), (1, false), (0, true)]);
        assert!(records.iter().all(|record| record.stream == Stream::Stderr && record.time == now.as_bytes()));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[b'x'; HEADER + 3]), None);
    }
}
