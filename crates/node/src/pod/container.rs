//! One container of a pod, from its image to its last state, and again if its restart policy says so.
//!
//! Flow: image, then the pod's sandbox and volumes, then its description, then the process. Everything that can come
//! right later (an image, a Secret) is tried again with the kubelet's waiting reasons; what cannot (a program that
//! does not exist) is its end. Whoever asks the pod to end is heard in each of these.

use super::blueprint::{Blueprint, blueprint};
use super::handle::Running;
use super::stop::{Backoff, Stopped};
use super::{Context, Prepared, pull, termination};
use crate::clock;
use crate::logs::{self, Log};
use crate::status::{State, Termination};
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use rustix::pipe::PipeFlags;
use sandbox::StartError;
use sandbox::image::Image;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Waiting times between tries to make a container.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Waiting times before it is started again (the kubelet's own).
const RESTART: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long a process that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(30);
/// How long the rest of its output may take to be written.
const DRAINED: Duration = Duration::from_secs(5);

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    Never,
    /// When it failed.
    OnFailure,
    /// Whenever it ends.
    Always,
}

impl Restart {
    /// Reads Kubernetes' word.
    pub fn parse(word: Option<&str>) -> Self {
        match word {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn wants(self, exit_code: i32) -> bool {
        self == Self::Always || (self == Self::OnFailure && exit_code != 0)
    }
}

/// A container and everything that decides about it.
pub struct Task {
    /// Its pod and the node.
    pub context: Context,
    /// What the pod says about it.
    pub container: Container,
    /// When it is started again.
    pub restart: Restart,
    /// When it has to end.
    pub stopped: Stopped,
    /// The pod's sandbox and volumes, once they are there.
    pub prepared: watch::Receiver<Option<Arc<Prepared>>>,
    /// Set when it has run for the first time.
    pub started: watch::Sender<bool>,
}

/// A process that runs.
struct Process {
    container: sandbox::Container,
    log: Arc<Log>,
    termination_log: std::path::PathBuf,
    stop_signal: i32,
    started_at: Timestamp,
}

impl Task {
    /// Runs it until it ends for good; answers its exit code, or `None` when it never had one.
    pub async fn run(mut self) -> Option<i32> {
        let mut backoff = Backoff::new(RESTART.0, RESTART.1);
        let name = self.container.name.clone();
        let mut runs = 0;
        loop {
            let end = self.run_once(runs).await?;
            let exit_code = end.exit_code;
            let again = self.restart.wants(exit_code) && self.stopped.deadline().is_none();
            self.context.handle.update_container(&name, |one| one.state = State::Terminated(end.clone()));
            if !again {
                return Some(exit_code);
            }
            let wait = backoff.take();
            let pod = format!("{}_{}({})", self.context.handle.name, self.context.handle.namespace, self.context.handle.uid);
            let sentence = format!("back-off {}s restarting failed container={name} pod={pod}", wait.as_secs());
            self.context.handle.warn("BackOff", format!("Back-off restarting failed container {name} in pod {pod}"));
            self.context.handle.update_container(&name, |one| {
                one.last = Some(end.clone());
                one.state = State::waiting("CrashLoopBackOff", sentence);
            });
            if !self.stopped.sleep(wait).await {
                self.context.handle.update_container(&name, |one| {
                    one.last = None;
                    one.state = State::Terminated(end);
                });
                return Some(exit_code);
            }
            runs += 1;
            self.context.handle.update_container(&name, |one| one.restarts = runs);
        }
    }

    /// One process, from image to end; `None` when it was not started because the pod has to end.
    async fn run_once(&mut self, run: u32) -> Option<Termination> {
        if self.stopped.deadline().is_some() {
            return None;
        }
        let name = self.container.name.clone();
        self.context.handle.update_container(&name, |one| {
            if one.last.is_none() {
                one.state = State::waiting("ContainerCreating", "");
            }
        });
        let image = pull::pull(&self.context, &self.container, &mut self.stopped).await?;
        let prepared = self.prepared().await?;
        let process = match self.start(&prepared, &image, run).await? {
            Ok(process) => process,
            Err(end) => return Some(end),
        };
        self.started.send_replace(true);
        let end = self.wait(&process).await;
        // Who waits for the end need not wait for the cleaning up.
        self.context.handle.update_container(&name, |one| one.state = State::Terminated(end.clone()));
        process.container.remove().await;
        Some(end)
    }

    async fn prepared(&mut self) -> Option<Arc<Prepared>> {
        tokio::select! {
            () = self.stopped.asked() => None,
            ready = self.prepared.wait_for(Option::is_some) => ready.ok()?.clone(),
        }
    }

    /// Makes and starts the process, again and again; an error that stays is an end.
    async fn start(&mut self, prepared: &Arc<Prepared>, image: &Image, run: u32) -> Option<Result<Process, Termination>> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let name = self.container.name.clone();
        let directory = self.context.directory.join("containers").join(&name).join(run.to_string());
        loop {
            let (reason, message) = match self.try_start(prepared, image, &directory).await {
                Ok(process) => return Some(Ok(process)),
                Err(Problem::Config(message)) => ("CreateContainerConfigError", message),
                Err(Problem::Create(message)) => ("CreateContainerError", message),
                Err(Problem::Final(message)) => {
                    self.context.handle.warn("Failed", format!("Error: {message}"));
                    return Some(Err(termination::never_started(message)));
                }
            };
            self.context.handle.warn("Failed", format!("Error: {message}"));
            self.context.handle.waits(&name, reason, message);
            if !self.stopped.sleep(backoff.take()).await {
                return None;
            }
        }
    }

    async fn try_start(&self, prepared: &Arc<Prepared>, image: &Image, directory: &Path) -> Result<Process, Problem> {
        let (name, handle) = (&self.container.name, &self.context.handle);
        let plan = {
            let (context, prepared, container) = (self.context.clone(), prepared.clone(), self.container.clone());
            let (image, directory) = (image.clone(), directory.to_owned());
            let work = move || blueprint(&context, &prepared, &container, &image, &directory);
            tokio::task::spawn_blocking(work).await.map_err(|error| Problem::Create(error.to_string()))?
        };
        let plan: Blueprint = plan.map_err(|error| Problem::Config(error.0))?;
        let create = |error: io::Error| Problem::Create(format!("failed to make the container's output: {error}"));
        let log = Log::new(&directory.join("log")).map_err(create)?;
        let (output, errors) = (pipe(&self.context, plan.user.uid), pipe(&self.context, plan.user.uid));
        let ((stdout, stdout_end), (stderr, stderr_end)) = (output.map_err(create)?, errors.map_err(create)?);
        logs::start(log.clone(), stdout, stderr).map_err(create)?;
        let termination_log = plan.termination_log.clone();
        let env = plan.process.env.clone();
        let spec = plan.into_spec(name, image, stdout_end, stderr_end);
        let container = prepared.pod.start(spec).await.map_err(|error| problem(&error))?;
        let started_at = clock::now();
        let id = format!("gantry://{}-{name}", handle.uid);
        handle.add_log(name, log.clone());
        handle.set_running(name, Some(Running { container: container.clone(), env }));
        handle.update_container(name, |one| {
            one.state = State::Running { started_at };
            one.image_id.clone_from(&image.id);
            one.container_id = Some(id);
        });
        handle.event("Created", format!("Created container: {name}"));
        handle.event("Started", format!("Started container {name}"));
        let stop_signal = image.config.stop_signal.as_deref().and_then(termination::signal).unwrap_or(libc::SIGTERM);
        Ok(Process { container, log, termination_log, stop_signal, started_at })
    }

    /// Waits for the end of the process, and brings it about when the pod has to end.
    async fn wait(&mut self, process: &Process) -> Termination {
        let (name, handle) = (self.container.name.clone(), self.context.handle.clone());
        let exit = process.container.wait();
        tokio::pin!(exit);
        let exit = tokio::select! {
            exit = &mut exit => exit,
            () = self.stopped.asked() => {
                handle.event("Killing", format!("Stopping container {name}"));
                process.container.kill(process.stop_signal);
                tokio::select! {
                    exit = &mut exit => exit,
                    () = self.stopped.expired() => {
                        process.container.kill(libc::SIGKILL);
                        match tokio::time::timeout(KILLED, &mut exit).await {
                            Ok(exit) => exit,
                            Err(_) => {
                                tracing::warn!(pod.name = %handle.name, container = %name, "a killed container does not end");
                                sandbox::Exit { code: 128 + libc::SIGKILL, signal: Some(libc::SIGKILL), oom_killed: false }
                            }
                        }
                    }
                }
            }
        };
        handle.set_running(&name, None);
        // A log that cannot be written keeps its writer busy, but must not keep the pod.
        let _ = tokio::time::timeout(DRAINED, process.log.ended()).await;
        let policy = self.container.termination_message_policy.as_deref();
        let message = termination::message(&process.termination_log, policy, &process.log, exit.code);
        let mut end = termination::ended(&exit, process.started_at, message);
        end.container_id = handle.record().containers.get(&name).and_then(|one| one.container_id.clone());
        end
    }
}

/// Why a container did not start.
enum Problem {
    /// What the pod says does not go together with what there is, yet.
    Config(String),
    /// The machine could not.
    Create(String),
    /// It never will.
    Final(String),
}

fn problem(error: &StartError) -> Problem {
    let message = super::chain(error);
    match error {
        StartError::CommandNotFound(_) | StartError::CannotRun(_) => Problem::Final(message),
        _ => Problem::Create(message),
    }
}

/// A pipe whose writing end belongs to the container's user, who may open it again as `/dev/stdout`.
fn pipe(context: &Context, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let owner = rustix::fs::Uid::from_raw(context.shared.ids.base.saturating_add(uid));
    rustix::fs::fchown(&writing, Some(owner), None)?;
    Ok((reading, writing))
}
