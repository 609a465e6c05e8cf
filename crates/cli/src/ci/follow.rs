//! Follows a pipeline: its traces as lines, its jobs as progress, the user's Ctrl-C as a cancel.
//!
//! The coordinator's events only wake us; what is shown is read from its state and its traces, so that a missed event
//! costs nothing.

use super::log_lines::LogLines;
use super::report::Ending;
use super::screen::Screen;
use super::started::Started;
use crate::arguments::{CiArguments, EXIT_INTERRUPTED};
use anyhow::{Result, bail};
use coordinator::{JobId, JobStatus, PipelineState, PipelineStatus};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;

/// Bytes of a trace that are shown at once.
const PIECE: usize = 256 * 1024;
/// Longest time without a look at the state, events or not.
const LOOK: Duration = Duration::from_secs(1);
/// How long running jobs have after a cancel.
const CANCEL: Duration = Duration::from_secs(60);

/// Shows the pipeline until it ends.
///
/// # Errors
/// When the coordinator's state cannot be read or the manager is gone.
pub async fn follow(started: &Started, arguments: &CiArguments, stops: &mut Stops) -> Result<Ending> {
    let mut events = started.coordinator.events();
    let first = started.coordinator.pipeline(started.pipeline)?;
    let mut view = View::new(started, arguments, &first);
    let mut canceled_at = None;
    loop {
        let state = view.update().await?;
        if let Some(ending) = ending(&state, canceled_at.is_some()) {
            return Ok(ending);
        }
        if started.manager_stopped() {
            bail!("the manager stopped before the pipeline ended");
        }
        if canceled_at.is_some_and(|at: std::time::Instant| at.elapsed() > CANCEL) {
            tracing::warn!("some jobs did not end in time after the cancel");
            return Ok(Ending::Interrupted);
        }
        tokio::select! {
            event = events.recv() => {
                if matches!(event, Err(RecvError::Closed)) {
                    bail!("the coordinator stopped before the pipeline ended");
                }
                // What has happened meanwhile is seen with one look.
                while events.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(LOOK) => {}
            () = stops.next() => {
                if canceled_at.is_some() {
                    std::process::exit(i32::from(EXIT_INTERRUPTED));
                }
                canceled_at = Some(std::time::Instant::now());
                view.say("cancelling the jobs; Ctrl-C again exits at once");
                started.coordinator.cancel_pipeline(started.pipeline)?;
            }
        }
    }
}

/// How the pipeline ended, if nothing moves any more.
fn ending(state: &PipelineState, interrupted: bool) -> Option<Ending> {
    let ended = match state.status {
        PipelineStatus::Created | PipelineStatus::Running => return None,
        PipelineStatus::Success | PipelineStatus::Skipped => Ending::Success,
        PipelineStatus::Failed => Ending::Failed,
        PipelineStatus::Canceled => Ending::Interrupted,
        PipelineStatus::Manual => Ending::Blocked,
    };
    Some(if interrupted { Ending::Interrupted } else { ended })
}

/// The user's wish to stop: Ctrl-C, or a TERM from a service manager.
///
/// Made before anything is started, so that a Ctrl-C at any time is heard and what was started is removed.
pub struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next wish.
    pub async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}

/// What has been shown so far.
struct View<'a> {
    started: &'a Started,
    screen: Screen,
    lines: LogLines,
    offsets: HashMap<JobId, u64>,
    finished: HashSet<JobId>,
}

impl<'a> View<'a> {
    fn new(started: &'a Started, arguments: &CiArguments, state: &PipelineState) -> Self {
        let screen = Screen::new(arguments.json, state.jobs.len());
        let lines = LogLines::new(state.jobs.iter().map(|job| job.name.as_str()), screen.has_color());
        Self { started, screen, lines, offsets: HashMap::new(), finished: HashSet::new() }
    }

    fn say(&self, text: &str) {
        self.screen.lines(&[format!("gantry: {text}")]);
    }

    /// Shows what is new and answers the state that it belongs to.
    async fn update(&mut self) -> Result<PipelineState> {
        // The state first: a trace is complete when its job's end is seen.
        let state = self.started.coordinator.pipeline(self.started.pipeline)?;
        for job in &state.jobs {
            if matches!(job.status, JobStatus::Created | JobStatus::Pending | JobStatus::Manual)
                || self.finished.contains(&job.id)
            {
                continue;
            }
            loop {
                let offset = self.offsets.entry(job.id).or_default();
                let bytes = self.started.coordinator.read_trace(job.id, *offset, PIECE)?;
                if bytes.is_empty() {
                    break;
                }
                *offset += bytes.len() as u64;
                self.screen.lines(&self.lines.push(&job.name, &bytes));
                tokio::task::yield_now().await;
            }
            if job.status.is_final() {
                self.screen.lines(&self.lines.finish(&job.name).into_iter().collect::<Vec<_>>());
                self.finished.insert(job.id);
            }
        }
        let done = state.jobs.iter().filter(|job| job.status.is_final()).count();
        let running = state.jobs.iter().filter(|job| job.status == JobStatus::Running).map(|job| job.name.clone());
        self.screen.progress(done, &running.collect::<Vec<_>>());
        Ok(state)
    }
}
