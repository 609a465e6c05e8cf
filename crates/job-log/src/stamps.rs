//! Cuts a stream into lines and puts a stamp in front of each (rows "framing 1" to "framing 3").
//!
//! A line ends at its newline. Without one it is written in pieces, so that memory is bounded and a progress bar is
//! seen: behind a carriage return together with the erase code that belongs to it, and after 8 KiB. Each next piece is
//! marked as going on. GitLab Runner cuts at a carriage return where a write happens to end; here only the bytes
//! decide, so that a trace does not depend on how a pipe was read. For its section markers both come to the same.

use gitlab_api::log::{STAMP, Stream, stamp};
use memchr::memchr2;

/// Longest piece.
const PIECE: usize = 8 * 1024;
/// Most digits of an erase code.
const DIGITS: usize = 3;

/// One stream of lines.
pub struct Stamps {
    stream: Stream,
    held: Vec<u8>,
    /// When the first byte that is held back came.
    since: u64,
    continues: bool,
}

/// Where a piece ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Behind so many bytes, the last of which is a newline.
    Line(usize),
    /// Behind so many bytes, and the line goes on.
    Piece(usize),
    /// More bytes have to come.
    Unknown,
}

impl Stamps {
    /// Before the first byte.
    pub fn new(stream: Stream) -> Self {
        Self { stream, held: Vec::new(), since: 0, continues: false }
    }

    /// The pieces that became whole with `bytes`, which came at `micros`; the text is UTF-8, cut between characters.
    pub fn push(&mut self, bytes: &[u8], micros: u64) -> Vec<u8> {
        if self.held.is_empty() {
            self.since = micros;
        }
        self.held.extend_from_slice(bytes);
        let mut text = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(text.len() + text.len() / 2 + STAMP);
        let mut at = 0;
        loop {
            match end(&text[at..]) {
                End::Line(length) => {
                    self.put(&text[at..at + length], false, &mut out);
                    at += length;
                }
                End::Piece(length) => {
                    self.put(&text[at..at + length], true, &mut out);
                    at += length;
                }
                End::Unknown => break,
            }
            self.since = micros;
        }
        text.drain(..at);
        self.held = text;
        out
    }

    /// What is left at the end, as a line.
    pub fn finish(&mut self) -> Vec<u8> {
        let (text, mut out) = (std::mem::take(&mut self.held), Vec::new());
        if !text.is_empty() {
            self.put(&text, true, &mut out);
            self.continues = false;
        }
        out
    }

    fn put(&mut self, text: &[u8], goes_on: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&stamp(self.since, self.stream, self.continues));
        out.extend_from_slice(text);
        if goes_on {
            out.push(b'\n');
        }
        self.continues = goes_on;
    }
}

/// Where the first piece of a text ends.
fn end(text: &[u8]) -> End {
    match memchr2(b'\n', b'\r', &text[..text.len().min(PIECE)]) {
        Some(at) if text[at] == b'\n' => End::Line(at + 1),
        Some(at) => end_at_return(text, at),
        None if text.len() < PIECE => End::Unknown,
        None => End::Piece(between_characters(text)),
    }
}

/// The same for a text whose first carriage return is known.
fn end_at_return(text: &[u8], at: usize) -> End {
    let behind = text[at..].iter().position(|byte| *byte != b'\r').map_or(text.len(), |more| at + more);
    if behind >= PIECE {
        return End::Piece(PIECE);
    }
    match text.get(behind) {
        None => End::Unknown,
        Some(b'\n') => End::Line(behind + 1),
        Some(_) => erase_code(&text[behind..]).map_or(End::Unknown, |length| End::Piece(behind + length)),
    }
}

