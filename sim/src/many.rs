//! Many seeds, on several threads.

use crate::{Outcome, play};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the panics of simulated tasks: nobody waits for these, and each is a violation.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = format!("panic: {info}");
        PANICS.with_borrow_mut(|panics| panics.push(text));
    }));
}

/// What panicked on this thread since the last question.
pub(crate) fn panics() -> Vec<String> {
    PANICS.take()
}

/// How many seeds went.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many schedules were played.
    pub played: u64,
    /// The virtual time of all.
    pub simulated: Duration,
    /// The time that they took.
    pub took: Duration,
    /// Seeds that failed, and why, in the order of the seeds.
    pub failed: Vec<(u64, Vec<String>)>,
}

impl Tally {
    /// Schedules in a minute.
    #[must_use]
    pub fn per_minute(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let played = self.played as f64;
        played * 60.0 / self.took.as_secs_f64().max(0.001)
    }
}

/// Plays all `seeds` on `jobs` threads, until `most` have failed; `told` hears of each that fails.
pub fn play_many(seeds: Range<u64>, jobs: usize, most: usize, told: impl Fn(u64, &[String])) -> Tally {
    let (begun, next, stop) = (Instant::now(), AtomicU64::new(seeds.start), AtomicBool::new(false));
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let (sender, outcomes) = mpsc::channel::<(u64, Outcome)>();
        for _ in 0..jobs.max(1) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || sender.send((seed, play(seed, false))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (seed, outcome) in outcomes {
            tally.played += 1;
            tally.simulated += outcome.took;
            if !outcome.violations.is_empty() {
                told(seed, &outcome.violations);
                tally.failed.push((seed, outcome.violations));
                stop.store(tally.failed.len() >= most, Ordering::Relaxed);
            }
        }
    });
    tally.took = begun.elapsed();
    tally.failed.sort();
    tally
}
