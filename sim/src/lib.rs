//! Deterministic simulation: the shipped manager in virtual time, between a GitLab and a cluster in which everything goes
//! wrong that can.
//!
//! One seed is one schedule: which jobs there are, what befalls their pods, which requests are lost, when managers die. A
//! schedule of an hour takes milliseconds, because the clock jumps from timer to timer, and it is the same each time, so
//! that a seed is all a failure needs to be found again. What is simulated is `manager::run` as it is shipped, over the
//! shipped GitLab client and the embedded API server; the peers around it are models.

pub mod many;

mod agent;
mod api;
mod checks;
mod dice;
mod door;
mod gitlab;
mod kubelet;
mod managers;
mod schedule;
mod told;
mod world;

use std::time::Duration;
use tokio_util::sync::CancellationToken;
use world::{Log, World};

/// Between looks whether all is done.
const LOOK: Duration = Duration::from_secs(10);
/// All is done by this long after the last fault.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// How a schedule went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What did not hold; empty when all is well.
    pub violations: Vec<String>,
    /// What happened, if it was asked for.
    pub log: Vec<String>,
    /// Virtual time.
    pub took: Duration,
}

/// Plays the schedule of a seed.
#[must_use]
pub fn play(seed: u64, with_log: bool) -> Outcome {
    let log: Option<Log> = with_log.then(Log::default);
    let _heard = log.as_ref().map(told::hear);
    // The jitter of the manager and of the libraries below it.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else { return Outcome { violations: vec!["no runtime".to_owned()], ..Outcome::default() } };
    let mut outcome = runtime.block_on(simulate(seed, log.clone()));
    outcome.violations.extend(many::panics());
    if let Some(log) = log {
        outcome.log = std::mem::take(&mut log.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
    outcome
}

async fn simulate(seed: u64, log: Option<Log>) -> Outcome {
    let world = World::new(seed, log);
    told::begin();
    world.log(|| format!("{:?}", world.schedule()));
    let cluster = tokio::spawn(kubelet::run(world.clone()));
    let done = CancellationToken::new();
    let replicas: Vec<_> =
        (0..world.schedule().replicas).map(|index| tokio::spawn(managers::replica(world.clone(), index, done.clone()))).collect();
    let last = world.schedule().heal + PATIENCE;
    let mut quiet = false;
    while world.now() < last {
        tokio::time::sleep(LOOK).await;
        if world.is_faulty() {
            continue;
        }
        if std::mem::replace(&mut quiet, checks::is_quiet(&world)) && quiet {
            break;
        }
    }
    let violations = checks::violations(&world);
    done.cancel();
    for replica in replicas {
        if replica.await.is_err() {
            world.violated("a replica's task broke".to_owned());
        }
    }
    cluster.abort();
    let mut violations = violations;
    // The last stops come after the checks.
    violations.extend(world.notes().violations.iter().filter(|text| !violations.contains(text)).cloned().collect::<Vec<_>>());
    Outcome { violations, log: Vec::new(), took: world.now() }
}