/// Length of the code that erases a line, 0 when the text begins with another; `None` when it may yet become one.
fn erase_code(text: &[u8]) -> Option<usize> {
    let digits = text.iter().skip(2).take(DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    for (at, wanted) in [(0, b'\x1b'), (1, b'['), (2 + digits, b'K')] {
        match text.get(at) {
            None => return None,
            Some(byte) if *byte != wanted => return Some(0),
            Some(_) => {}
        }
    }
    Some(3 + digits)
}

/// The last place between two characters in the longest piece.
fn between_characters(text: &[u8]) -> usize {
    let starts = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (PIECE - 3..=PIECE).rev().find(starts).unwrap_or(PIECE)
}

#[cfg(test)]
mod tests {
    use super::{PIECE, Stamps};
    use gitlab_api::log::{STAMP, Stream, without_stamps};
    use proptest::prelude::*;

    fn through(pieces: &[&str]) -> String {
        let mut stamps = Stamps::new(Stream::WORK);
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| stamps.push(piece.as_bytes(), 0)).collect();
        out.extend(stamps.finish());
        String::from_utf8(out).unwrap()
    }

    /// The lines with only the mark of their stamps.
    fn marked(pieces: &[&str]) -> Vec<String> {
        through(pieces).split_inclusive('\n').map(|line| line[STAMP - 1..].to_owned()).collect()
    }

    #[test]
    fn each_line_begins_with_its_time_and_stream() {
        let mut stamps = Stamps::new(Stream::RUNNER);
        let mut text = stamps.push(b"one\ntw", 1_000_000);
        text.extend(stamps.push(b"o\nthree\n", 2_000_001));
        let expected =
            "1970-01-01T00:00:01.000000Z 00O one\n1970-01-01T00:00:01.000000Z 00O two\n1970-01-01T00:00:02.000001Z 00O three\n";
        assert_eq!(String::from_utf8_lossy(&text), expected, "the time is that of the first byte of a line");
    }

    #[test]
    fn a_carriage_return_ends_a_piece_and_keeps_its_erase_code() {
        assert_eq!(marked(&["10%\r20%\r30%\n"]), [" 10%\r\n", "+20%\r\n", "+30%\n"]);
        assert_eq!(marked(&["windows\r\nlines\r\n"]), [" windows\r\n", " lines\r\n"]);
        assert_eq!(marked(&["a\r\r\x1b[2Kb\r\x1b[31mred\n"]), [" a\r\r\x1b[2K\n", "+b\r\n", "+\x1b[31mred\n"]);
    }

    #[test]
    fn a_section_marker_is_a_piece_and_its_title_goes_on() {
        let text = ["section_start:1:x\r\x1b[0K", "\x1b[0Ktitle\n", "section_end:2:x\r\x1b[0K", "section_start:3:y\r\x1b[0K"];
        let wanted =
            [" section_start:1:x\r\x1b[0K\n", "+\x1b[0Ktitle\n", " section_end:2:x\r\x1b[0K\n", "+section_start:3:y\r\x1b[0K\n"];
        assert_eq!(marked(&text), wanted);
        let mut stamps = Stamps::new(Stream::RUNNER);
        assert!(!stamps.push(text[0].as_bytes(), 0).is_empty(), "a marker leaves without waiting for more");
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_whole_characters() {
        let text = format!("x{}\n", "€".repeat(PIECE / 2));
        let lines = marked(&[&text]);
        assert_eq!((lines.len(), &lines[1][..1]), (2, "+"));
        assert!(lines.iter().all(|line| line.len() <= PIECE + 2));
        assert_eq!(without_stamps(through(&[&text]).as_bytes()), text.as_bytes());
    }

    #[test]
    fn what_is_left_becomes_a_line() {
        assert_eq!(marked(&["prompt> "]), [" prompt> \n"]);
        assert_eq!(marked(&["half\r"]), [" half\r\n"]);
    }

    proptest! {
        #[test]
        fn framing_does_not_depend_on_how_the_text_was_cut(
            text in r"(x{1,5}|\r|\n|\r\n|\x1b\[0K|\x1b\[12m|\x1b|é|x{8180,8190}){0,12}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<&str> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(through(&pieces), through(&[&text]));
        }

        #[test]
        fn the_text_is_what_is_left_without_stamps(text in r"(x{1,5}|\n|\r\n|é|x{8180,8190}){0,12}\n") {
            let stamped = through(&[&text]);
            prop_assert_eq!(without_stamps(stamped.as_bytes()), text.as_bytes());
        }
    }
}
