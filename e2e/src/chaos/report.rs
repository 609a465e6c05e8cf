//! What a run did and what it found: the JSON file, and the lines that a person reads.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How to do the same again.
    pub command: String,
    /// `node` or `cluster`.
    pub target: String,
    /// Where chance began.
    pub seed: u64,
    /// Kinds of trouble.
    pub trouble: Vec<String>,
    /// How long it took.
    pub minutes: f64,
    /// Jobs at the same time, at most.
    pub running: u64,
    /// Seconds of an outage, where there were outages.
    pub outage: Option<u64>,
    /// Jobs that were run.
    pub jobs: u64,
    /// Bytes of their logs.
    pub log_bytes: u64,
    /// How often each kind of trouble was made.
    pub strokes: BTreeMap<String, u64>,
    /// Kills of the manager that hit a job in this phase.
    pub kills: BTreeMap<String, u64>,
    /// Jobs that did not end, or not as they had to.
    pub lost: u64,
    /// Jobs that ran, were logged or were told twice.
    pub doubled: u64,
    /// Logs that are not exact.
    pub trace_mismatches: u64,
    /// Pods and Secrets that were left.
    pub leaked: u64,
    /// Whatever else must not be: a manager that does not end in time, a panic.
    pub other: u64,
    /// How the jobs ended, with GitLab's words.
    pub ends: BTreeMap<String, u64>,
    /// Measured on the way.
    pub figures: BTreeMap<String, f64>,
    /// The first of what was wrong, in words.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        [self.lost, self.doubled, self.trace_mismatches, self.leaked, self.other].iter().all(|count| *count == 0)
    }

    /// For a person.
    pub fn text(&self) -> String {
        let list = |map: &BTreeMap<String, u64>| {
            let words: Vec<_> = map.iter().map(|(word, count)| format!("{word} {count}")).collect();
            if words.is_empty() { "none".to_owned() } else { words.join(", ") }
        };
        let mut text = format!(
            "{} jobs with {:.1} MB of logs on the {} in {:.1} minutes (seed {})\n",
            self.jobs,
            self.log_bytes as f64 / 1e6,
            self.target,
            self.minutes,
            self.seed
        );
        text += &format!("ends: {}\ntrouble: {}\n", list(&self.ends), list(&self.strokes));
        if !self.kills.is_empty() {
            text += &format!("kills of the manager, by the phases they hit: {}\n", list(&self.kills));
        }
        for (name, value) in &self.figures {
            text += &format!("{name}: {value:.2}\n");
        }
        for problem in &self.problems {
            text += &format!("WRONG: {problem}\n");
        }
        let (lost, doubled, mismatches) = (self.lost, self.doubled, self.trace_mismatches);
        text += &format!("lost {lost}, doubled {doubled}, trace mismatches {mismatches}, leaked {}", self.leaked);
        if self.other > 0 {
            text += &format!(", other {}", self.other);
        }
        text
    }
}
