//! The sender's side of the trace: patches, signs of life, and the final state.
//!
//! Every answer of GitLab carries the job's state there, so the sender is also where a cancel is noticed. The agent
//! begins at 0; a 416 says that the manager wrote the first bytes, and then ours stand behind them and no checksum is
//! sent, because the whole is not ours. Where an unanswered patch may have counted, its length tells ours from the
//! manager's: the first one is shorter than what a manager writes. A GitLab that is away is tried again for as long as the job has time.

use super::{State, Trace};
use gitlab_api::update_job::{Output, checksum_text};
use gitlab_api::{Info, UpdateJob};
use gitlab_client::{Client, ClientError, Hints, Patch, PatchOutcome, UpdateOutcome};
use job::{JobId, JobState, RemoteState, Secret};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// Longest patch (row "patch log").
const PATCH: usize = 1024 * 1024;
/// Longest first patch behind what a manager may have written: shorter than any line of a manager, so that a trace that
/// ends where an unanswered first patch of ours would is ours.
const FIRST: usize = 16;
/// Interval until the server names one.
const INTERVAL: Duration = Duration::from_secs(3);
/// After this silence at the latest the server is told that the job lives (row "touch job").
const TOUCH: Duration = Duration::from_secs(30);
/// A server that wants to hear often is asked as often, in its intervals: somebody watches, and may press cancel, which
/// a silent job learns of by asking only.
const TOUCH_INTERVALS: u32 = 2;
/// The same for a job that wants to be quiet (`FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL`), and the longest silence then.
const RARE_INTERVALS: u32 = 4;
const RARELY: Duration = Duration::from_secs(30 * 60);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A server that asks for more is asked again all the same: a cancel is learned of by asking only.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// Reporting ends this long after the job's time at the latest: Kubernetes gives the pod 600 s more, pulls included, and
/// what was not told by then is told by the manager.
const LAST_CALL: Duration = Duration::from_secs(400);

/// Whose trace it is.
pub struct Owner {
    /// Connection to GitLab.
    pub client: Client,
    /// Number of the job.
    pub id: JobId,
    /// Its token.
    pub token: Secret,
    /// What is said of the runner with every update.
    pub info: Info,
    /// Its trace may show more than it should.
    pub debug_trace: bool,
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

/// How long the final state is told.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// At least this often, and no oftener to a server that answers and does not accept.
    pub tries: u32,
    /// A server that does not answer is tried until then.
    pub deadline: Instant,
}

/// What became of one try to tell the final state.
enum Told {
    Accepted,
    NotYet,
    Gone,
}

/// An answer that more patience does not change.
fn refuses(error: &ClientError) -> bool {
    matches!(error, ClientError::Status { status, .. } if (400..500).contains(status) && ![408, 429].contains(status))
}

/// Growing pauses, spread so that not all pods of a cluster come back at once.
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_RETRY)
    }
}

impl Pauses {
    /// Half of it for certain, the other half by chance.
    pub fn longer(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_RETRY);
        let chance = u32::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or_default();
        pause / 2 + pause / 2 * chance / 1000
    }
}

impl Pauses {
    /// As long as the server asks for, if it does.
    fn after(&mut self, error: &ClientError) -> Duration {
        let pause = self.longer();
        error.retry_after().map_or(pause, |asked| asked.min(LONGEST_ASKED).max(pause))
    }
}

impl State {
    /// Whether no byte of ours is known to stand there.
    fn nothing_sent(&self) -> bool {
        self.sent == self.skipped
    }

    /// Longest patch now. The header may be in the first one: a manager that wrote it wrote a line behind it, too.
    fn longest(&self) -> usize {
        if self.nothing_sent() {
            let header = usize::try_from(self.header.saturating_sub(self.sent)).unwrap_or(PATCH);
            header.clamp(FIRST, PATCH)
        } else {
            PATCH
        }
    }
}

