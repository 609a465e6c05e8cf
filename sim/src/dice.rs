//! All chance of a schedule, from its seed.
//!
//! Each question has its own generator, made from the seed and the question's name: what one request draws does not
//! depend on which request came before it, so that a change in one place leaves the rest of a schedule alone.

use fastrand::Rng;
use std::time::Duration;

/// FNV-1a's offset and prime, for 64 bits.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The chance of one schedule.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator for one question.
    pub fn of(&self, question: &str) -> Rng {
        let bytes = self.0.to_le_bytes().into_iter().chain(question.bytes());
        Rng::with_seed(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
    }
}

/// Whether something of this probability happens.
pub fn chance(rng: &mut Rng, probability: f64) -> bool {
    rng.f64() < probability
}

/// A time between two, the shorter ones as likely as the longer ones by their order of magnitude.
pub fn span(rng: &mut Rng, shortest: Duration, longest: Duration) -> Duration {
    let (low, high) = (shortest.as_secs_f64().max(0.001).ln(), longest.as_secs_f64().max(0.001).ln());
    Duration::from_secs_f64((low + rng.f64() * (high - low)).exp())
}

/// The same in milliseconds.
pub fn millis(rng: &mut Rng, shortest: u64, longest: u64) -> Duration {
    span(rng, Duration::from_millis(shortest), Duration::from_millis(longest))
}

/// The same in seconds.
pub fn seconds(rng: &mut Rng, shortest: u64, longest: u64) -> Duration {
    span(rng, Duration::from_secs(shortest), Duration::from_secs(longest))
}
