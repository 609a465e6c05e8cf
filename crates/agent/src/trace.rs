//! The trace of the job: masked, spooled, sent to GitLab, and learned from.
//!
//! Writers call [`Trace::write`]; one task sends. Every answer of GitLab carries the job's state there, so the sender
//! is also where a cancel is noticed. The agent begins at 0; a 416 says that the manager wrote the first bytes, and
//! then ours stand behind them and no checksum is sent, because the whole is not ours.

use crate::log::Log;
use crate::spool::Spool;
use gitlab_api::UpdateJob;
use gitlab_api::log::Stream;
use gitlab_api::update_job::{Output, checksum_text};
use gitlab_client::{Client, Hints, PatchOutcome, UpdateOutcome};
use job::{JobId, JobState, RemoteState, Secret};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Longest patch (row "patch log").
const PATCH: usize = 1024 * 1024;
/// Interval until the server names one.
const INTERVAL: Duration = Duration::from_secs(3);
/// After this silence at the latest the server is told that the job lives (row "touch job").
const TOUCH: Duration = Duration::from_secs(30);
/// A server that wants to hear often is asked as often, in its intervals: somebody watches, and may press cancel, which
/// a silent job learns of by asking only.
const TOUCH_INTERVALS: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A script has to wait when this much of its output is not sent yet, so that a job cannot fill the disk.
const BACKLOG: u64 = 512 * 1024 * 1024;

/// Handle for writers.
#[derive(Clone)]
pub struct Trace {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    grown: Notify,
    sent: Notify,
    urgent: Notify,
    remote: watch::Sender<RemoteState>,
}

struct State {
    log: Log,
    spool: Spool,
    /// Bytes of ours that the server has.
    sent: u64,
    /// Bytes before ours that the manager wrote.
    base: u64,
    /// Ends of first patches that were never answered: they may have counted.
    unanswered: Vec<u64>,
    gone: bool,
}

/// Whose trace it is.
pub struct Owner {
    /// Connection to GitLab.
    pub client: Client,
    /// Number of the job.
    pub id: JobId,
    /// Its token.
    pub token: Secret,
}

/// How the job ended, for the final update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Final {
    /// Success or failed.
    pub state: JobState,
    /// GitLab's word, mapped to what the server knows.
    pub failure_reason: Option<&'static str>,
    /// Of the script.
    pub exit_code: Option<i32>,
}

