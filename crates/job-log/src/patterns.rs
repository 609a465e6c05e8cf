//! What must not appear in a log, in a form that a text is searched for quickly.
//!
//! Every second position of a text is asked one question: may one of the patterns begin here, or just before? The four
//! bytes there are hashed into a bitmap, which costs the same for one pattern and for ten thousand; an automaton over
//! all patterns falls to a tenth of its speed beyond some hundred (measured), and shards of it multiply the work. The
//! few positions that pass are looked at closely: the patterns with the same first bytes stand beside each other in a sorted list, so that
//! a binary search finds the longest that matches, and the same search tells whether the end of a text may yet
//! become one.

use std::collections::HashMap;

/// Bytes that are hashed.
const GRAM: usize = 4;
/// Bytes that are passed at once, and how many of their positions are not asked.
const BLOCK: usize = 32;
const STEP: usize = 2;
/// 2^13 words of 64 bits: 64 KiB, which stays in a processor's near caches.
const WORDS: usize = 1 << 13;
/// Query parameters whose value is secret (row "framing 9").
const PARAMETERS: [&[u8]; 6] =
    [b"private_token", b"authenticity_token", b"rss_token", b"x-amz-signature", b"x-amz-credential", b"x-amz-security-token"];
/// Most prefixes of tokens (row "framing 9").
const MOST_PREFIXES: usize = 15;
/// The prefix that is always masked.
pub const TOKEN: &str = "glpat-";
/// GitLab's other ones (`FF_MASK_ALL_DEFAULT_TOKENS`).
pub const TOKENS: [&str; 13] = [
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

/// What a pattern of unknown length goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Characters of a token, behind its prefix, at least one.
    Token,
    /// The value of a query parameter.
    Parameter,
}

impl Run {
    /// How far it goes at the beginning of `text`.
    pub fn length(self, text: &[u8]) -> usize {
        let inside: fn(&u8) -> bool = match self {
            Self::Token => |byte| byte.is_ascii_alphanumeric() || b"-._=".contains(byte),
            Self::Parameter => |byte| !byte.is_ascii_whitespace() && !byte.is_ascii_control() && !b"?&".contains(byte),
        };
        text.iter().position(|byte| !inside(byte)).unwrap_or(text.len())
    }
}

/// A match at some position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Length of the longest value that stands there; 0 when none does.
    pub value: usize,
    /// A run, and how far from the position it begins.
    pub run: Option<(usize, Run)>,
}

/// Patterns with their index.
pub struct Patterns {
    /// Sorted, each once.
    values: Vec<Vec<u8>>,
    /// For each value the longest other one that it begins with.
    within: Vec<Option<usize>>,
    prefixes: Vec<Vec<u8>>,
    /// First bytes of patterns, and those from the second on.
    near: Grams,
    /// First bytes of patterns.
    first: Grams,
    /// Values with these first bytes: from, to.
    ranges: HashMap<[u8; GRAM], (usize, usize)>,
    /// First bytes of patterns that are too short to be seen at every second position.
    short: Option<Box<[bool; 256]>>,
    longest: usize,
}

impl Patterns {
    /// Values to mask, and prefixes of tokens that stay visible; more than 15 prefixes are not used.
    pub fn new(values: impl IntoIterator<Item = Vec<u8>>, prefixes: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut values: Vec<_> = values.into_iter().filter(|value| !value.is_empty()).collect();
        values.sort_unstable();
        values.dedup();
        let mut prefixes: Vec<_> = prefixes.into_iter().filter(|prefix| !prefix.is_empty()).collect();
        let mut seen = std::collections::HashSet::new();
        prefixes.retain(|prefix| seen.insert(prefix.clone()));
        prefixes.truncate(MOST_PREFIXES);
        let parameters = PARAMETERS.iter().map(|name| name.len() + 2).max().unwrap_or(0);
        let longest = values.iter().chain(&prefixes).map(Vec::len).max().unwrap_or(0).max(parameters);
        let mut patterns = Self {
            within: within(&values),
            values,
            prefixes,
            near: Grams::new(),
            first: Grams::new(),
            ranges: HashMap::new(),
            short: None,
            longest,
        };
        patterns.index();
        patterns
    }

    fn index(&mut self) {
        for (at, value) in self.values.iter().enumerate() {
            if let Some(gram) = value.first_chunk::<GRAM>() {
                self.ranges.entry(*gram).or_insert((at, at)).1 = at + 1;
            }
        }
        for pattern in self.values.iter().chain(&self.prefixes) {
            for (at, gram) in pattern.windows(GRAM).take(STEP).enumerate() {
                self.near.insert(gram);
                if at == 0 {
                    self.first.insert(gram);
                }
            }
            if pattern.len() < GRAM + STEP - 1 {
                self.short.get_or_insert_with(|| Box::new([false; 256]))[usize::from(pattern[0])] = true;
            }
        }
        for start in parameter_starts() {
            self.near.insert(&start[..GRAM]);
            self.near.insert(&start[1..]);
            self.first.insert(&start[..GRAM]);
        }
    }

    /// The first position from `from` on where something may begin; the last three of a text are always such.
    pub fn next(&self, text: &[u8], from: usize) -> usize {
        let end = text.len().saturating_sub(GRAM - 1).max(from);
        let mut at = from;
        loop {
            let passed = self.skip(text, at);
            // What begins at the last position that was passed is seen from the one behind.
            let begin = if passed > at { passed - 1 } else { at };
            let stop = (passed + BLOCK).min(end);
            match (begin..stop).find(|at| self.may_begin(&text[*at..])) {
                Some(hit) => return hit,
                None if stop >= end => return end,
                None => at = stop,
            }
        }
    }

