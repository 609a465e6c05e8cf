//! The manager's few lines in a job's trace.
//!
//! GitLab's offset rules: a patch begins where the trace ends, and a 416 tells where that is. A patch whose answer was
//! lost may have counted; the next answer shows it, so that no line stands there twice.

use crate::admit::Tracked;
use bytes::Bytes;
use gitlab_client::{ClientError, Hints, Patch, PatchOutcome};
use job::RemoteState;
use std::sync::atomic::Ordering;

/// Far behind the end of any trace: GitLab refuses a patch there and says how much it has.
const BEYOND: u64 = 1 << 50;

/// Where we stand in a trace.
pub struct Writer<'a> {
    job: &'a Tracked,
    position: u64,
    /// End of a patch that was never answered.
    unanswered: Option<u64>,
    /// The server said that the job is over.
    has_ended: bool,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands there.
    Yes(Hints),
    /// Somebody else has written since.
    Behind,
    /// Nobody wants it any more.
    Gone,
}

impl<'a> Writer<'a> {
    /// Behind what the manager has written of this job.
    pub fn new(job: &'a Tracked) -> Self {
        Self { job, position: job.written.load(Ordering::Relaxed), unanswered: None, has_ended: false }
    }

    /// Bytes up to here, once something was written.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether a patch was refused because the job is over there. A refusal alone is no proof: a proxy may be its author,
    /// and then a report still comes through.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// How many bytes GitLab has; `None` when the trace is closed.
    pub async fn length(&mut self) -> Result<Option<u64>, ClientError> {
        let (outcome, _) = self.patch(BEYOND, Bytes::from_static(b"\n")).await?;
        match outcome {
            PatchOutcome::Resync(length) => {
                self.position = length;
                Ok(Some(length))
            }
            // A server that takes bytes from nowhere knows no offsets.
            PatchOutcome::Accepted => Ok(Some(self.position)),
            PatchOutcome::Gone | PatchOutcome::Forbidden => Ok(None),
        }
    }

    /// Writes a line if the trace is as we left it.
    pub async fn write_next(&mut self, line: &[u8]) -> Result<Written, ClientError> {
        self.write_framed(&self.job.framed(line)).await
    }

    /// The same with lines that have their stamps.
    pub async fn write_framed(&mut self, line: &[u8]) -> Result<Written, ClientError> {
        let header = if self.position == 0 { self.job.header() } else { Vec::new() };
        let line = &[&header, line].concat()[..];
        let end = self.position + line.len() as u64;
        let before = self.unanswered.replace(end);
        let (outcome, hints) = self.patch(self.position, Bytes::copy_from_slice(line)).await?;
        self.unanswered = None;
        Ok(match outcome {
            PatchOutcome::Accepted => {
                self.position = end;
                self.job.written.store(end, Ordering::Relaxed);
                Written::Yes(hints)
            }
            PatchOutcome::Resync(at) if before == Some(at) && at > self.position => {
                self.position = at;
                self.job.written.store(at, Ordering::Relaxed);
                Written::Yes(hints)
            }
            PatchOutcome::Resync(at) => {
                self.position = at;
                Written::Behind
            }
            PatchOutcome::Gone | PatchOutcome::Forbidden => Written::Gone,
        })
    }

    async fn patch(&mut self, start: u64, bytes: Bytes) -> Result<(PatchOutcome, Hints), ClientError> {
        let (outcome, hints) =
            self.job.runner.gitlab().patch_trace(self.job.id, &self.job.token, Patch::at(start, bytes)).await?;
        // A job that is over there takes nothing more, whatever became of these bytes.
        let over = matches!(hints.remote, RemoteState::Canceled | RemoteState::Failed);
        let outcome = if over { PatchOutcome::Gone } else { outcome };
        self.has_ended = hints.ended && matches!(outcome, PatchOutcome::Gone | PatchOutcome::Forbidden);
        Ok((outcome, hints))
    }
}
