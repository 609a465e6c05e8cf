//! The end of a job: GitLab is told, unless the agent did, and then nothing of the job is left in the cluster.
//!
//! Before the first word to GitLab stands a note on the plan, which only the job's owner can write: of two managers
//! that believe they own a job one tells. The note is written again when our Lease was out of date since, because the
//! job may have been adopted meanwhile.
//!
//! The Secret goes first and the pod second: a pod without a plan is one that GitLab knows the end of, and is deleted
//! at the next look if we do not come to it.

use crate::admit::Tracked;
use crate::backoff::Backoff;
use crate::cluster;
use crate::lease::Term;
use crate::note::{self, NotOurs};
use crate::store;
use crate::trace::{Writer, Written};
use crate::wiring::Manager;
use agent_contract::Verdict;
use gitlab_api::{Output, UpdateJob};
use gitlab_client::{ClientError, UpdateOutcome};
use job::{FailureReason, JobState};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use std::time::Duration;
use tokio::time::Instant;

/// A job's end is told for at least this long, and for the job's own time if that is longer.
const TELLING: Duration = Duration::from_secs(3600);
const DELETING: Duration = Duration::from_secs(600);
/// A server that wants to be left alone for longer is asked again all the same.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// How often GitLab may answer that it still checks the trace.
const CHECKS: u32 = 10;
/// Somebody else writes to the trace at the same time: the agent's last bytes on their way.
const AFTER_ANOTHER: Duration = Duration::from_millis(50);
/// After this often the job ends without its last line.
const MOST_BEHIND: u32 = 20;
/// Longest sentence in a trace, in bytes.
const LONGEST_SENTENCE: usize = 4096;

/// What GitLab is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: it knows, or does not want to.
    Already,
    /// How the job ended.
    End {
        /// Success or failed.
        state: JobState,
        /// GitLab's word, one that it knows.
        reason: Option<&'static str>,
        /// Of the script.
        exit_code: Option<i32>,
        /// Lines in front of the last one, with their stamps.
        before: Vec<u8>,
        /// The last line of the trace.
        line: String,
        /// With this many bytes the trace has its last line already.
        whole: Option<u64>,
    },
}

impl Told {
    /// A failure with its sentence.
    pub fn failed(job: &Tracked, reason: FailureReason, sentence: &str) -> Self {
        let line = error_line(reason, &cut(&job.masked(sentence)));
        let reason = Some(reason.for_server(&job.knows).as_str());
        Self::End { state: JobState::Failed, reason, exit_code: None, before: Vec::new(), line, whole: None }
    }

    /// The same with a code for the server.
    pub fn with_exit_code(mut self, code: Option<i32>) -> Self {
        if let Self::End { exit_code, .. } = &mut self {
            *exit_code = code;
        }
        self
    }

    /// The same with lines before the last one.
    pub fn behind(mut self, lines: &str) -> Self {
        if let Self::End { line, .. } = &mut self {
            line.insert_str(0, lines);
        }
        self
    }

    /// A cancel before the job began.
    pub fn canceled() -> Self {
        let line = error_line(FailureReason::JobCanceled, "canceled");
        // What every server takes for this reason (row "confirm job").
        let reason = Some(FailureReason::JobCanceled.for_server(&[]).as_str());
        Self::End { state: JobState::Failed, reason, exit_code: None, before: Vec::new(), line, whole: None }
    }

    /// What the agent could not tell, or left to us; `before` goes in front of the last line.
    pub fn of_agent(job: &Tracked, verdict: &Verdict, before: Vec<u8>) -> Self {
        let whole = (verdict.trace_bytes > 0).then_some(verdict.trace_bytes);
        if verdict.job_state() == Some(JobState::Success) {
            let line = "\x1b[32;1mJob succeeded\x1b[0;m\n".to_owned();
            return Self::End { state: JobState::Success, reason: None, exit_code: None, before, line, whole };
        }
        let reason = verdict.reason().unwrap_or(FailureReason::RunnerSystemFailure);
        let line = error_line(reason, &cut(&job.masked(&verdict.message)));
        let known = Some(reason.for_server(&job.knows).as_str());
        let exit_code = verdict.exit_code.filter(|code| *code != 0);
        Self::End { state: JobState::Failed, reason: known, exit_code, before, line, whole }
    }
}

