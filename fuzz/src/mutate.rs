//! Changes inputs at random: bytes, numbers, words of the format, pieces of other inputs.

/// Longest input.
const LONGEST: usize = 64 * 1024;
/// Numbers at which programs go wrong.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "0.5",
];

/// A source of changed inputs; the same for the same seed.
pub struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

impl Mutator {
    /// With words that the format knows.
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, words }
    }

    /// One of the inputs, changed some times.
    pub fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input, inputs);
        }
        input.truncate(LONGEST);
        input
    }

    /// A number below `limit`, or 0.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) as usize % limit.max(1)
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let to = at + self.below((input.len() - at).min(64) + 1);
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 => drop(input.drain(at..to)),
            3 => {
                let piece = input[at..to].to_vec();
                let times = 1 + self.below(20);
                input.splice(at..at, piece.repeat(times));
            }
            4 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let until = from + self.below(other.len() - from + 1);
                input.splice(at..to, other[from..until].iter().copied());
            }
            5 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                input.splice(at..at, word.bytes());
            }
            6 => self.change_number(input),
            7 => input.truncate(at),
            _ => input.insert(at, self.below(256) as u8),
        }
    }

    /// Puts another number in the place of one.
    fn change_number(&mut self, input: &mut Vec<u8>) {
        let numbers: Vec<_> =
            (0..input.len()).filter(|at| input[*at].is_ascii_digit() && (*at == 0 || !input[at - 1].is_ascii_digit())).collect();
        if numbers.is_empty() {
            return;
        }
        let at = numbers[self.below(numbers.len())];
        let length = input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = NUMBERS[self.below(NUMBERS.len())];
        input.splice(at..at + length, number.bytes());
    }
}
