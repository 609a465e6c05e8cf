//! The agent as far as a manager and GitLab see it: one writer of the trace from its first patch on, a verdict at its end.
//!
//! Its calls are those of the shipped client. It keeps the rules of the real one: it begins at 0 and stands behind what a
//! 416 tells, reports until GitLab accepts or its tries are used up, and leaves its verdict before it reports.

use crate::door;
use crate::schedule::Job;
use crate::world::World;
use agent_contract::{Plan, Verdict};
use bytes::Bytes;
use gitlab_api::{UpdateJob, update_job};
use gitlab_client::{Client, ClientConfig, ClientError, Hints, Patch, PatchOutcome, UpdateOutcome};
use job::RemoteState;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between patches.
const INTERVAL: Duration = Duration::from_secs(3);
/// Longest first patch, shorter than a manager's line.
const FIRST: usize = 16;
/// Silence after which GitLab is asked.
const TOUCH: Duration = Duration::from_secs(6);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// From the containers' start until the script's: the sources are fetched meanwhile. Longer than a kubelet takes to tell
/// that they run.
const SOURCES: Duration = Duration::from_millis(1500);

/// The termination message, as it is on disk whenever the agent ends.
pub type Message = Arc<Mutex<Option<Verdict>>>;

/// One agent.
pub struct Agent {
    world: World,
    pod: String,
    job: Job,
    plan: Plan,
    client: Client,
    message: Message,
    said: Vec<u8>,
    sent: usize,
    base: u64,
    unanswered: Vec<u64>,
    remote: RemoteState,
    gone: bool,
    /// A manager has written the end.
    taken: bool,
    printed: u32,
}

/// How the job ended.
enum Ending {
    Success,
    Failed(&'static str, Option<i32>, String),
    Abandoned,
}

impl Agent {
    /// The agent of a pod.
    pub fn new(world: &World, pod: &str, plan: Plan, message: Message) -> Option<Self> {
        let job = world.gitlab().jobs.get(&plan.job.id)?.job.clone();
        let config = ClientConfig { url: plan.coordinator.url.clone(), ..ClientConfig::default() };
        let client = door::client(world, &format!("a:{pod}"), &config).ok()?;
        Some(Self {
            world: world.clone(),
            pod: pod.to_owned(),
            job,
            plan,
            client,
            message,
            said: Vec::new(),
            sent: 0,
            base: 0,
            unanswered: Vec::new(),
            remote: RemoteState::Running,
            gone: false,
            taken: false,
            printed: 0,
        })
    }

    /// Runs the job; `None` when it was told to stop before anything of it began.
    pub async fn run(mut self, term: CancellationToken) -> Option<Verdict> {
        self.note(|note, job| (note.job, note.runs) = (job, true));
        let _at_work = AtWork(self.world.clone(), self.pod.clone());
        tokio::select! {
            biased;
            () = term.cancelled() => return None,
            () = tokio::time::sleep(SOURCES) => {}
        }
        let began = Instant::now();
        self.world.notes().scripts.entry(self.job.id).or_default().push(self.pod.clone());
        self.world.log(|| format!("{} script begins", self.pod));
        self.say("Running with gantry\n");
        let ending = self.work(began).await;
        self.last_line(&ending);
        let abandoned = matches!(ending, Ending::Abandoned);
        self.leave(&ending, abandoned);
        let reported = abandoned || self.finish(&ending).await;
        self.world.log(|| format!("{} agent ends, reported: {reported}", self.pod));
        Some(self.leave(&ending, reported))
    }

    /// Prints and sends until the script has ended.
    async fn work(&mut self, began: Instant) -> Ending {
        let (mut next, mut retry) = (began, FIRST_RETRY);
        let end = began + self.job.takes.min(self.job.timeout);
        loop {
            self.print(began);
            if self.remote.is_final() || self.gone {
                return Ending::Abandoned;
            }
            if self.remote == RemoteState::Canceling {
                return Ending::Failed("job_canceled", None, "canceled".to_owned());
            }
            if Instant::now() >= end {
                return self.of_script();
            }
            tokio::time::sleep_until(next.min(end)).await;
            if Instant::now() >= end {
                continue;
            }
            self.print(began);
            let nothing_sent = self.sent == 0;
            let called = tokio::select! {
                biased;
                called = self.call() => called,
                // The script does not wait for GitLab; the call may have counted.
                () = tokio::time::sleep_until(end) => continue,
            };
            next = Instant::now();
            match called {
                Ok(()) if nothing_sent && self.sent > 0 && self.unsent() => retry = FIRST_RETRY,
                Ok(()) => (next, retry) = (next + if self.unsent() { INTERVAL } else { TOUCH }, FIRST_RETRY),
                Err(_) => (next, retry) = (next + retry, (retry * 2).min(LONGEST_RETRY)),
            }
        }
    }

    fn of_script(&self) -> Ending {
        if self.job.takes > self.job.timeout {
            let message = "execution took longer than the job's timeout".to_owned();
            return Ending::Failed("job_execution_timeout", None, message);
        }
        match self.job.exit_code {
            0 => Ending::Success,
            code => Ending::Failed("script_failure", Some(code), format!("exit code {code}")),
        }
    }

    /// The lines that the script has printed by now.
    fn print(&mut self, began: Instant) {
        let share = began.elapsed().as_secs_f64() / self.job.takes.as_secs_f64().max(0.001);
        let now = (f64::from(self.job.lines) * share.min(1.0)).ceil();
        while f64::from(self.printed) < now {
            self.printed += 1;
            self.say(&format!("line {} of {}\n", self.printed, self.pod));
        }
    }

    fn say(&mut self, text: &str) {
        self.said.extend_from_slice(text.as_bytes());
        let said = self.said.clone();
        self.note(|note, _| note.said = said);
    }

