//! Traces as lines for people: `job │ line`, in the order they come.
//!
//! A trace is bytes cut anywhere. Lines are held back until they are whole, per job and bounded; GitLab's section
//! markers are for its web page and are left out, and so are the stamps of lines; a carriage return rewrites the line, so
//! only what stands behind the last one is shown. A stamped line that ends in one may go on in the next.

use coordinator::log::parse_stamp;
use std::collections::HashMap;

/// Longest piece of a line that is held back; a longer line is shown in pieces.
const MAX_HELD: usize = 8 * 1024;

/// Turns trace bytes into prefixed lines.
pub struct LogLines {
    width: usize,
    color: bool,
    held: HashMap<String, Held>,
}

/// What of a job is not shown yet.
#[derive(Default)]
struct Held {
    /// Of a line that may go on, without its stamp.
    begun: Vec<u8>,
    /// Of a line that is not whole.
    bytes: Vec<u8>,
}

impl LogLines {
    /// `names` are all jobs, for the width of the prefix; without `color` escape sequences are removed.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, color: bool) -> Self {
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0).min(40);
        Self { width, color, held: HashMap::new() }
    }

    /// The lines that became whole with `bytes` of `job`.
    pub fn push(&mut self, job: &str, bytes: &[u8]) -> Vec<String> {
        let mut held = self.held.remove(job).unwrap_or_default();
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            held.bytes.extend_from_slice(piece);
            if held.bytes.ends_with(b"\n") || held.bytes.len() > MAX_HELD {
                self.take(job, &mut held, &mut lines);
            }
        }
        self.held.insert(job.to_owned(), held);
        lines
    }

    /// What is left of `job` when it has ended.
    pub fn finish(&mut self, job: &str) -> Option<String> {
        let Held { mut begun, bytes } = self.held.remove(job)?;
        begun.extend(bytes);
        if begun.is_empty() { None } else { self.line(job, &begun) }
    }

    /// Turns a line that is whole into what is shown, or keeps it when it is stamped and may go on.
    fn take(&self, job: &str, held: &mut Held, lines: &mut Vec<String>) {
        let bytes = std::mem::take(&mut held.bytes);
        let stamped = parse_stamp(&bytes);
        let text = stamped.map_or(bytes.as_slice(), |stamped| stamped.text);
        if !stamped.is_some_and(|stamped| stamped.continues) && !held.begun.is_empty() {
            lines.extend(self.line(job, &std::mem::take(&mut held.begun)));
        }
        held.begun.extend_from_slice(text);
        let rewritten = text.ends_with(b"\r\n") || text.ends_with(b"\r\x1b[0K\n");
        if stamped.is_some() && rewritten && held.begun.len() < MAX_HELD {
            held.begun.pop();
        } else {
            lines.extend(self.line(job, &std::mem::take(&mut held.begun)));
        }
    }

    fn line(&self, job: &str, bytes: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(bytes);
        let had_marker = text.contains("section_start:") || text.contains("section_end:");
        let text = without_markers(text.trim_end_matches(['\n', '\r']));
        let shown = text.rsplit('\r').next().unwrap_or_default();
        let plain = console::strip_ansi_codes(shown);
        if plain.is_empty() && had_marker {
            return None;
        }
        let prefix = format!("{job:<width$} │ ", width = self.width);
        Some(if self.color {
            format!("{}{shown}\x1b[0m", console::style(prefix).dim().force_styling(true))
        } else {
            format!("{prefix}{plain}")
        })
    }
}

/// Removes `section_start:…\r` and `section_end:…\r` wherever they stand.
fn without_markers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["section_start:", "section_end:"].iter().filter_map(|marker| rest.find(marker)).min() {
        out.push_str(&rest[..at]);
        let marker = &rest[at..];
        match marker.find('\r') {
            Some(end) => rest = marker[end + 1..].strip_prefix("\x1b[0K").unwrap_or(&marker[end + 1..]),
            None if looks_like_marker(marker) => rest = "",
            None => {
                out.push_str(&marker[..8]);
                rest = &marker[8..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A marker at the end of a line whose carriage return was trimmed with it.
fn looks_like_marker(text: &str) -> bool {
    text.split(':').nth(1).is_some_and(|seconds| !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::LogLines;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut log = LogLines::new(["a", "build"].into_iter(), false);
        let mut out: Vec<_> = pieces.iter().flat_map(|piece| log.push("a", piece.as_bytes())).collect();
        out.extend(log.finish("a"));
        out
    }

    #[test]
    fn lines_are_whole_and_named_however_the_trace_was_cut() {
        for pieces in [&["one\ntwo\nthree"][..], &["on", "e\ntw", "o\nthr", "ee"]] {
            assert_eq!(lines(pieces), ["a     │ one", "a     │ two", "a     │ three"]);
        }
    }

    #[test]
    fn section_markers_and_rewritten_text_are_not_shown() {
        let text = "section_start:17:get_sources\r\x1b[0K\x1b[36;1mGetting source\x1b[0;m\nsection_end:18:get_sources\r\x1b[0K\n10%\r100%\n";
        assert_eq!(lines(&[text]), ["a     │ Getting source", "a     │ 100%"]);
        assert_eq!(lines(&["say section_start: please\n"]), ["a     │ say section_start: please"]);
    }

    #[test]
    fn stamps_are_not_shown_and_lines_that_go_on_are_one() {
        let stamped = |mark: &str, text: &str| format!("2026-11-24T22:46:05.123456Z 00O{mark}{text}\n");
        let trace = [
            stamped(" ", "section_start:17:x\r\x1b[0K"),
            stamped("+", "\x1b[36;1mtitle\x1b[0;m"),
            stamped(" ", "10%\r"),
            stamped("+", "100%"),
            stamped(" ", "windows\r"),
            stamped(" ", "section_end:18:x\r\x1b[0K"),
        ];
        assert_eq!(lines(&[&trace.concat()]), ["a     │ title", "a     │ 100%", "a     │ windows"]);
        let bytes: Vec<String> = trace.concat().chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(lines(&bytes), ["a     │ title", "a     │ 100%", "a     │ windows"]);
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces_and_memory_stays_bounded() {
        let shown = lines(&["x".repeat(5000).as_str(), "x".repeat(5000).as_str(), "x".repeat(10).as_str()]);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown.iter().map(|line| line.matches('x').count()).sum::<usize>(), 10010);
    }
}
