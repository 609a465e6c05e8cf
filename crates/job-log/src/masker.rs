//! Takes what must not appear out of a stream of bytes, however it is cut into writes.
//!
//! Every place where a value stands is hidden whole: values that overlap are hidden together, by one `[MASKED]`, and so
//! is a value that overlaps the value of a query parameter or what follows the prefix of a token. GitLab Runner
//! replaces one kind after the other, the longest values first, and may show the rest of a value of which another
//! took a part. The end of a write is held back from the first byte on that could be the beginning of something;
//! anything else leaves at once, so that a prompt without a newline is not delayed.

use super::patterns::{Patterns, Run};
use std::sync::Arc;

/// What stands for it (GitLab's own).
pub const REPLACEMENT: &[u8] = b"[MASKED]";

/// A stream with its secrets taken out.
pub struct Masker {
    patterns: Arc<Patterns>,
    held: Vec<u8>,
    /// So many of the bytes held back are hidden already.
    hidden: usize,
    /// What is hidden goes on as long as these do.
    runs: Vec<Run>,
}

/// A part of the text that is hidden.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Where the pattern begins that this is of.
    of: usize,
    start: usize,
    end: usize,
    /// It may go on behind the end of the text.
    run: Option<Run>,
}

impl Masker {
    /// Before the first byte.
    pub fn new(patterns: Arc<Patterns>) -> Self {
        Self { patterns, held: Vec::new(), hidden: 0, runs: Vec::new() }
    }

    /// Appends to `out` what may leave after `bytes` came.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.held.is_empty() {
            let left = self.pass(bytes, out, false);
            self.held.extend_from_slice(&bytes[left..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let left = self.pass(&held, out, false);
            held.drain(..left);
            self.held = held;
        }
    }

