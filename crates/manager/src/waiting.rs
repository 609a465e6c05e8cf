//! While the pod waits to run: what the job's log says, and how a cancel is heard.
//!
//! The manager is the trace's writer only until the first sign of the agent, which is silent until the build container
//! listens. That sign is both containers in the watch or a 416 from GitLab, and after it not a byte is written here; a question without bytes goes on telling
//! GitLab that the job lives, until the agent does.

use crate::admit::Tracked;
use crate::cluster;
use crate::confirm;
use crate::diagnose;
use crate::events::Events;
use crate::trace::{Writer, Written};
use crate::wiring::Manager;
use gitlab_client::{ClientError, Hints, UpdateOutcome};
use job::RemoteState;
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;
use tokio::time::Instant;

/// An ordinary pod runs before a word about it is worth reading.
const SILENCE: Duration = Duration::from_secs(5);
/// GitLab Runner's poll interval; the server may ask for longer, up to [`LONGEST`].
const INTERVAL: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(30);
/// Between questions without bytes.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After these many lines they come at [`LONGEST`]: a pod may wait for hours.
const TALKATIVE: u32 = 20;

/// What GitLab says meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Go on.
    Nothing,
    /// Cancelled; it waits for our word.
    Canceling,
    /// It wants nothing more of the job.
    Unwanted,
}

/// The lines of one waiting pod.
pub struct Waiting<'a> {
    job: &'a Tracked,
    writer: Writer<'a>,
    next: Option<Instant>,
    /// Somebody else has written: no more bytes of ours.
    behind: bool,
    asked: bool,
    lines: u32,
    /// What the cluster says of the pod, for a job that wants it.
    events: Option<Events>,
}

impl<'a> Waiting<'a> {
    /// From now on.
    pub fn new(job: &'a Tracked) -> Self {
        let events = job.prints_events.then(Events::default);
        // Who wants to read events wants those of a pod that is up soon, too.
        let silence = if events.is_some() { Duration::ZERO } else { SILENCE };
        let next = Some(Instant::now() + silence);
        Self { job, writer: Writer::new(job), next, behind: false, asked: false, lines: 0, events }
    }

    /// With the first line now.
    pub fn at_once(job: &'a Tracked) -> Self {
        Self { next: Some(Instant::now()), ..Self::new(job) }
    }

    /// The agent has started: it speaks for the job.
    pub fn be_silent(&mut self) {
        self.next = None;
    }

    /// When to say the next word; `None` after the last.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Says it, and hears.
    pub async fn tick(&mut self, manager: &Manager, pod: Option<&Pod>) -> Heard {
        let said = if self.behind { self.ask(manager).await } else { self.say(pod).await };
        let (heard, pause) = match said {
            Ok(Some(hints)) => {
                let pause = self.pause(&hints);
                let heard = match hints.remote {
                    RemoteState::Running => Heard::Nothing,
                    RemoteState::Canceling => Heard::Canceling,
                    RemoteState::Canceled | RemoteState::Failed => Heard::Unwanted,
                };
                (heard, pause)
            }
            Ok(None) => (Heard::Unwanted, HEARTBEAT),
            Err(error) => {
                let error = cluster::chain(&error);
                tracing::warn!(job.id = self.job.id, pod.name = self.job.pod, error, "failed to say why the job waits");
                (Heard::Nothing, INTERVAL)
            }
        };
        self.next = Some(Instant::now() + pause);
        heard
    }

    fn pause(&self, hints: &Hints) -> Duration {
        if self.asked {
            HEARTBEAT
        } else if self.lines > TALKATIVE {
            LONGEST
        } else {
            hints.update_interval.unwrap_or(INTERVAL).clamp(INTERVAL, LONGEST)
        }
    }

    /// `None` when nobody wants to hear it.
    async fn say(&mut self, pod: Option<&Pod>) -> Result<Option<Hints>, ClientError> {
        let mut line = line(self.job, pod);
        if let Some(events) = &mut self.events {
            line.push_str(&events.news(self.job).await);
        }
        let line = self.job.masked(&line);
        match self.writer.write_next(line.as_bytes()).await? {
            Written::Yes(hints) => {
                self.lines += 1;
                Ok(Some(hints))
            }
            Written::Behind => {
                self.behind = true;
                Ok(Some(Hints { remote: RemoteState::Running, ended: false, update_interval: None }))
            }
            Written::Gone => Ok(None),
        }
    }

    async fn ask(&mut self, manager: &Manager) -> Result<Option<Hints>, ClientError> {
        self.asked = true;
        let body = confirm::running(manager, self.job);
        let (outcome, hints) = self.job.runner.gitlab().update_job(self.job.id, &self.job.token, &body).await?;
        Ok((outcome != UpdateOutcome::Gone).then_some(hints))
    }
}

/// Row "flow 20" of the parity inventory, with a tab before each reason.
fn line(job: &Tracked, pod: Option<&Pod>) -> String {
    let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref()).unwrap_or("unknown");
    let (namespace, name) = (job.namespace(), &job.pod);
    let mut text = format!("Waiting for pod {namespace}/{name} to be running on the node {node}, status is Pending\n");
    for (reason, message) in pod.map(diagnose::conditions).unwrap_or_default() {
        text.push_str(&format!("\t{reason}: \"{message}\"\n"));
    }
    text
}
