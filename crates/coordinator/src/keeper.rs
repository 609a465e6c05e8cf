//! Watches the clock: jobs that were not confirmed go back, jobs whose runner is silent fail.
//!
//! A thread of its own, because a coordinator may be opened outside an async runtime; it ends with the last handle.

use crate::Error;
use crate::engine::{Ended, Inner, now};
use crate::status::JobStatus;
use crate::store::rows;
use std::sync::Weak;
use std::time::Duration;

/// GitLab's word for a job whose runner is silent.
const STUCK: &str = "stuck_or_timeout_failure";

/// Starts the watch.
pub fn start(inner: &std::sync::Arc<Inner>) -> Result<(), Error> {
    let weak = std::sync::Arc::downgrade(inner);
    let tick =
        (inner.settings.confirm_within.min(inner.settings.silence) / 8).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let watch = move || watch(&weak, tick);
    let started = std::thread::Builder::new().name("coordinator-keeper".to_owned()).spawn(watch);
    started.map(drop).map_err(|source| Error::File { path: "a thread".to_owned(), source })
}

fn watch(inner: &Weak<Inner>, tick: Duration) {
    loop {
        std::thread::sleep(tick);
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = look(&inner) {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to look after waiting jobs");
        }
    }
}

fn look(inner: &Inner) -> Result<(), Error> {
    let before = |time: Duration| now() - i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2);
    let (unconfirmed, silent) = (before(inner.settings.confirm_within), before(inner.settings.silence));
    let found = inner.read(|db| Ok((rows::unconfirmed(db, unconfirmed)?, rows::silent(db, silent)?)))?;
    if found.0.is_empty() && found.1.is_empty() {
        return Ok(());
    }
    // Read again inside the change: the runner may have spoken meanwhile.
    let over = inner.write(|writer| {
        let mut over = Vec::new();
        for job in rows::unconfirmed(writer.db(), unconfirmed)? {
            tracing::info!(job = job.id, "the runner did not confirm the job, it waits again");
            writer.take_back(&job)?;
            over.push((job.id, true));
        }
        for job in rows::silent(writer.db(), silent)? {
            tracing::warn!(job = job.id, "the runner of the job is silent, it is given up");
            let status = if job.status == JobStatus::Canceling { JobStatus::Canceled } else { JobStatus::Failed };
            writer.end(&job, status, &Ended { failure_reason: Some(STUCK.to_owned()), ..Ended::default() })?;
            over.push((job.id, false));
        }
        Ok(over)
    })?;
    for (job, again) in over {
        if again {
            // What the first runner wrote is not part of the second one's trace.
            inner.traces.discard(job)?;
        } else {
            inner.traces.close(job);
        }
    }
    Ok(())
}
