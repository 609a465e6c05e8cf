//! The pod: made under a name derived from the job, so that a repeated call cannot make a second one.

use crate::admit::Tracked;
use crate::adopt;
use crate::cluster::{self, CallError};
use crate::diagnose;
use crate::finish::Told;
use crate::note::{self, NotOurs};
use crate::waiting::{Heard, Waiting};
use crate::wiring::Manager;
use job::{FailureReason, Job};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::PostParams;
use pod_spec::{BuildError, Surroundings};
use std::time::Duration;
use tokio::time::Instant;

/// GitLab Runner's time for a pod to run, where none is set.
const POLL_TIMEOUT: Duration = Duration::from_secs(180);

/// Between tries of a pod that a quota refuses.
const ROOM: Duration = Duration::from_secs(5);

/// Time until the pod of a job must run.
pub fn poll_timeout(job: &Tracked) -> Duration {
    match job.runner.config.kubernetes.poll_timeout {
        0 => POLL_TIMEOUT,
        seconds => Duration::from_secs(seconds),
    }
}

/// Why there is no pod.
pub enum Unlaunched {
    /// There will be none.
    Over(Told),
    /// The manager stops, or the job is another's now; who has it goes on.
    LeftAlone,
}

impl From<NotOurs> for Unlaunched {
    fn from(NotOurs: NotOurs) -> Self {
        Self::LeftAlone
    }
}

/// The pod of a job, or what to tell of a job that makes none.
pub fn pod_of(manager: &Manager, tracked: &mut Tracked, job: &Job) -> Result<Pod, Told> {
    let features = tracked.runner.cluster.features();
    tracked.has_image_volume = features.image_volumes;
    let surroundings = Surroundings {
        owner: &manager.owner,
        helper_image: &manager.helper_image,
        plan_parts: tracked.parts,
        attempt: tracked.attempt,
        pull_failures: tracked.pull_failures,
        features,
    };
    pod_spec::build(job, &tracked.runner.config, &surroundings).map_err(|error| impossible(tracked, &error))
}

/// A job that makes no pod: a mistake of job or configuration, but for an image that is not allowed, which GitLab Runner
/// calls a failure of its own and explains in lines before the last.
fn impossible(job: &Tracked, error: &BuildError) -> Told {
    let BuildError::Disallowed { image, kind, patterns } = error else {
        return Told::failed(job, FailureReason::RunnerConfigurationError, &error.to_string());
    };
    let told = Told::failed(job, FailureReason::RunnerSystemFailure, &diagnose::before_the_job(&error.to_string()));
    let mut lines = format!("\x1b[31;1mERROR: The \"{image}\" image is not present on list of allowed {kind}:\x1b[0;m\n");
    lines.extend(patterns.iter().map(|pattern| format!("- {pattern}\n")));
    lines.push_str(&format!("Please check the runner's configuration: allowed_{kind}\n"));
    told.behind(&job.masked(&lines))
}

/// Creates the pod; one that is there already is this one.
pub async fn launch(manager: &Manager, job: &Tracked, pod: &Pod) -> Result<(), Unlaunched> {
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let (parameters, by) = (PostParams::default(), Instant::now() + poll_timeout(job));
    let mut waiting = None;
    loop {
        let budget = by.saturating_duration_since(Instant::now());
        let created = cluster::persist(budget, "create the pod", || pods.create(&parameters, pod)).await;
        match created {
            Ok(_) => {
                tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "pod created");
                break;
            }
            Err(error) if error.is_taken() => {
                tracing::info!(job.id = job.id, pod.name = job.pod, "the pod is there already");
                // A manager that had the job before us may have made it after we looked. The note goes first: a pod that is
                // gone before it is noted cannot be told from one that never was.
                note::launched(manager, job).await?;
                adopt::take_pod(manager, job, &job.pod).await;
                return Ok(());
            }
            Err(error) if error.is_over_quota() && Instant::now() + ROOM < by => {
                if waiting.is_none() {
                    // Once the trace has a line, it must not be taken for somebody else's after a restart.
                    note::again(manager, job, job.attempt, job.pull_failures).await?;
                }
                let lines = waiting.get_or_insert_with(|| Waiting::at_once(job));
                wait_for_room(manager, lines, &cluster::chain(&error)).await?;
            }
            Err(error) => return Err(Unlaunched::Over(refusal(job, &error))),
        }
    }
    note::launched(manager, job).await?;
    Ok(())
}

/// A quota lets pods in as others end: it is waited for like a node.
async fn wait_for_room(manager: &Manager, waiting: &mut Waiting<'_>, why: &str) -> Result<(), Unlaunched> {
    let mut pod = Pod::default();
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("QuotaExceeded".to_owned()),
        message: Some(why.to_owned()),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() });
    if waiting.next().is_some_and(|at| at <= Instant::now()) {
        match waiting.tick(manager, Some(&pod)).await {
            Heard::Nothing => {}
            Heard::Canceling => return Err(Unlaunched::Over(Told::canceled())),
            Heard::Unwanted => return Err(Unlaunched::Over(Told::Already)),
        }
    }
    tokio::select! {
        biased;
        () = manager.stop.cancelled() => Err(Unlaunched::LeftAlone),
        () = tokio::time::sleep(ROOM) => Ok(()),
    }
}

/// An object that breaks a rule comes of job and configuration; a quota or a policy of the cluster does not.
fn refusal(job: &Tracked, error: &CallError) -> Told {
    let reason = match error.code() {
        Some(400 | 413 | 422) => FailureReason::RunnerConfigurationError,
        _ => FailureReason::RunnerSystemFailure,
    };
    let error = cluster::chain(error);
    let sentence = format!("setting up build pod: the pod {}/{} could not be made: {error}", job.namespace(), job.pod);
    Told::failed(job, reason, &diagnose::before_the_job(&sentence))
}