impl Trace {
    /// A trace that keeps `limit` bytes of a log.
    ///
    /// # Errors
    /// When there is no place to spool.
    pub fn new(limit: u64, log: Log) -> std::io::Result<Self> {
        let state = State { log, spool: Spool::new(limit)?, sent: 0, base: 0, unanswered: Vec::new(), gone: false };
        let (remote, _) = watch::channel(RemoteState::Running);
        let (grown, sent, urgent) = (Notify::new(), Notify::new(), Notify::new());
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state), grown, sent, urgent, remote }) })
    }

    /// Appends what the job's work says; waits while too much is not sent yet.
    pub async fn write(&self, bytes: &[u8]) {
        self.write_on(Stream::WORK, bytes).await;
    }

    /// Appends bytes of a stream; waits while too much is not sent yet.
    pub async fn write_on(&self, stream: Stream, bytes: &[u8]) {
        loop {
            // Made before the look, so that a notice in between is not missed.
            let sent = self.shared.sent.notified();
            let full = {
                let state = self.lock();
                !state.gone && state.spool.length() - state.sent > BACKLOG
            };
            if !full {
                break;
            }
            sent.await;
        }
        let mut state = self.lock();
        let text = state.log.push(stream, bytes, now());
        append(&mut state, &text);
        drop(state);
        self.shared.grown.notify_one();
    }

    /// Appends a message of the runner: text in a colour, reset, newline (row "framing 4").
    pub async fn line(&self, text: &str) {
        self.write_on(Stream::RUNNER, format!("{text}\x1b[0;m\n").as_bytes()).await;
    }

    /// Appends a line that belongs to the job's work, where GitLab Runner has it from a script (row "framing 8").
    pub async fn work_line(&self, text: &str) {
        self.write(format!("{text}\x1b[0;m\n").as_bytes()).await;
    }

    /// Has what is there sent without waiting for the server's interval: a person waits for a script's first words.
    pub fn urge(&self) {
        self.shared.urgent.notify_one();
    }

    /// Lets go what is held back, because a script or the job has ended.
    pub fn flush(&self) {
        let mut state = self.lock();
        let rest = state.log.finish(now());
        append(&mut state, &rest);
        drop(state);
        self.shared.grown.notify_one();
    }

    /// The job's state at GitLab, as it changes.
    pub fn remote(&self) -> watch::Receiver<RemoteState> {
        self.shared.remote.subscribe()
    }

    /// Bytes on the server's side once all is sent.
    pub fn length(&self) -> u64 {
        let state = self.lock();
        state.base + state.spool.length()
    }

    /// Sends until it is dropped; meant for a task of its own.
    pub async fn send(&self, owner: &Owner) {
        let (mut interval, mut touch, mut last_call) = (INTERVAL, TOUCH, Instant::now());
        let mut retry = FIRST_RETRY;
        loop {
            let wait = if self.unsent() { Duration::ZERO } else { touch.saturating_sub(last_call.elapsed()) };
            if !wait.is_zero() {
                tokio::select! { () = self.shared.grown.notified() => {}, () = tokio::time::sleep(wait) => {} }
            }
            let called = if self.unsent() {
                self.patch(owner).await
            } else if last_call.elapsed() >= touch {
                self.touch(owner).await.map(Some)
            } else {
                continue;
            };
            match called {
                Ok(None) => {}
                Ok(Some(hints)) => {
                    (last_call, retry) = (Instant::now(), FIRST_RETRY);
                    if let Some(named) = hints.update_interval {
                        (interval, touch) = (named, (named * TOUCH_INTERVALS).min(TOUCH));
                    }
                    // A backlog of more than one patch does not wait for the next tick: the log of a fast job would
                    // lag for minutes.
                    if self.backlog() < PATCH as u64 {
                        tokio::select! { () = tokio::time::sleep(interval) => {}, () = self.shared.urgent.notified() => {} }
                    }
                }
                Err(error) => {
                    eprintln!("gantry-agent: failed to send the trace, trying again in {} s: {error}", retry.as_secs());
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Sends the rest and the final state, until GitLab accepts or `tries` are used up; answers whether it did.
    pub async fn finish(&self, owner: &Owner, ending: &Final, tries: u32) -> bool {
        let mut wait = FIRST_RETRY;
        for _ in 0..tries.max(1) {
            match self.finish_once(owner, ending).await {
                Ok(true) => return true,
                Ok(false) if self.lock().gone => return false,
                Ok(false) => {}
                Err(error) => eprintln!("gantry-agent: failed to report the job, trying again in {} s: {error}", wait.as_secs()),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
        false
    }

    async fn finish_once(&self, owner: &Owner, ending: &Final) -> Result<bool, gitlab_client::ClientError> {
        while self.unsent() {
            let before = self.backlog();
            self.patch(owner).await?;
            if self.backlog() >= before {
                // A server that keeps sending us back must not keep us busy: this try is over.
                return Ok(false);
            }
        }
        let output = {
            let state = self.lock();
            let checksum = (state.base == 0).then(|| checksum_text(state.spool.crc32()));
            Output { checksum, bytesize: state.base + state.spool.length() }
        };
        let body = UpdateJob {
            token: owner.token.expose().to_owned(),
            state: ending.state.as_str().to_owned(),
            failure_reason: ending.failure_reason.map(str::to_owned),
            checksum: output.checksum.clone(),
            exit_code: ending.exit_code.filter(|code| *code != 0),
            output: Some(output),
            ..UpdateJob::default()
        };
        let (outcome, _) = owner.client.update_job(owner.id, &owner.token, &body).await?;
        match outcome {
            UpdateOutcome::Accepted => return Ok(true),
            UpdateOutcome::StillChecking => {}
            UpdateOutcome::Gone => self.lock().gone = true,
            UpdateOutcome::TraceMismatch => {
                let mut state = self.lock();
                (state.sent, state.base) = (0, 0);
                state.unanswered.clear();
            }
        }
        Ok(false)
    }

    async fn patch(&self, owner: &Owner) -> Result<Option<Hints>, gitlab_client::ClientError> {
        let (start, position, bytes) = {
            let state = self.lock();
            (state.sent, state.base + state.sent, state.spool.read(state.sent, PATCH))
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("gantry-agent: the spooled trace cannot be read, its rest is lost: {error}");
                self.lock().gone = true;
                return Ok(None);
            }
        };
        let length = bytes.len() as u64;
        // Noted before the call, because the task may be ended in the middle of it.
        let first_try = position == 0 && !self.lock().unanswered.contains(&length);
        if first_try {
            self.lock().unanswered.push(length);
        }
        let (outcome, hints) = owner.client.patch_trace(owner.id, &owner.token, position, bytes.into()).await?;
        let mut state = self.lock();
        if first_try {
            state.unanswered.pop();
        }
        match outcome {
            PatchOutcome::Accepted => state.sent = start + length,
            // At the very beginning the bytes there are either ours, from a patch whose answer was lost, or the
            // manager's, which then stay in front.
            PatchOutcome::Resync(at) if position == 0 && !state.unanswered.contains(&at) => state.base = at,
            PatchOutcome::Resync(at) => state.sent = at.saturating_sub(state.base).min(state.spool.length()),
            PatchOutcome::Gone | PatchOutcome::Forbidden => state.gone = true,
        }
        drop(state);
        self.shared.sent.notify_waiters();
        let remote = if outcome == PatchOutcome::Forbidden { RemoteState::Canceled } else { hints.remote };
        self.learn(remote);
        Ok(Some(hints))
    }

    async fn touch(&self, owner: &Owner) -> Result<Hints, gitlab_client::ClientError> {
        let body = UpdateJob {
            token: owner.token.expose().to_owned(),
            state: JobState::Running.as_str().to_owned(),
            ..UpdateJob::default()
        };
        let (outcome, hints) = owner.client.update_job(owner.id, &owner.token, &body).await?;
        self.learn(if outcome == UpdateOutcome::Gone { RemoteState::Canceled } else { hints.remote });
        Ok(hints)
    }

    /// Notes the job's state; it never goes back from a cancel.
    fn learn(&self, remote: RemoteState) {
        self.shared.remote.send_if_modified(|known| {
            let further = match *known {
                RemoteState::Running => remote != RemoteState::Running,
                RemoteState::Canceling => remote.is_final(),
                RemoteState::Canceled | RemoteState::Failed => false,
            };
            if further {
                *known = remote;
            }
            further
        });
    }

    fn unsent(&self) -> bool {
        self.backlog() > 0
    }

    fn backlog(&self) -> u64 {
        let state = self.lock();
        if state.gone { 0 } else { state.spool.length() - state.sent }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds after 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Spools; a full disk costs the rest of the log, never the job, and is said where the pod's own log shows it.
fn append(state: &mut State, bytes: &[u8]) {
    if let Err(error) = state.spool.append(bytes) {
        eprintln!("gantry-agent: failed to spool {} bytes of the trace: {error}", bytes.len());
    }
}
