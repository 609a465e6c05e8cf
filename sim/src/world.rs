//! What all parts of a simulation share: the clock, the chance, the two servers, and what is noted.

use crate::dice::Dice;
use crate::gitlab::Gitlab;
use crate::schedule::{Faults, Outage, Schedule};
use fastrand::Rng;
use kube_server::{Kind, Selectors, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A simulation at work.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    schedule: Schedule,
    dice: Dice,
    store: Store,
    begun: Instant,
    gitlab: Mutex<Gitlab>,
    notes: Mutex<Notes>,
    log: Option<Log>,
}

/// The lines of a log.
pub type Log = Arc<Mutex<Vec<String>>>;

/// What is counted and remembered for the checks.
#[derive(Debug, Default)]
pub struct Notes {
    /// How often each question was asked.
    asked: BTreeMap<String, u32>,
    /// Requests to the Kubernetes API by job.
    pub requests: BTreeMap<u64, Vec<String>>,
    /// Pods whose script began, by job; one that was made twice stands there twice.
    pub scripts: BTreeMap<u64, Vec<String>>,
    /// Agents by pod.
    pub agents: BTreeMap<String, AgentNote>,
    /// Managers that were ended.
    pub ended: BTreeSet<String>,
    /// What must not happen and did.
    pub violations: Vec<String>,
}

/// What is known of one pod's agent.
#[derive(Clone, Debug, Default)]
pub struct AgentNote {
    /// The job.
    pub job: u64,
    /// All that it had to say so far.
    pub said: Vec<u8>,
    /// It is at work.
    pub runs: bool,
    /// The state that GitLab accepted from it.
    pub reported: Option<String>,
    /// The state of its verdict, when it came to its end and nobody touched its pod before.
    pub ended: Option<String>,
}

impl World {
    /// A world of a seed; with a `log`, all that happens is told there.
    pub fn new(seed: u64, log: Option<Log>) -> Self {
        let dice = Dice::new(seed);
        let schedule = Schedule::new(dice);
        let gitlab = Mutex::new(Gitlab::new(&schedule));
        let (store, begun, notes) = (Store::new(), Instant::now(), Mutex::default());
        Self(Arc::new(Shared { schedule, dice, store, begun, gitlab, notes, log }))
    }

    /// What is to happen.
    pub fn schedule(&self) -> &Schedule {
        &self.0.schedule
    }

    /// The objects of the cluster.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Time since the begin.
    pub fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// The instant of a time.
    pub fn at(&self, time: Duration) -> Instant {
        self.0.begun + time
    }

    /// Whether something may still go wrong.
    pub fn is_faulty(&self) -> bool {
        self.now() < self.0.schedule.heal
    }

    /// The generator of a question that is asked for the first time.
    pub fn dice(&self, question: &str) -> Rng {
        self.0.dice.of(question)
    }

    /// The generator of a question that may be asked again.
    pub fn next_dice(&self, question: &str) -> Rng {
        let nth = {
            let mut notes = self.notes();
            let nth = notes.asked.entry(question.to_owned()).or_default();
            *nth += 1;
            *nth
        };
        self.0.dice.of(&format!("{question} {nth}"))
    }

    /// GitLab.
    pub fn gitlab(&self) -> MutexGuard<'_, Gitlab> {
        self.0.gitlab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is noted.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line for the log.
    pub fn log(&self, line: impl FnOnce() -> String) {
        if let Some(log) = &self.0.log {
            let line = format!("{:>10.3} {}", self.now().as_secs_f64(), line());
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// Something that must not happen.
    pub fn violated(&self, what: String) {
        self.log(|| format!("VIOLATED {what}"));
        self.notes().violations.push(what);
    }

    /// Notes a request of a manager that was ended: there must be none.
    pub fn sends(&self, who: &str, name: &str) {
        let has_ended = self.notes().ended.contains(who);
        if has_ended {
            self.violated(format!("zombie: {name} after the end of {who}"));
        }
    }

    /// Whose the plan of a job is; `None` when there is none.
    pub fn owner_of(&self, job: u64) -> Option<String> {
        let secrets = self.store().list(Kind::Secret, Some("default"), &Selectors::default()).0;
        let is_plan = |secret: &&Arc<Value>| {
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            name.ends_with("-plan") && crate::api::job_of(name) == Some(job)
        };
        let owner =
            |secret: &Arc<Value>| secret["metadata"]["labels"][agent_contract::names::LABEL_OWNER].as_str().map(str::to_owned);
        secrets.iter().find(is_plan).and_then(owner)
    }

    /// The outage that a request of `who` meets now.
    pub fn outage(&self, faults: &Faults, who: &str) -> Option<Outage> {
        let now = self.now();
        let hits = |outage: &&Outage| {
            let his = outage.only.is_none_or(|replica| who.starts_with(&format!("m{replica}.")));
            (outage.from..outage.to).contains(&now) && his
        };
        faults.outages.iter().find(hits).copied()
    }
}

/// What has been sent: it arrives after some time, and has its effect even if nobody waits for it any more when it
/// `survives`.
pub async fn arrives<T: Send + 'static>(
    after: Duration,
    survives: bool,
    effect: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let task = tokio::spawn(async move {
        tokio::time::sleep(after).await;
        effect.await
    });
    let _ended = (!survives).then(|| Ended(task.abort_handle()));
    task.await.map_err(io::Error::other)?
}

/// Ends a task with whoever waits for it.
struct Ended(tokio::task::AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}