    /// Passes blocks in which nothing begins; without a branch for each byte, so that a processor does several at once.
    fn skip(&self, text: &[u8], from: usize) -> usize {
        let mut at = from;
        if self.short.is_some() {
            return at;
        }
        while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk::<{ BLOCK + GRAM - 1 }>()) {
            let mut hit = false;
            for index in (0..BLOCK).step_by(STEP) {
                hit |= self.near.has([block[index], block[index + 1], block[index + 2], block[index + 3]]);
            }
            if hit {
                break;
            }
            at += BLOCK;
        }
        at
    }

    fn may_begin(&self, text: &[u8]) -> bool {
        let Some(gram) = text.first_chunk::<GRAM>() else { return true };
        self.first.has(*gram) || self.short.as_ref().is_some_and(|short| short[usize::from(gram[0])])
    }

    /// What stands at the beginning of a text.
    pub fn find(&self, text: &[u8]) -> Found {
        let prefix = self.prefixes.iter().filter(|prefix| text.starts_with(prefix)).map(Vec::len).min();
        let run = match (prefix, parameter(text)) {
            (_, Some(length)) => Some((length, Run::Parameter)),
            (Some(length), None) => Some((length, Run::Token)),
            (None, None) => None,
        };
        Found { value: self.longest_value(text), run }
    }

    /// Length of the longest value that the text begins with.
    fn longest_value(&self, text: &[u8]) -> usize {
        let (from, to) = self.range(text);
        let behind = from + self.values[from..to].partition_point(|value| value.as_slice() <= text);
        // Every value that the text begins with is one that the nearest value before the text begins with, or that
        // value itself.
        let mut candidate = behind.checked_sub(1);
        while let Some(at) = candidate {
            if text.starts_with(&self.values[at]) {
                return self.values[at].len();
            }
            candidate = self.within[at];
        }
        0
    }

    /// Whether a whole text may be the beginning of something, or of something longer.
    pub fn is_open(&self, text: &[u8]) -> bool {
        if text.len() > self.longest {
            return false;
        }
        let (from, to) = self.range(text);
        let behind = from + self.values[from..to].partition_point(|value| value.as_slice() <= text);
        self.values[from..to].get(behind - from).is_some_and(|value| value.starts_with(text))
            || self.prefixes.iter().any(|prefix| prefix.starts_with(text))
            || may_be_parameter(text)
    }

    /// Where values with the first bytes of this text stand.
    fn range(&self, text: &[u8]) -> (usize, usize) {
        match text.first_chunk::<GRAM>() {
            // Shorter values stand elsewhere in the list.
            Some(gram) if self.short.is_none() => self.ranges.get(gram).copied().unwrap_or((0, 0)),
            _ => (0, self.values.len()),
        }
    }
}

/// For each of a sorted list the longest other one that it begins with.
fn within(values: &[Vec<u8>]) -> Vec<Option<usize>> {
    let mut open: Vec<usize> = Vec::new();
    let mut result = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        while open.last().is_some_and(|last| !value.starts_with(&values[*last])) {
            open.pop();
        }
        result.push(open.last().copied());
        open.push(at);
    }
    result
}

/// A set of grams that may have one too many: two bits of one word for each.
struct Grams(Box<[u64; WORDS]>);

impl Grams {
    fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    fn insert(&mut self, gram: &[u8]) {
        if let Some(gram) = gram.first_chunk() {
            let (word, bits) = Self::place(*gram);
            self.0[word] |= bits;
        }
    }

    fn has(&self, gram: [u8; GRAM]) -> bool {
        let (word, bits) = Self::place(gram);
        self.0[word] & bits == bits
    }

    fn place(gram: [u8; GRAM]) -> (usize, u64) {
        // A multiplication spreads all four bytes over the upper bits (the factor is 2^32 over the golden ratio).
        let hash = u32::from_le_bytes(gram).wrapping_mul(0x9E37_79B1);
        ((hash >> 19) as usize, 1 << (hash >> 13 & 63) | 1 << (hash >> 7 & 63))
    }
}

/// Every spelling of the first bytes of a secret parameter.
fn parameter_starts() -> impl Iterator<Item = [u8; GRAM + 1]> {
    let spelled = |separator: u8, name: &'static [u8], upper: u8| {
        let letter = |at: u8| {
            let byte = name[usize::from(at)];
            if upper >> at & 1 == 1 { byte.to_ascii_uppercase() } else { byte }
        };
        [separator, letter(0), letter(1), letter(2), letter(3)]
    };
    let names = PARAMETERS.iter().flat_map(|name| [(b'?', *name), (b'&', *name)]);
    names.flat_map(move |(separator, name)| (0..16).map(move |upper| spelled(separator, name, upper)))
}

/// How far the name of a secret parameter goes, from `?` or `&` to `=`.
fn parameter(text: &[u8]) -> Option<usize> {
    let (separator, rest) = text.split_first()?;
    let names = PARAMETERS.iter().filter(|_| b"?&".contains(separator));
    let named = |name: &&&[u8]| {
        rest.get(name.len()) == Some(&b'=') && rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    names.into_iter().find(named).map(|name| name.len() + 2)
}

fn may_be_parameter(text: &[u8]) -> bool {
    let Some((separator, rest)) = text.split_first() else { return false };
    let begins = |name: &&[u8]| rest.len() <= name.len() && name[..rest.len()].eq_ignore_ascii_case(rest);
    b"?&".contains(separator) && PARAMETERS.iter().any(begins)
}