    fn last_line(&mut self, ending: &Ending) {
        match ending {
            Ending::Success => self.say("\x1b[32;1mJob succeeded\x1b[0;m\n"),
            Ending::Failed(_, _, message) => self.say(&format!("\x1b[31;1mERROR: Job failed: {message}\x1b[0;m\n")),
            Ending::Abandoned => {}
        }
    }

    fn leave(&self, ending: &Ending, reported: bool) -> Verdict {
        let (state, failure_reason, exit_code, message) = match ending {
            Ending::Success => ("success", None, None, String::new()),
            Ending::Failed(reason, code, message) => ("failed", Some((*reason).to_owned()), *code, message.clone()),
            Ending::Abandoned => ("failed", Some("job_canceled".to_owned()), None, "GitLab gave the job up".to_owned()),
        };
        let trace_bytes = self.base + self.said.len() as u64;
        let verdict = Verdict {
            state: state.to_owned(),
            exit_code,
            failure_reason,
            message,
            reported,
            trace_bytes,
            resources: std::collections::BTreeMap::new(),
        };
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict.clone());
        verdict
    }

    async fn finish(&mut self, ending: &Ending) -> bool {
        let mut wait = FIRST_RETRY;
        for _ in 0..self.plan.settings.final_update_tries.max(1) {
            match self.finish_once(ending).await {
                Ok(true) => return true,
                Ok(false) if self.gone => return false,
                _ => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
        false
    }

    async fn finish_once(&mut self, ending: &Ending) -> Result<bool, ClientError> {
        while self.unsent() && !self.gone {
            let before = self.said.len() - self.sent;
            self.patch().await?;
            if self.said.len() - self.sent >= before {
                return Ok(false);
            }
        }
        if self.taken {
            return Ok(false);
        }
        let checksum = (self.base == 0).then(|| update_job::checksum_text(crc32fast::hash(&self.said)));
        let (state, reason, code) = match ending {
            Ending::Success => ("success", None, None),
            Ending::Failed(reason, code, _) => ("failed", Some((*reason).to_owned()), *code),
            Ending::Abandoned => return Ok(true),
        };
        let body = UpdateJob {
            token: self.plan.job.token.expose().to_owned(),
            state: state.to_owned(),
            failure_reason: reason,
            exit_code: code,
            output: Some(gitlab_api::Output { checksum, bytesize: self.base + self.said.len() as u64 }),
            ..UpdateJob::default()
        };
        let (outcome, _) = self.client.update_job(self.job.id, &self.plan.job.token, &body).await?;
        match outcome {
            UpdateOutcome::Accepted => {
                self.note(|note, _| note.reported = Some(state.to_owned()));
                return Ok(true);
            }
            UpdateOutcome::Gone => self.gone = true,
            UpdateOutcome::TraceMismatch => {
                (self.sent, self.base) = (0, 0);
                self.unanswered.clear();
            }
            UpdateOutcome::StillChecking => {}
        }
        Ok(false)
    }

    async fn call(&mut self) -> Result<(), ClientError> {
        let hints = if self.unsent() { self.patch().await? } else { self.touch().await? };
        self.remote = match (self.remote, hints.remote) {
            (RemoteState::Running, told) => told,
            (known, told) => {
                if told.is_final() {
                    told
                } else {
                    known
                }
            }
        };
        Ok(())
    }

    async fn touch(&mut self) -> Result<Hints, ClientError> {
        let token = self.plan.job.token.expose().to_owned();
        let body = UpdateJob { token, state: "running".to_owned(), ..UpdateJob::default() };
        let (outcome, hints) = self.client.update_job(self.job.id, &self.plan.job.token, &body).await?;
        self.gone |= outcome == UpdateOutcome::Gone;
        Ok(hints)
    }

    async fn patch(&mut self) -> Result<Hints, ClientError> {
        let (start, position) = (self.sent, self.base + self.sent as u64);
        let most = if start == 0 { FIRST } else { usize::MAX };
        let bytes = Bytes::copy_from_slice(&self.said[start..self.said.len().min(start.saturating_add(most))]);
        let end = position + bytes.len() as u64;
        let first_try = start == 0 && !self.unanswered.contains(&end);
        if first_try {
            self.unanswered.push(end);
        }
        let sent = bytes.len();
        let (outcome, hints) = self.client.patch_trace(self.job.id, &self.plan.job.token, Patch::at(position, bytes)).await?;
        if first_try {
            self.unanswered.pop();
        }
        match outcome {
            PatchOutcome::Accepted => self.sent = start + sent,
            PatchOutcome::Resync(0) => (self.sent, self.base) = (0, 0),
            PatchOutcome::Resync(at) if start == 0 && !self.unanswered.contains(&at) => self.base = at,
            // As the shipped agent: nobody but a manager that tells the job's end writes behind us.
            PatchOutcome::Resync(at) if at > self.base + self.said.len() as u64 => (self.gone, self.taken) = (true, true),
            PatchOutcome::Resync(at) => {
                self.sent = usize::try_from(at.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.said.len());
            }
            PatchOutcome::Gone | PatchOutcome::Forbidden => self.gone = true,
        }
        Ok(hints)
    }

    fn unsent(&self) -> bool {
        self.sent < self.said.len()
    }

    fn note(&self, change: impl FnOnce(&mut crate::world::AgentNote, u64)) {
        change(self.world.notes().agents.entry(self.pod.clone()).or_default(), self.job.id);
    }
}

/// Notes that an agent is not at work any more, however it ended.
struct AtWork(World, String);

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(note) = self.0.notes().agents.get_mut(&self.1) {
            note.runs = false;
        }
    }
}
