//! The second phase of the hand-out: `PUT state=running` makes the job ours.

use crate::admit::Tracked;
use crate::backoff::Backoff;
use crate::cluster;
use crate::trace::Writer;
use crate::wiring::Manager;
use gitlab_api::UpdateJob;
use gitlab_client::{Hints, UpdateOutcome};
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
    let mut is_ours = false;
    loop {
        let error = match job.runner.gitlab().update_job(job.id, &job.token, &body).await {
            Ok((UpdateOutcome::Gone, _)) => return forgotten(job, "GitLab has taken the job back"),
            Ok((_, hints)) if hints.remote.is_final() => return forgotten(job, "the job was cancelled before it began"),
            Ok((_, hints)) => {
                is_ours = true;
                let late = since == Since::LongAgo || begun.elapsed() > FRESH;
                // The token of a job that was handed out again may still be good: a trace that has begun tells.
                match if late { Writer::new(job).length().await } else { Ok(Some(0)) } {
                    Ok(Some(0)) => return confirmed(job, &hints),
                    Ok(Some(_)) => return Confirmed::Begun,
                    // The next answer tells whether the job is over.
                    Ok(None) => "GitLab does not tell how long the trace is".to_owned(),
                    Err(error) => cluster::chain(&error),
                }
            }
            // A job that was confirmed is not given up: GitLab would wait for it in vain.
            Err(error) if is_ours || begun.elapsed() < LONGEST => cluster::chain(&error),
            Err(error) => return forgotten(job, &format!("the job could not be confirmed: {}", cluster::chain(&error))),
        };
        let pause = backoff.pause();
        tracing::warn!(job.id = job.id, error, pause_ms = pause.as_millis(), "failed to confirm the job");
        tokio::time::sleep(pause).await;
    }
}

fn confirmed(job: &Tracked, hints: &Hints) -> Confirmed {
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "job confirmed");
    if hints.remote == RemoteState::Canceling { Confirmed::Canceling } else { Confirmed::Ours }
}

/// A job that has begun elsewhere before a pod of ours was made.
pub fn left_to_another(job: &Tracked) {
    forgotten(job, "the job was handed out to somebody else meanwhile");
}

fn forgotten(job: &Tracked, why: &str) -> Confirmed {
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, why, "job forgotten");
    Confirmed::Forgotten
}
