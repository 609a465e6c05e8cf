//! What a seed makes happen: the jobs, and how often what goes wrong.

use crate::dice::{Dice, chance, seconds};
use fastrand::Rng;
use std::time::Duration;

/// One of so many schedules has no faults at all: there the API budget is checked.
const CALM: f64 = 0.15;
/// Each kind of fault is in use in this share of the other schedules.
const IN_USE: f64 = 0.45;

/// Everything that is settled before a schedule begins.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Nothing goes wrong.
    pub calm: bool,
    /// The jobs, by number.
    pub jobs: Vec<Job>,
    /// How many managers there are.
    pub replicas: u32,
    /// `concurrent` of each.
    pub concurrent: u32,
    /// From now on nothing goes wrong any more.
    pub heal: Duration,
    /// GitLab and the way to it.
    pub gitlab: Faults,
    /// The Kubernetes API and the way to it.
    pub api: Faults,
    /// Longest life of a manager, if it is killed at all.
    pub kills: Option<Duration>,
    /// Of ends of a manager, how many are asked for (SIGTERM).
    pub graceful: f64,
    /// How many managers do not come back.
    pub left_dead: u32,
    /// A job that is handed out again has a new token.
    pub renews_tokens: bool,
    /// Chance that something happens to a pod.
    pub pods: f64,
}

/// A job as it waits in GitLab's queue.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// When it is queued.
    pub arrives: Duration,
    /// How long its script takes.
    pub takes: Duration,
    /// How many lines it prints.
    pub lines: u32,
    /// Its exit code.
    pub exit_code: i32,
    /// Its time limit.
    pub timeout: Duration,
    /// When somebody cancels it, and whether that is at once instead of gracefully.
    pub cancel: Option<(Duration, bool)>,
    /// How often GitLab says of a report that it still checks the trace.
    pub checks: u32,
}

/// Chances of what goes wrong with one request, and when nothing is answered at all.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// 429, 5xx.
    pub refused: f64,
    /// The connection breaks before the request has an effect.
    pub lost_before: f64,
    /// The connection breaks after it.
    pub lost_after: f64,
    /// The answer takes long.
    pub slow: f64,
    /// The body of an answer breaks off; for the Kubernetes API, a watch.
    pub broken: f64,
    /// A watch is told that its version is too old.
    pub expired: f64,
    /// A list lacks what it should have.
    pub partial: f64,
    /// Times without any answer.
    pub outages: Vec<Outage>,
}

/// A time without any answer.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// Its begin.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
    /// Nothing comes back, instead of an error at once.
    pub silent: bool,
    /// Only for the replica of this number.
    pub only: Option<u32>,
}

impl Schedule {
    /// What a seed makes.
    pub fn new(dice: Dice) -> Self {
        let rng = &mut dice.of("schedule");
        let calm = chance(rng, CALM);
        let replicas = if chance(rng, 0.5) { 1 } else { rng.u32(2..=3) };
        let heal = if calm { Duration::ZERO } else { seconds(rng, 120, 1800) };
        let jobs = (1..=rng.u64(1..=6)).map(|id| Job::new(rng, id, calm)).collect();
        let (gitlab, api) = if calm {
            (Faults::default(), Faults::default())
        } else {
            (Faults::new(rng, heal, replicas, false), Faults::new(rng, heal, replicas, true))
        };
        let kills = (!calm && chance(rng, 0.6)).then(|| seconds(rng, 5, 600));
        Self {
            calm,
            jobs,
            replicas,
            concurrent: rng.u32(1..=4),
            heal,
            gitlab,
            api,
            kills,
            graceful: if chance(rng, 0.5) { 0.0 } else { rng.f64() },
            left_dead: if kills.is_some() && ADOPTION { rng.u32(0..replicas) } else { 0 },
            renews_tokens: rng.bool(),
            pods: if calm || chance(rng, 0.3) { 0.0 } else { 0.1 + rng.f64() * 0.7 },
        }
    }
}

/// Whether a manager goes on with the jobs of one that does not come back.
const ADOPTION: bool = true;

impl Job {
    fn new(rng: &mut Rng, id: u64, calm: bool) -> Self {
        let takes = seconds(rng, 1, 600);
        let canceled = !calm && chance(rng, 0.15);
        Self {
            id,
            arrives: Duration::from_millis(rng.u64(0..120_000)),
            takes,
            lines: rng.u32(1..40),
            exit_code: if chance(rng, 0.3) { rng.i32(1..4) } else { 0 },
            timeout: if chance(rng, 0.1) { takes / 2 + Duration::from_secs(1) } else { Duration::from_secs(3600) },
            cancel: canceled.then(|| (seconds(rng, 1, 600), rng.bool())),
            checks: if chance(rng, 0.2) { rng.u32(1..4) } else { 0 },
        }
    }
}

impl Faults {
    fn new(rng: &mut Rng, heal: Duration, replicas: u32, partitions: bool) -> Self {
        let mut rate = |most: f64| {
            let rate = (most.ln() - rng.f64() * 3.0).exp();
            if chance(rng, IN_USE) { rate } else { 0.0 }
        };
        let (refused, lost_before, lost_after, slow) = (rate(0.5), rate(0.4), rate(0.4), rate(0.3));
        let (broken, expired, partial) = (rate(0.8), rate(0.5), rate(0.4));
        let mut outages = Vec::new();
        while outages.len() < 3 && chance(rng, IN_USE) {
            let from = Duration::from_secs_f64(rng.f64() * heal.as_secs_f64());
            let to = (from + seconds(rng, 5, 400)).min(heal);
            let only = (partitions && chance(rng, 0.5)).then(|| rng.u32(0..replicas));
            outages.push(Outage { from, to, silent: rng.bool(), only });
        }
        Self { refused, lost_before, lost_after, slow, broken, expired, partial, outages }
    }
}