/// GitLab's look of a failure (row "flow 45").
fn error_line(reason: FailureReason, sentence: &str) -> String {
    let kind = if reason.is_system() { " (system failure)" } else { "" };
    format!("\x1b[31;1mERROR: Job failed{kind}: {sentence}\x1b[0;m\n")
}

/// One line of bounded length without control characters: it comes from outside.
fn cut(sentence: &str) -> String {
    let mut line: String =
        sentence.trim().chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if line.len() > LONGEST_SENTENCE {
        let end = (0..=LONGEST_SENTENCE).rfind(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Tells GitLab and cleans up; a stop in between leaves the rest to the next start.
pub async fn finish(manager: &Manager, job: &Tracked, told: Told) {
    if report(manager, job, told).await {
        clean(manager, job).await;
    }
}

/// Tells GitLab; `false` when the manager stopped before it was told, or the job is another's now.
pub async fn report(manager: &Manager, job: &Tracked, told: Told) -> bool {
    let name = job.runner.config.name.as_str();
    match &told {
        Told::Already => tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = name, "job ended"),
        Told::End { state, reason, .. } => {
            let (state, reason) = (state.as_str(), reason.unwrap_or_default());
            tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = name, state, reason, "job ended, telling GitLab");
            return tell(manager, job, &told).await;
        }
    }
    true
}

/// Deletes what the job has in the cluster, if it is still ours.
pub async fn clean(manager: &Manager, job: &Tracked) {
    if job.pod.is_empty() || store::delete(manager, job).await.is_err() {
        return;
    }
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let parameters = DeleteParams::default();
    match cluster::persist(DELETING, "delete the pod", || pods.delete(&job.pod, &parameters)).await {
        Err(error) if !error.is_missing() => {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the pod is left for the next look to delete");
        }
        _ => tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "job cleaned up"),
    }
}

