//! Archives to and from a GitLab that may be away: a job that is done must not fail because GitLab restarts.

use crate::trace::{Pauses, Trace};
use gitlab_client::ArtifactError;
use tokio::time::Instant;

/// A GitLab that takes our log and not our archives gets GitLab Runner's tries this many times over.
const ROUNDS: u32 = 2;

/// Repeats a transfer, which has tries of its own, while GitLab is away; whoever calls ends it with the job's time.
///
/// # Errors
/// What cannot pass, or did not although GitLab was there.
pub async fn persist(
    trace: &Trace,
    what: &str,
    transfer: impl AsyncFn() -> Result<(), ArtifactError>,
) -> Result<(), ArtifactError> {
    let (mut pauses, mut rounds) = (Pauses::default(), 1);
    loop {
        let error = match transfer().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() || rounds > ROUNDS => return Err(error),
            Err(error) => error,
        };
        let (failed, pause) = (Instant::now(), pauses.longer());
        let (seconds, error) = (pause.as_secs().max(1), anyhow::Error::new(error));
        trace.line(&format!("\x1b[0;33mWARNING: {what} failed, trying again in {seconds} s: {error:#}")).await;
        trace.urge();
        tokio::time::sleep(pause).await;
        // The line above is on its way to GitLab too, which tells the one kind of trouble from the other.
        if trace.was_heard_since(failed) {
            rounds += 1;
        }
    }
}
