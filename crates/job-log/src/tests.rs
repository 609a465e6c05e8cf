//! The stations together.

use super::Log;
use super::patterns::{Patterns, TOKEN};
use gitlab_api::log::{STAMP, Stream, without_stamps};
use proptest::prelude::*;

fn log(stamped: bool) -> Log {
    Log::new(Patterns::new([b"hunter22".to_vec(), "größe-secret".as_bytes().to_vec()], [TOKEN.as_bytes().to_vec()]), stamped)
}

fn written(stamped: bool, pieces: &[(Stream, &[u8])]) -> String {
    let mut log = log(stamped);
    let mut out: Vec<u8> = pieces.iter().flat_map(|(stream, bytes)| log.push(*stream, bytes, 0)).collect();
    out.extend(log.finish(0));
    String::from_utf8(out).expect("a trace is UTF-8")
}

#[test]
fn secrets_are_taken_out_before_lines_are_cut_and_stamped() {
    let text = written(true, &[(Stream::WORK, b"a hunt"), (Stream::WORK, b"er22 \xff b\nglpat-x\r")]);
    let lines: Vec<_> = text.split_inclusive('\n').map(|line| &line[STAMP - 4..]).collect();
    assert_eq!(lines, ["01O a [MASKED] \u{fffd} b\n", "01O glpat-[MASKED]\r\n"]);
}

#[test]
fn a_line_on_another_stream_does_not_tear_a_secret_apart() {
    let pieces: [(Stream, &[u8]); 3] = [(Stream::WORK, b"hunt"), (Stream::RUNNER, b"WARNING\n"), (Stream::WORK, b"er22\n")];
    assert_eq!(written(false, &pieces), "WARNING\n[MASKED]\n");
}

#[test]
fn without_stamps_bytes_pass_as_they_are() {
    assert_eq!(written(false, &[(Stream::WORK, b"a\rb\r\n\x1b[31mc")]), "a\rb\r\n\x1b[31mc");
}

#[test]
fn work_begins_a_new_line_after_a_stage_and_the_runner_goes_on() {
    let mut log = log(true);
    let mut marks = |stream, text: &str| {
        let out = String::from_utf8(log.push(stream, text.as_bytes(), 0)).unwrap();
        let rest = String::from_utf8(log.finish(0)).unwrap();
        format!("{out}{rest}").lines().map(|line| line[STAMP - 1..].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(marks(Stream::WORK, "10%\r\x1b[0K"), [" 10%\r\x1b[0K"]);
    assert_eq!(marks(Stream::WORK, "no newline"), [" no newline"]);
    assert_eq!(marks(Stream::RUNNER, "section_end:1:a\r\x1b[0K"), [" section_end:1:a\r\x1b[0K"]);
    assert_eq!(marks(Stream::RUNNER, "section_start:1:b\r\x1b[0K"), ["+section_start:1:b\r\x1b[0K"]);
}

proptest! {
    #[test]
    fn a_trace_does_not_depend_on_how_each_stream_was_cut(
        parts in prop::collection::vec((any::<bool>(), r"(hunter22|hunt|größe-secret|größe|\n|\r|\x1b\[0K|glpat-x|x{1,40}){0,6}"), 0..6),
        cuts in prop::collection::vec(1usize..9, 1..9), stamped in any::<bool>(),
    ) {
        let stream = |work: &bool| if *work { Stream::WORK } else { Stream::RUNNER };
        let whole: Vec<_> = parts.iter().map(|(work, text)| (stream(work), text.as_bytes())).collect();
        let mut sizes = cuts.iter().cycle();
        let mut pieces = Vec::new();
        for (stream, mut text) in whole.clone() {
            while !text.is_empty() {
                let (piece, rest) = text.split_at((*sizes.next().unwrap()).min(text.len()));
                pieces.push((stream, piece));
                text = rest;
            }
        }
        // Streams are compared apart: which of two lines stands first depends on which was whole first.
        let of = |pieces: &[(Stream, &[u8])], wanted| {
            let pieces: Vec<_> = pieces.iter().copied().filter(|(stream, _)| *stream == wanted).collect();
            written(stamped, &pieces)
        };
        for wanted in [Stream::WORK, Stream::RUNNER] {
            prop_assert_eq!(of(&pieces, wanted), of(&whole, wanted));
        }
        let all = written(stamped, &pieces);
        prop_assert!(!all.contains("hunter22") && !all.contains("größe-secret"));
        if stamped {
            let text = String::from_utf8(without_stamps(all.as_bytes())).unwrap();
            prop_assert!(!text.contains("hunter22"), "{}", text);
        }
    }
}