/// Repeats until GitLab accepts or does not want it; `false` when the manager stopped before, or the job is another's.
async fn tell(manager: &Manager, job: &Tracked, told: &Told) -> bool {
    let (begun, mut backoff) = (Instant::now(), Backoff::new(Duration::from_secs(1), Duration::from_secs(60)));
    let writer = Writer::new(job);
    let mut report =
        Report { manager, job, writer, at: 0, proof: None, noted: false, written: false, behind: 0, with_size: true, checks: 0 };
    loop {
        let pause = match report.tell_once(told).await {
            Ok(None) => return true,
            Ok(Some(pause)) => pause,
            Err(Trouble::NotOurs) => return false,
            Err(Trouble::Gitlab(error)) => {
                if begun.elapsed() > TELLING.max(job.timeout) {
                    let error = cluster::chain(&error);
                    tracing::error!(job.id = job.id, pod.name = job.pod, error, "GitLab was never told how the job ended");
                    return true;
                }
                let (pause, asked) = (backoff.pause(), error.retry_after().unwrap_or_default());
                let (pause, error) = (pause.max(asked.min(LONGEST_ASKED)), cluster::chain(&error));
                tracing::warn!(job.id = job.id, error, pause_ms = pause.as_millis(), "failed to tell GitLab how the job ended");
                pause
            }
        };
        tokio::select! {
            biased;
            () = manager.stop.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Why a report did not come through.
enum Trouble {
    Gitlab(ClientError),
    NotOurs,
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Gitlab(error)
    }
}

impl From<NotOurs> for Trouble {
    fn from(NotOurs: NotOurs) -> Self {
        Self::NotOurs
    }
}

/// A report on its way.
struct Report<'a> {
    manager: &'a Manager,
    job: &'a Tracked,
    writer: Writer<'a>,
    /// Where the last line goes, as noted.
    at: u64,
    /// The time without a gap of our Lease in which that was noted.
    proof: Option<Term>,
    noted: bool,
    written: bool,
    /// How often somebody else was faster.
    behind: u32,
    with_size: bool,
    checks: u32,
}

impl Report<'_> {
    /// `None` when it is told, else how long to wait before the next try.
    async fn tell_once(&mut self, told: &Told) -> Result<Option<Duration>, Trouble> {
        let Told::End { state, reason, exit_code, before, line, whole } = told else { return Ok(None) };
        if !self.written {
            let written = self.write((before, line), *whole).await?;
            if self.writer.has_ended() {
                // Whoever had the job before us told, and could not clean up.
                tracing::info!(job.id = self.job.id, pod.name = self.job.pod, "GitLab knows how the job ended already");
                return Ok(None);
            }
            if !written {
                return Ok(Some(AFTER_ANOTHER));
            }
        }
        self.prove().await?;
        // The first bytes are not ours, so there is no checksum to send. The size is said once: by the next try an agent
        // that begins in spite of a cancel may have written.
        let with_size = std::mem::take(&mut self.with_size);
        let output = with_size.then(|| Output { checksum: None, bytesize: self.writer.position() });
        let body = UpdateJob {
            info: self.manager.info(),
            token: self.job.token.expose().to_owned(),
            state: state.as_str().to_owned(),
            failure_reason: reason.map(str::to_owned),
            exit_code: *exit_code,
            output,
            ..UpdateJob::default()
        };
        // Once for each proof: while GitLab asks us to wait the job may become another's.
        let (outcome, hints) = self.job.runner.gitlab().update_job_once(self.job.id, &self.job.token, &body).await?;
        match outcome {
            UpdateOutcome::Accepted | UpdateOutcome::Gone => Ok(None),
            UpdateOutcome::StillChecking if self.checks >= CHECKS => Ok(None),
            UpdateOutcome::StillChecking => {
                self.checks += 1;
                Ok(Some(hints.update_interval.unwrap_or(Duration::from_secs(3))))
            }
            // What stands there is another's: we cannot send it again, only let it stand.
            UpdateOutcome::TraceMismatch if with_size => Ok(Some(Duration::ZERO)),
            UpdateOutcome::TraceMismatch => Ok(None),
        }
    }

    /// Writes the last line where the note says; `false` when somebody has written since.
    async fn write(&mut self, (before, line): (&[u8], &str), whole: Option<u64>) -> Result<bool, Trouble> {
        if self.noted {
            // The last try was not answered: it may have counted, which the next answer shows.
            self.prove().await?;
        } else {
            let length = self.writer.length().await?;
            if self.writer.has_ended() {
                return Ok(false);
            }
            let by_us_before = |length: u64| self.job.telling_at.is_some_and(|at| length > at);
            self.written = length.is_none_or(|length| by_us_before(length) || whole.is_some_and(|whole| length >= whole));
            self.note(if self.written { self.job.telling_at } else { None }.or(length).unwrap_or_default()).await?;
            self.noted = true;
        }
        if !self.written && self.behind < MOST_BEHIND {
            // In one patch: after a crash half of it would be taken for the whole.
            let text = [before, &self.job.framed(line.as_bytes())].concat();
            let written = self.writer.write_framed(&text).await?;
            self.written = written != Written::Behind;
            self.noted = self.written;
            self.behind += 1;
            return Ok(self.written);
        }
        self.written = true;
        Ok(true)
    }

    async fn note(&mut self, at: u64) -> Result<(), NotOurs> {
        // From before the note: a gap that begins with it counts.
        let term = self.job.runner.cluster.leases.term();
        note::telling(self.manager, self.job, at).await?;
        (self.at, self.proof) = (at, term);
        Ok(())
    }

    /// Whether nobody can have adopted the job since our note; else the note is written again.
    async fn prove(&mut self) -> Result<(), NotOurs> {
        if self.proof.is_some() && self.proof == self.job.runner.cluster.leases.term() {
            return Ok(());
        }
        self.note(self.at).await
    }
}
