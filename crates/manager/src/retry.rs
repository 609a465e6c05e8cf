//! Another pod for a job of which no script has run: the first could not pull an image, or the cluster took it away.
//!
//! The next attempt is noted in the plan before the pod of the one before is deleted, and that pod has to be gone before
//! the next one is made: its build container might come up until the last moment. Then somebody has written to the
//! trace, or its last state says so, and there is no second attempt.

use crate::admit::Tracked;
use crate::cluster;
use crate::diagnose::{self, Cure, Diagnosis};
use crate::finish::Told;
use crate::launch::{self, Unlaunched};
use crate::note;
use crate::store::{self, FetchError};
use crate::trace::{Writer, Written};
use crate::watch::Following;
use crate::wiring::Manager;
use agent_contract::Plan;
use job::FailureReason;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Most pods of a job.
const MOST: u32 = 9;
/// Most pods of a job where the cluster took the ones before away.
const MOST_TAKEN: u32 = 3;
const DELETING: Duration = Duration::from_secs(60);
/// A pod is gone by its grace and this.
const LEAVING: Duration = Duration::from_secs(120);
/// Between questions for a pod whose end the watch may have missed.
const LOOK: Duration = Duration::from_secs(30);
/// Nothing of the job runs in a pod that is replaced, so what else runs there need not take its time.
const GRACE: u32 = 1;

/// What comes after a pod that failed.
pub enum Next {
    /// The next one.
    Follow(Following),
    /// Nothing.
    Over(Told),
    /// The manager stops, or the job is another's now.
    LeftAlone,
}

/// What may help, if another pod may.
fn cure(job: &Tracked, failed: &Diagnosis) -> Option<Cure> {
    let cure = failed.cure.filter(|_| !failed.script_may_have_run && job.attempt < MOST)?;
    let hopeless = match cure {
        Cure::NextPolicy => false,
        Cure::AnotherPod => job.attempt >= MOST_TAKEN,
        Cure::NoImageVolume => !job.has_image_volume,
    };
    (!hopeless).then_some(cure)
}

/// Makes another pod if that may help.
pub async fn again(manager: &Manager, job: &mut Tracked, following: Following, failed: Diagnosis) -> Next {
    let explained = if failed.script_may_have_run { failed.sentence.clone() } else { diagnose::before_the_job(&failed.sentence) };
    let told = Told::failed(job, failed.reason, &explained);
    let Some(cure) = cure(job, &failed) else { return Next::Over(told) };
    let plan = match store::fetch(manager, job).await {
        Ok(plan) => plan,
        Err(FetchError::NotOurs) => return Next::LeftAlone,
        Err(FetchError::Unreadable(error)) => {
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "no other pod: the plan could not be read");
            return Next::Over(told);
        }
    };
    let policies = pod_spec::pull_attempts(&plan.job, &job.runner.config).unwrap_or(1);
    if cure == Cure::NextPolicy && job.pull_failures as usize + 1 >= policies {
        return Next::Over(told);
    }
    let (failures, how) = match cure {
        Cure::NextPolicy => (job.pull_failures + 1, "with the next pull policy"),
        Cure::AnotherPod => (job.pull_failures, "with another pod"),
        Cure::NoImageVolume => {
            job.runner.cluster.give_up_image_volumes();
            (job.pull_failures, "without a volume that is an image")
        }
    };
    let next = job.attempt + 1;
    let sentence = job.masked(&failed.sentence.replace(['\n', '\r'], " "));
    let line = format!("\x1b[0;33mWARNING: {sentence}\x1b[0;m\nAttempt #{next}: trying {how}\n");
    match Writer::new(job).write_next(line.as_bytes()).await {
        Ok(Written::Yes(_)) => {}
        // An agent has begun after all.
        Ok(Written::Behind) => return Next::Over(told),
        Ok(Written::Gone) => return Next::Over(Told::Already),
        Err(error) => {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the job's log does not say why there is another pod");
        }
    }
    tracing::warn!(job.id = job.id, pod.name = job.pod, attempt = next, why = sentence, "another pod, {how}");
    if note::again(manager, job, next, failures).await.is_err() {
        return Next::LeftAlone;
    }
    (job.attempt, job.pull_failures) = (next, failures);
    let written = job.written.load(Ordering::Relaxed);
    match replace(manager, job, following).await {
        Ok(()) => {}
        Err(Stays::LeftAlone) => return Next::LeftAlone,
        Err(Stays::Because(why)) => {
            let sentence = diagnose::before_the_job(&format!("{}; no other pod: {why}", failed.sentence));
            return Next::Over(Told::failed(job, failed.reason, &sentence));
        }
    }
    if matches!(Writer::new(job).length().await, Ok(Some(length)) if length > written) {
        return Next::Over(told);
    }
    make(manager, job, plan).await
}