impl Trace {
    /// Sends until it is dropped; meant for a task of its own.
    pub async fn send(&self, owner: &Owner) {
        let (mut interval, mut touch, mut last_call) = (INTERVAL, TOUCH, Instant::now());
        let mut pauses = Pauses::default();
        loop {
            let wait = if self.unsent() { Duration::ZERO } else { touch.saturating_sub(last_call.elapsed()) };
            if !wait.is_zero() {
                tokio::select! { () = self.shared.grown.notified() => {}, () = tokio::time::sleep(wait) => {} }
            }
            let probes = self.probes();
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
                    (last_call, pauses) = (Instant::now(), Pauses::default());
                    if let Some(named) = hints.update_interval {
                        (interval, touch) = (named, self.touch_after(named));
                    }
                    // What follows the first few bytes does not wait for the next tick, nor does a backlog of more than one
                    // patch: the log of a fast job would lag for minutes.
                    let follows = probes && !self.probes();
                    if self.backlog() < PATCH as u64 && !follows {
                        tokio::select! { () = tokio::time::sleep(interval) => {}, () = self.shared.urgent.notified() => {} }
                    }
                }
                Err(error) => {
                    let pause = pauses.after(&error);
                    let (seconds, error) = (pause.as_secs_f32(), anyhow::Error::new(error));
                    eprintln!("gantry-agent: failed to send the trace, trying again in {seconds:.1} s: {error:#}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The longest silence where the server wants the trace this often.
    fn touch_after(&self, interval: Duration) -> Duration {
        match self.lock().rarely {
            true => (interval * RARE_INTERVALS).clamp(TOUCH, RARELY),
            false => (interval * TOUCH_INTERVALS).min(TOUCH),
        }
    }

    /// Sends the rest and the final state, until GitLab accepts or patience ends; answers whether it did. Without a state
    /// only the rest.
    pub async fn finish(&self, owner: &Owner, ending: Option<&Final>, patience: Patience) -> bool {
        let (mut pauses, mut tries, mut answered) = (Pauses::default(), 0, 0);
        let last = patience.deadline.max(Instant::now()) + LAST_CALL;
        loop {
            tries += 1;
            let told = tokio::time::timeout_at(last, self.finish_once(owner, ending)).await;
            let pause = match told {
                Ok(Ok(Told::Accepted)) => return true,
                Ok(Ok(Told::Gone)) | Err(_) => return false,
                Ok(Ok(Told::NotYet)) => {
                    answered += 1;
                    pauses.longer()
                }
                Ok(Err(error)) => {
                    answered += u32::from(refuses(&error));
                    let pause = pauses.after(&error);
                    let (seconds, error) = (pause.as_secs_f32(), anyhow::Error::new(error));
                    eprintln!("gantry-agent: failed to report the job, trying again in {seconds:.1} s: {error:#}");
                    pause
                }
            };
            let next = Instant::now() + pause;
            let enough = answered >= patience.tries.max(1) || (tries >= patience.tries && next >= patience.deadline);
            if enough || next >= last {
                return false;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn finish_once(&self, owner: &Owner, ending: Option<&Final>) -> Result<Told, ClientError> {
        while self.unsent() {
            let before = self.backlog();
            self.patch(owner).await?;
            if self.backlog() >= before {
                // A server that keeps sending us back must not keep us busy: this try is over.
                return Ok(Told::NotYet);
            }
        }
        let Some(ending) = ending else { return Ok(Told::Accepted) };
        let output = {
            let state = self.lock();
            if state.taken {
                return Ok(Told::Gone);
            }
            let checksum = (state.base == 0).then(|| checksum_text(state.spool.crc32()));
            state.facts.then(|| Output { checksum, bytesize: state.end() })
        };
        let body = UpdateJob {
            info: owner.info.clone(),
            token: owner.token.expose().to_owned(),
            state: ending.state.as_str().to_owned(),
            failure_reason: ending.failure_reason.map(str::to_owned),
            checksum: output.as_ref().and_then(|output| output.checksum.clone()),
            exit_code: ending.exit_code.filter(|code| *code != 0),
            output,
        };
        let (outcome, _) = owner.client.update_job(owner.id, &owner.token, &body).await?;
        let mut state = self.lock();
        Ok(match outcome {
            UpdateOutcome::Accepted => Told::Accepted,
            UpdateOutcome::StillChecking => Told::NotYet,
            UpdateOutcome::Gone => {
                state.gone = true;
                Told::Gone
            }
            UpdateOutcome::TraceMismatch => {
                // What cannot be sent again can only be let stand.
                state.facts = state.spool.is_whole();
                if state.facts {
                    (state.sent, state.base, state.skipped) = (0, 0, 0);
                    state.unanswered.clear();
                }
                Told::NotYet
            }
        })
    }

    fn probes(&self) -> bool {
        self.lock().longest() == FIRST
    }

    async fn patch(&self, owner: &Owner) -> Result<Option<Hints>, ClientError> {
        let (start, position, bytes, nothing_sent) = {
            let state = self.lock();
            let bytes = state.spool.read(state.sent, state.longest());
            (state.sent, state.position(state.sent), bytes, state.nothing_sent())
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("gantry-agent: the spooled trace cannot be read, its rest is lost: {error}");
                self.lock().gone = true;
                self.shared.sent.notify_waiters();
                return Ok(None);
            }
        };
        let length = bytes.len() as u64;
        // Noted before the call, because the task may be ended in the middle of it.
        let end = position + length;
        let first_try = nothing_sent && !self.lock().unanswered.contains(&end);
        if first_try {
            self.lock().unanswered.push(end);
        }
        let patch = Patch { start: position, bytes: bytes.into(), debug_trace: owner.debug_trace };
        let (outcome, hints) = owner.client.patch_trace(owner.id, &owner.token, patch).await?;
        let mut state = self.lock();
        state.heard = Some(Instant::now());
        if first_try {
            state.unanswered.pop();
        }
        let mut is_anothers = outcome == PatchOutcome::Forbidden;
        match outcome {
            PatchOutcome::Accepted => state.sent = start + length,
            // Nothing stands there, not even a manager's header.
            PatchOutcome::Resync(0) if state.spool.is_whole() => (state.sent, state.base, state.skipped) = (0, 0, 0),
            // While nothing of ours is known to stand there the bytes are either ours, from a patch whose answer was lost,
            // or the manager's, which then stay in front; it may write once more before it sees that we are there.
            PatchOutcome::Resync(at) if nothing_sent && !state.unanswered.contains(&at) => {
                state.base = at;
                (state.sent, state.skipped) = (state.header, state.header);
            }
            // More than we ever had to say: a manager that takes this node for lost has written the last line, and tells
            // GitLab. A second end beside its own would stand on a trace that is not ours any more.
            PatchOutcome::Resync(at) if at > state.end() => {
                (state.gone, state.taken) = (true, true);
                is_anothers = true;
            }
            PatchOutcome::Resync(at) => {
                state.sent = (at.saturating_sub(state.base) + state.skipped).min(state.spool.length());
            }
            PatchOutcome::Gone | PatchOutcome::Forbidden => state.gone = true,
        }
        if state.spool.in_memory() > 0 {
            let sent = state.sent;
            state.spool.delivered(sent);
        }
        drop(state);
        self.shared.sent.notify_waiters();
        let remote = if is_anothers { RemoteState::Canceled } else { hints.remote };
        self.learn(remote);
        Ok(Some(hints))
    }

    async fn touch(&self, owner: &Owner) -> Result<Hints, ClientError> {
        let body = UpdateJob {
            info: owner.info.clone(),
            token: owner.token.expose().to_owned(),
            state: JobState::Running.as_str().to_owned(),
            ..UpdateJob::default()
        };
        let (outcome, hints) = owner.client.update_job(owner.id, &owner.token, &body).await?;
        self.lock().heard = Some(Instant::now());
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
}
