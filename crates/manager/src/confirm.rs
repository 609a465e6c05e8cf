//! The second phase of the hand-out: `PUT state=running` makes the job ours.

use crate::admit::Tracked;
use crate::backoff::Backoff;
use crate::cluster;
use crate::trace::Writer;
use crate::wiring::Manager;
use gitlab_api::UpdateJob;
use gitlab_client::UpdateOutcome;
use job::{JobState, RemoteState};
use std::time::Duration;
use tokio::time::Instant;

/// GitLab waits about two minutes for a confirmation; after half of it somebody else may have the job.
const FRESH: Duration = Duration::from_secs(60);
/// After this nobody waits for the job any more.
const LONGEST: Duration = Duration::from_secs(600);

/// What became of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is ours.
    Ours,
    /// It is not, or nobody wants it any more.
    Forgotten,
    /// Its trace has begun: it runs or ran, here or with somebody to whom it was handed out again.
    Begun,
    /// It is ours, and somebody cancelled it already.
    Canceling,
}

/// When the job was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Just now.
    Now,
    /// Before this manager started.
    LongAgo,
}

/// The update that says that a job goes on.
pub fn running(manager: &Manager, job: &Tracked) -> UpdateJob {
    UpdateJob {
        info: manager.info(),
        token: job.token.expose().to_owned(),
        state: JobState::Running.as_str().to_owned(),
        ..UpdateJob::default()
    }
}

/// Confirms; network trouble is retried for a while.
pub async fn confirm(manager: &Manager, job: &Tracked, since: Since) -> Confirmed {
    let (begun, mut backoff) = (Instant::now(), Backoff::new(Duration::from_millis(250), Duration::from_secs(10)));
    let body = running(manager, job);
    loop {
        match job.runner.gitlab().update_job(job.id, &job.token, &body).await {
            Ok((UpdateOutcome::Gone, _)) => return forgotten(job, "GitLab has taken the job back"),
            Ok((_, hints)) if hints.remote.is_final() => return forgotten(job, "the job was cancelled before it began"),
            Ok((_, hints)) => {
                let late = since == Since::LongAgo || begun.elapsed() > FRESH;
                if late && has_begun(job).await {
                    return Confirmed::Begun;
                }
                tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "job confirmed");
                return if hints.remote == RemoteState::Canceling { Confirmed::Canceling } else { Confirmed::Ours };
            }
            Err(error) if begun.elapsed() < LONGEST => {
                let (pause, error) = (backoff.pause(), cluster::chain(&error));
                tracing::warn!(job.id = job.id, error, pause_ms = pause.as_millis(), "failed to confirm the job");
                tokio::time::sleep(pause).await;
            }
            Err(error) => return forgotten(job, &format!("the job could not be confirmed: {}", cluster::chain(&error))),
        }
    }
}

/// The token of a job that was handed out again may still be good: a trace that has begun tells.
async fn has_begun(job: &Tracked) -> bool {
    matches!(Writer::new(job).length().await, Ok(Some(length)) if length > 0)
}

fn forgotten(job: &Tracked, why: &str) -> Confirmed {
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, why, "job forgotten");
    Confirmed::Forgotten
}
