//! The pod: made under a name derived from the job, so that a repeated call cannot make a second one.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::finish::Told;
use crate::store;
use crate::wiring::Manager;
use job::{FailureReason, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use pod_spec::Surroundings;
use std::time::Duration;

/// GitLab Runner's time for a pod to run, where none is set.
const POLL_TIMEOUT: Duration = Duration::from_secs(180);

/// Time until the pod of a job must run.
pub fn poll_timeout(job: &Tracked) -> Duration {
    match job.runner.config.kubernetes.poll_timeout {
        0 => POLL_TIMEOUT,
        seconds => Duration::from_secs(seconds),
    }
}

/// The pod of a job, or what to tell of a job that makes none.
pub fn pod_of(manager: &Manager, tracked: &Tracked, job: &Job) -> Result<Pod, Told> {
    let surroundings =
        Surroundings { owner: &manager.owner, helper_image: &manager.helper_image, plan_parts: tracked.parts, attempt: 1 };
    pod_spec::build(job, &tracked.runner.config, &surroundings)
        .map_err(|error| Told::failed(tracked, FailureReason::RunnerConfigurationError, &error.to_string()))
}

/// Creates the pod; one that is there already is this one.
pub async fn launch(manager: &Manager, job: &Tracked, pod: &Pod) -> Result<(), Told> {
    let pods: Api<Pod> = Api::namespaced(manager.client.clone(), job.namespace());
    let parameters = PostParams::default();
    let created = cluster::persist(poll_timeout(job), "create the pod", || pods.create(&parameters, pod)).await;
    match created {
        Ok(_) => tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "pod created"),
        Err(error) if error.is_taken() => tracing::info!(job.id = job.id, pod.name = job.pod, "the pod is there already"),
        Err(error) => return Err(refusal(job, &error)),
    }
    store::mark_launched(manager, job).await;
    Ok(())
}

/// An object that breaks a rule comes of job and configuration; a quota or a policy of the cluster does not.
fn refusal(job: &Tracked, error: &CallError) -> Told {
    let reason = match error.code() {
        Some(400 | 413 | 422) => FailureReason::RunnerConfigurationError,
        _ => FailureReason::RunnerSystemFailure,
    };
    let error = cluster::chain(error);
    Told::failed(job, reason, &format!("the pod {}/{} could not be made: {error}", job.namespace(), job.pod))
}