/// The same from a note that a manager before us has left: `job` has the number of the next pod, and the name of the one
/// before.
pub async fn go_on(manager: &Manager, job: &mut Tracked, following: Following, plan: Plan) -> Next {
    match replace(manager, job, following).await {
        Ok(()) => {}
        Err(Stays::LeftAlone) => return Next::LeftAlone,
        Err(Stays::Because(why)) => return Next::Over(Told::failed(job, FailureReason::RunnerSystemFailure, &why)),
    }
    if let Ok(Some(length)) = Writer::new(job).length().await {
        job.written.store(length, Ordering::Relaxed);
    }
    make(manager, job, plan).await
}

/// Why a pod is not replaced.
enum Stays {
    /// It cannot be, in a sentence.
    Because(String),
    /// The manager stops.
    LeftAlone,
}

/// Deletes the pod before, and waits until it is gone without having come up.
async fn replace(manager: &Manager, job: &Tracked, mut following: Following) -> Result<(), Stays> {
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let parameters = DeleteParams { grace_period_seconds: Some(GRACE), ..DeleteParams::default() };
    let mut last = following.newest().pod;
    match cluster::persist(DELETING, "delete the pod", || pods.delete(&job.pod, &parameters)).await {
        Ok(_) => last = gone(manager, job, &mut following).await?.or(last),
        Err(error) if error.is_missing() => {}
        Err(error) => {
            return Err(Stays::Because(format!("the pod {} could not be deleted: {}", job.pod, cluster::chain(&error))));
        }
    }
    if last.is_some_and(|pod| diagnose::script_may_have_run(&pod)) {
        return Err(Stays::Because(format!("the pod {} was deleted when the job had just begun", job.pod)));
    }
    Ok(())
}

/// Waits until a pod is gone; its last state.
async fn gone(manager: &Manager, job: &Tracked, following: &mut Following) -> Result<Option<Arc<Pod>>, Stays> {
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let (mut last, by) = (None, Instant::now() + LEAVING);
    loop {
        let seen = following.newest();
        last = seen.pod.or(last);
        if seen.deleted {
            return Ok(last);
        }
        tokio::select! {
            biased;
            () = manager.stop.cancelled() => return Err(Stays::LeftAlone),
            () = following.changed() => continue,
            () = tokio::time::sleep(LOOK) => {}
        }
        match cluster::call("look for the pod", pods.get_opt(&job.pod)).await {
            Ok(None) => return Ok(last),
            Ok(Some(pod)) => last = Some(Arc::new(pod)),
            Err(_) => {}
        }
        if Instant::now() > by {
            // What a node does that does not answer nobody knows: two pods might do one job.
            let node = last.as_deref().and_then(|pod| pod.spec.as_ref()?.node_name.clone());
            let why = node.map(|node| format!(": its node {node} does not answer")).unwrap_or_default();
            return Err(Stays::Because(format!("the pod {} does not go away{why}", job.pod)));
        }
    }
}

/// Makes the pod of this attempt.
async fn make(manager: &Manager, job: &mut Tracked, plan: Plan) -> Next {
    job.pod = pod_spec::pod_name(&plan.job, &job.runner.config, job.attempt);
    let Some(following) = job.runner.cluster.hub.follow(job.namespace(), &job.pod) else { return Next::LeftAlone };
    let pod = match launch::pod_of(manager, job, &plan.job) {
        Ok(pod) => pod,
        Err(told) => return Next::Over(told),
    };
    drop(plan);
    match launch::launch(manager, job, &pod).await {
        Ok(()) => Next::Follow(following),
        Err(Unlaunched::Over(told)) => Next::Over(told),
        Err(Unlaunched::LeftAlone) => Next::LeftAlone,
    }
}