    /// Appends what is left at the end; what comes then is another text.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.pass(&held, out, true);
        self.hidden = 0;
        self.runs.clear();
    }

    /// Lets go the beginning of `text`; answers how much of it.
    fn pass(&mut self, text: &[u8], out: &mut Vec<u8>, last: bool) -> usize {
        self.go_on(text);
        let (mut spans, mut limit) = self.look(text, last);
        // What begins inside of a pattern whose end is not clear yet is looked at again together with it.
        for span in spans.iter().rev() {
            if span.of < limit && span.start > limit {
                limit = span.of;
            }
        }
        spans.retain(|span| span.of < limit);
        spans.sort_unstable_by_key(|span| span.start);
        out.reserve(limit);
        let (mut at, mut hidden) = (self.hidden.min(limit), self.hidden);
        for span in &spans {
            if span.start >= hidden {
                out.extend_from_slice(&text[at..span.start]);
                out.extend_from_slice(REPLACEMENT);
            }
            hidden = hidden.max(span.end);
            at = hidden.min(limit).max(span.start);
            self.runs.extend(span.run);
        }
        if at < limit {
            out.extend_from_slice(&text[at..limit]);
        }
        self.hidden = hidden.saturating_sub(limit);
        limit
    }

    /// What was hidden to the end of the text before may go on.
    fn go_on(&mut self, text: &[u8]) {
        let (from, mut to) = (self.hidden, self.hidden);
        self.runs.retain(|run| {
            let end = from + run.length(&text[from..]);
            to = to.max(end);
            end == text.len()
        });
        self.hidden = to;
    }

    /// Everything that is to be hidden, and the first position that is not clear yet.
    fn look(&self, text: &[u8], last: bool) -> (Vec<Span>, usize) {
        let (mut spans, mut at) = (Vec::new(), 0);
        loop {
            at = self.patterns.next(text, at);
            if at >= text.len() {
                return (spans, text.len());
            }
            let rest = &text[at..];
            if !last && self.patterns.is_open(rest) {
                return (spans, at);
            }
            let found = self.patterns.find(rest);
            if found.value > 0 {
                spans.push(Span { of: at, start: at, end: at + found.value, run: None });
            }
            if let Some((before, run)) = found.run {
                let start = at + before;
                let end = start + run.length(&text[start..]);
                if end > start || run == Run::Parameter {
                    spans.push(Span { of: at, start, end, run: (end == text.len()).then_some(run) });
                }
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Masker;
    use crate::patterns::{Patterns, TOKEN, TOKENS};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn masker(values: &[&str], prefixes: &[&str]) -> Masker {
        let bytes = |list: &[&str]| list.iter().map(|one| one.as_bytes().to_vec()).collect::<Vec<_>>();
        Masker::new(Arc::new(Patterns::new(bytes(values), bytes(prefixes))))
    }

    fn through(mut masker: Masker, pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| masker.push(piece, &mut out));
        masker.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn masked(values: &[&str], pieces: &[&[u8]]) -> String {
        through(masker(values, &[]), pieces)
    }

    /// The same by looking everywhere for everything.
    fn naively(values: &[&str], text: &str) -> String {
        let places = |value: &str| (0..text.len()).filter(|at| text[*at..].starts_with(value)).collect::<Vec<_>>();
        let mut spans: Vec<_> =
            values.iter().flat_map(|value| places(value).into_iter().map(|at| (at, at + value.len()))).collect();
        spans.sort_unstable();
        let (mut out, mut at) = (String::new(), 0);
        for (start, end) in spans {
            if start >= at {
                out.push_str(&text[at..start]);
                out.push_str("[MASKED]");
            }
            at = at.max(end);
        }
        out + &text[at..]
    }

    #[test]
    fn the_longest_value_wins_and_cuts_do_not_matter() {
        assert_eq!(masked(&["secret", "secret-long"], &[b"a secret-long b secret c"]), "a [MASKED] b [MASKED] c");
        let bytes: Vec<&[u8]> = b"x hunter22 y".chunks(1).collect();
        assert_eq!(masked(&["hunter22"], &bytes), "x [MASKED] y");
    }

    #[test]
    fn values_that_overlap_are_hidden_whole() {
        assert_eq!(masked(&["first-half", "half-second"], &[b"a first-half-second b"]), "a [MASKED] b");
        assert_eq!(masked(&["hunter22"], &[b"hunter22hunter22"]), "[MASKED][MASKED]");
    }

    #[test]
    fn what_cannot_become_a_value_leaves_at_once() {
        let mut masker = masker(&["hunter22"], &[TOKEN]);
        let mut push = |text: &str| {
            let mut out = Vec::new();
            masker.push(text.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(["prompt> ", "hun", "t", "!"].map(&mut push), ["prompt> ", "", "", "hunt!"]);
        assert_eq!(["line\n", "gl", "pat-", "abc", " x"].map(&mut push), ["line\n", "", "", "glpat-[MASKED]", " x"]);
    }

    #[test]
    fn what_follows_the_prefix_of_a_token_is_hidden() {
        let prefixes: Vec<&str> = [TOKEN].into_iter().chain(TOKENS).collect();
        for (text, shown) in [
            ("glpat-abc_DEF=1.2-3 next", "glpat-[MASKED] next"),
            ("xglrt-abc/def", "xglrt-[MASKED]/def"),
            ("glpat- alone", "glpat- alone"),
            ("glpat-", "glpat-"),
            ("glglpat-a", "glglpat-[MASKED]"),
            ("_gitlab_session=12ab; path=/", "_gitlab_session=[MASKED]; path=/"),
            ("glpat-a\nglagent-b", "glpat-[MASKED]\nglagent-[MASKED]"),
        ] {
            assert_eq!(through(masker(&[], &prefixes), &[text.as_bytes()]), shown);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(through(masker(&[], &prefixes), &bytes), shown, "byte by byte");
        }
    }

    #[test]
    fn only_fifteen_prefixes_are_used() {
        let prefixes: Vec<String> = (0..20).map(|number| format!("prefix{number:02}-")).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        let text = b"prefix14-abc prefix15-abc";
        assert_eq!(through(masker(&[], &prefixes), &[text]), "prefix14-[MASKED] prefix15-abc");
    }

    #[test]
    fn secret_parameters_of_urls_are_hidden() {
        for (text, shown) in [
            ("http://h/?private_token=abc&x=1", "http://h/?private_token=[MASKED]&x=1"),
            ("?x=1&X-Amz-Signature=0f/0f next", "?x=1&X-Amz-Signature=[MASKED] next"),
            ("?RSS_TOKEN=a?authenticity_token=b\x1b[0m", "?RSS_TOKEN=[MASKED]?authenticity_token=[MASKED]\x1b[0m"),
            ("&x-amz-credential=&x-amz-security-token=", "&x-amz-credential=[MASKED]&x-amz-security-token=[MASKED]"),
            ("private_token=abc ?privat_token=abc", "private_token=abc ?privat_token=abc"),
        ] {
            assert_eq!(masked(&[], &[text.as_bytes()]), shown);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(masked(&[], &bytes), shown, "byte by byte");
        }
    }

    #[test]
    fn a_value_that_reaches_into_a_token_or_a_parameter_is_hidden_whole() {
        for (value, text, shown) in [
            ("pat-abcd", "glpat-abcd", "gl[MASKED]"),
            ("cd!efghi", "glpat-abcd!efghi.", "glpat-[MASKED]."),
            ("cd&efghi", "?rss_token=abcd&efghi=1", "?rss_token=[MASKED]=1"),
            ("glpat-ab", "a glpat-abcd", "a [MASKED]"),
        ] {
            assert_eq!(through(masker(&[value], &[TOKEN]), &[text.as_bytes()]), shown);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(through(masker(&[value], &[TOKEN]), &bytes), shown, "byte by byte");
        }
    }

    #[test]
    fn a_run_that_does_not_end_takes_no_memory() {
        let mut masker = masker(&[], &[TOKEN]);
        let mut out = Vec::new();
        masker.push(b"glpat-", &mut out);
        for _ in 0..100 {
            masker.push(&[b'a'; 100_000], &mut out);
            assert!(masker.held.len() < 100);
        }
        masker.finish(&mut out);
        assert_eq!(out, b"glpat-[MASKED]");
    }

    fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
        places.sort_unstable();
        places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_split_of_any_text_leaks_a_part_of_a_value(
            text in "[ab]{0,60}", values in prop::collection::vec("[ab]{1,9}", 1..20), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            prop_assert_eq!(masked(&values, &cut(&text, &cuts)), naively(&values, &text));
        }

        #[test]
        fn long_values_in_a_long_text_are_found_everywhere(
            text in "(abcdefgh|bcdefgha|x{1,30}|h){0,40}", values in prop::collection::vec("(abcdefgh|gh|bcdef){1,3}", 1..9),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).filter(|value| value.len() >= 4).collect();
            prop_assert_eq!(masked(&values, &cut(&text, &cuts)), naively(&values, &text));
        }

        #[test]
        fn cuts_do_not_matter_to_tokens_and_parameters(
            text in r"(glpat-|glpa|[?&]|rss_token|=|abc|pat-a|\n|RSS_|-){0,20}", values in prop::collection::vec("(glpat-|pat-|abc|a|rss|=a|&r){1,3}", 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let whole = through(masker(&values, &[TOKEN, "ab"]), &[text.as_bytes()]);
            prop_assert_eq!(&through(masker(&values, &[TOKEN, "ab"]), &cut(&text, &cuts)), &whole);
            let shown = whole.replace("[MASKED]", "\0");
            for value in values {
                prop_assert!(!shown.contains(value), "{} in {}", value, whole);
            }
        }
    }
}
