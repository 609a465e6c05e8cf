//! The end of a job: GitLab is told, unless the agent did, and then nothing of the job is left in the cluster.
//!
//! The Secret goes first and the pod second: a pod without a plan is one that GitLab knows the end of, and is deleted
//! at the next start if we do not come to it.

use crate::admit::Tracked;
use crate::backoff::Backoff;
use crate::cluster;
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
/// How often GitLab may answer that it still checks the trace.
const CHECKS: u32 = 10;
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
        Self::End { state: JobState::Failed, reason, exit_code: None, line, whole: None }
    }

    /// A cancel before the job began.
    pub fn canceled() -> Self {
        let line = error_line(FailureReason::JobCanceled, "canceled");
        // What every server takes for this reason (row "confirm job").
        let reason = Some(FailureReason::JobCanceled.for_server(&[]).as_str());
        Self::End { state: JobState::Failed, reason, exit_code: None, line, whole: None }
    }

    /// What the agent could not tell.
    pub fn of_agent(job: &Tracked, verdict: &Verdict) -> Self {
        let whole = (verdict.trace_bytes > 0).then_some(verdict.trace_bytes);
        if verdict.job_state() == Some(JobState::Success) {
            let line = "\x1b[32;1mJob succeeded\x1b[0;m\n".to_owned();
            return Self::End { state: JobState::Success, reason: None, exit_code: None, line, whole };
        }
        let reason = verdict.reason().unwrap_or(FailureReason::RunnerSystemFailure);
        let line = error_line(reason, &cut(&job.masked(&verdict.message)));
        let known = Some(reason.for_server(&job.knows).as_str());
        Self::End { state: JobState::Failed, reason: known, exit_code: verdict.exit_code.filter(|code| *code != 0), line, whole }
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
        clean(job).await;
    }
}

/// Tells GitLab; `false` when the manager stopped before it was told.
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

/// Deletes what the job has in the cluster.
pub async fn clean(job: &Tracked) {
    if job.pod.is_empty() {
        return;
    }
    store::delete(job).await;
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let parameters = DeleteParams::default();
    match cluster::persist(DELETING, "delete the pod", || pods.delete(&job.pod, &parameters)).await {
        Err(error) if !error.is_missing() => {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the pod is left for the next start to delete");
        }
        _ => tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "job cleaned up"),
    }
}

/// Repeats until GitLab accepts or does not want it; `false` when the manager stopped before.
async fn tell(manager: &Manager, job: &Tracked, told: &Told) -> bool {
    let (begun, mut backoff) = (Instant::now(), Backoff::new(Duration::from_secs(1), Duration::from_secs(60)));
    let mut report = Report { job, writer: Writer::new(job), noted: false, written: false, with_size: true, checks: 0 };
    loop {
        let pause = match report.tell_once(told).await {
            Ok(None) => return true,
            Ok(Some(pause)) => pause,
            Err(error) => {
                if begun.elapsed() > TELLING.max(job.timeout) {
                    let error = cluster::chain(&error);
                    tracing::error!(job.id = job.id, pod.name = job.pod, error, "GitLab was never told how the job ended");
                    return true;
                }
                let (pause, error) = (backoff.pause(), cluster::chain(&error));
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

/// A report on its way.
struct Report<'a> {
    job: &'a Tracked,
    writer: Writer<'a>,
    noted: bool,
    written: bool,
    with_size: bool,
    checks: u32,
}

impl Report<'_> {
    /// `None` when it is told, else how long to wait before the next try.
    async fn tell_once(&mut self, told: &Told) -> Result<Option<Duration>, ClientError> {
        let Told::End { state, reason, exit_code, line, whole } = told else { return Ok(None) };
        if !self.written {
            self.written = self.write(line, *whole).await?;
        }
        // The first bytes are not ours, so there is no checksum to send.
        let output = self.with_size.then(|| Output { checksum: None, bytesize: self.writer.position() });
        let body = UpdateJob {
            token: self.job.token.expose().to_owned(),
            state: state.as_str().to_owned(),
            failure_reason: reason.map(str::to_owned),
            exit_code: *exit_code,
            output,
            ..UpdateJob::default()
        };
        let (outcome, hints) = self.job.runner.gitlab().update_job(self.job.id, &self.job.token, &body).await?;
        match outcome {
            UpdateOutcome::Accepted | UpdateOutcome::Gone => Ok(None),
            UpdateOutcome::StillChecking if self.checks >= CHECKS => Ok(None),
            UpdateOutcome::StillChecking => {
                self.checks += 1;
                Ok(Some(hints.update_interval.unwrap_or(Duration::from_secs(3))))
            }
            // What stands there is another's: we cannot send it again, only let it stand.
            UpdateOutcome::TraceMismatch if self.with_size => {
                self.with_size = false;
                Ok(Some(Duration::ZERO))
            }
            UpdateOutcome::TraceMismatch => Ok(None),
        }
    }

    /// Answers whether the line stands there, or nobody wants it.
    async fn write(&mut self, line: &str, whole: Option<u64>) -> Result<bool, ClientError> {
        if !self.noted {
            let Some(length) = self.writer.length().await? else { return Ok(true) };
            let by_us_before = self.job.telling_at.is_some_and(|at| length > at);
            if by_us_before || whole.is_some_and(|whole| length >= whole) {
                return Ok(true);
            }
            store::mark_telling(self.job, length).await;
            self.noted = true;
        }
        Ok(self.writer.append(line.as_bytes()).await? != Written::Behind)
    }
}
