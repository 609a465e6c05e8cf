//! One job from step to step, from its beginning or from where a manager before us left it.
//!
//! The steps up to the pod hold plan and pod and are short, following is long: they are boxed, so that their memory is
//! given back before a pod is followed for hours.

use crate::admit::{Slot, Tracked};
use crate::adopt;
use crate::backoff::Backoff;
use crate::cluster;
use crate::confirm::{self, Confirmed};
use crate::finish::{self, Told};
use crate::follow::{self, End};
use crate::launch::{self, Unlaunched};
use crate::note;
use crate::places;
use crate::retry::{self, Next};
use crate::services;
use crate::store::{self, Content, StoreError};
use crate::trace::Writer;
use crate::watch::Following;
use crate::wiring::{Manager, RunnerSide};
use agent_contract::Plan;
use job::FailureReason;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Between questions whether GitLab still wants a job, at most.
const ASKING: Duration = Duration::from_secs(60);
const LOOKING: Duration = Duration::from_secs(30);
/// What runs elsewhere has this long to report its timeout itself.
const AFTER_TIMEOUT: Duration = Duration::from_secs(300);

/// A job that was just handed out.
pub async fn from_the_start(manager: Arc<Manager>, runner: Arc<RunnerSide>, plan: Plan, slot: Slot) {
    if let Some((job, following)) = Box::pin(begin(&manager, runner, plan)).await {
        to_the_end(&manager, job, following, slot).await;
    }
}

/// Up to the pod; `None` when the job is over before.
async fn begin(manager: &Manager, runner: Arc<RunnerSide>, plan: Plan) -> Option<(Tracked, Following)> {
    let (namespace, pod) = (&plan.settings.namespace, &plan.settings.pod_name);
    let (Some(hand), Some(following)) = (runner.cluster.hands.take(namespace, pod), runner.cluster.hub.follow(namespace, pod))
    else {
        tracing::warn!(job.id = plan.job.id, runner.name = runner.config.name, "the job was handed out again while it is ours");
        return None;
    };
    let parts = match plan.to_parts() {
        Ok(parts) => parts,
        Err(error) => {
            let job = Tracked::new(&plan, runner, 0);
            let sentence = format!("the plan of the job cannot be written: {error}");
            refuse(manager, &job, Told::failed(&job, FailureReason::RunnerSystemFailure, &sentence)).await;
            return None;
        }
    };
    let mut job = Tracked::new(&plan, runner, parts.len());
    job.hand = Some(hand);
    let pod = launch::pod_of(manager, &mut job, &plan.job);
    // From here on the plan is in the cluster and not in our memory.
    let labels = store::labels(manager, &job, plan.job.project.id);
    let mut values = pod_spec::hidden_variables(&plan.job);
    values.extend(pod_spec::registry_logins(&plan.job).map(|text| (pod_spec::SECRET_KEY.to_owned(), text)));
    let content = Content { parts, values };
    drop(plan);
    let stored = match places::note(manager, &job.runner.cluster, job.namespace()).await {
        Ok(()) => store::store(&job, labels, content).await,
        Err(error) => Err(StoreError::of(&error)),
    };
    match stored {
        Ok(()) => job.runner.cluster.watch(manager, job.namespace()),
        Err(StoreError::Refused(sentence)) => {
            store::forget(&mut job).await;
            refuse(manager, &job, Told::failed(&job, FailureReason::RunnerSystemFailure, &sentence)).await;
            return None;
        }
        Err(StoreError::OfAnother) => {
            tracing::warn!(job.id = job.id, pod.name = job.pod, "the job is with another manager");
            return None;
        }
        Err(StoreError::Unreachable(error)) => {
            job.runner.cluster.is_down.store(true, Ordering::Relaxed);
            tracing::error!(
                job.id = job.id,
                error,
                "the plan could not be stored; not confirmed, GitLab hands the job out again"
            );
            return None;
        }
    }
    let confirmed = confirm::confirm(manager, &job, confirm::Since::Now).await;
    from_confirmation(manager, &job, confirmed, pod).await.then_some((job, following))
}

/// A job whose plan is stored and whose pod was never made.
pub async fn from_the_plan(manager: Arc<Manager>, mut job: Tracked, plan: Plan, following: Following, slot: Slot) {
    let launched = Box::pin(async {
        let pod = launch::pod_of(&manager, &mut job, &plan.job);
        drop(plan);
        match confirm::confirm(&manager, &job, confirm::Since::LongAgo).await {
            Confirmed::Begun => None,
            confirmed => Some(from_confirmation(&manager, &job, confirmed, pod).await),
        }
    });
    match launched.await {
        Some(true) => to_the_end(&manager, job, following, slot).await,
        Some(false) => {}
        None => from_the_trace(manager, job, following, slot).await,
    }
}

/// A job whose trace has begun, though no pod was noted and none was listed.
///
/// A list may lack a pod, so it is asked for by its name. Without one the trace may be that of our pod, which went away
/// before it was noted, or that of somebody to whom GitLab handed the job out again. Who may not be ended: once the job's
/// time is over nobody runs it any more, and then a report ends what is left of it.
async fn from_the_trace(manager: Arc<Manager>, job: Tracked, following: Following, slot: Slot) {
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let pod = loop {
        match cluster::persist(LOOKING, "look for the pod", || pods.get_metadata_opt(&job.pod)).await {
            Ok(pod) => break pod,
            Err(error) => {
                let error = cluster::chain(&error);
                tracing::warn!(job.id = job.id, pod.name = job.pod, error, "whether the job has a pod is not known yet");
                tokio::select! {
                    biased;
                    () = manager.stop.cancelled() => return,
                    () = tokio::time::sleep(LOOKING) => {}
                }
            }
        }
    };
    if pod.is_some() {
        adopt::take_pod(&manager, &job, &job.pod).await;
        return from_the_pod(manager, job, false, following, slot).await;
    }
    drop(slot);
    after_its_time(&manager, &job).await;
}

/// Ends a job of which nobody knows whether it still runs elsewhere, when its time is over and GitLab still wants it.
async fn after_its_time(manager: &Manager, job: &Tracked) {
    tracing::warn!(
        job.id = job.id,
        pod.name = job.pod,
        "the trace of a job has begun, and its pod is not there: it is ended after its time"
    );
    let (by, mut backoff) = (Instant::now() + job.timeout + AFTER_TIMEOUT, Backoff::new(Duration::from_secs(1), ASKING));
    while Instant::now() < by {
        tokio::select! {
            biased;
            () = manager.stop.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
        let mut writer = Writer::new(job);
        // A refusal alone may be a proxy's.
        if matches!(writer.length().await, Ok(None)) && writer.has_ended() {
            tracing::info!(job.id = job.id, pod.name = job.pod, "the job is over");
            return finish::clean(manager, job).await;
        }
    }
    let sentence = format!("the pod {}/{} is gone, and nobody saw why", job.namespace(), job.pod);
    Box::pin(finish::finish(manager, job, Told::failed(job, FailureReason::RunnerSystemFailure, &sentence))).await;
}

/// A job whose next pod is to be made; the plan says what it is, and `job` which pod comes next.
pub async fn from_the_retry(manager: Arc<Manager>, mut job: Tracked, plan: Plan, following: Following, slot: Slot) {
    let next = Box::pin(retry::go_on(&manager, &mut job, following, plan)).await;
    if let Some(following) = conclude(&manager, &job, next).await {
        to_the_end(&manager, job, following, slot).await;
    }
}

/// A job whose pod has been made, and perhaps is gone.
pub async fn from_the_pod(manager: Arc<Manager>, job: Tracked, launched: bool, following: Following, slot: Slot) {
    if !launched && note::launched(&manager, &job).await.is_err() {
        return;
    }
    to_the_end(&manager, job, following, slot).await;
}

/// A job that cannot be stored or understood: GitLab is told why.
pub async fn refuse(manager: &Manager, job: &Tracked, told: Told) {
    match confirm::confirm(manager, job, confirm::Since::Now).await {
        Confirmed::Forgotten => {}
        Confirmed::Begun => confirm::left_to_another(job),
        Confirmed::Ours | Confirmed::Canceling => finish::finish(manager, job, told).await,
    }
}

/// Makes the pod of a job that is ours; `false` when the job is over.
async fn from_confirmation(manager: &Manager, job: &Tracked, confirmed: Confirmed, pod: Result<Pod, Told>) -> bool {
    let launched = match (confirmed, pod) {
        (Confirmed::Forgotten | Confirmed::Begun, _) => {
            if confirmed == Confirmed::Begun {
                confirm::left_to_another(job);
            }
            // Whoever has it otherwise does the same.
            let _ = store::delete(manager, job).await;
            return false;
        }
        (Confirmed::Canceling, _) => Err(Unlaunched::Over(Told::canceled())),
        (Confirmed::Ours, Err(told)) => Err(Unlaunched::Over(told)),
        (Confirmed::Ours, Ok(pod)) => launch::launch(manager, job, &pod).await,
    };
    match launched {
        Ok(()) => true,
        Err(Unlaunched::LeftAlone) => false,
        Err(Unlaunched::Over(told)) => {
            finish::finish(manager, job, told).await;
            false
        }
    }
}

async fn to_the_end(manager: &Manager, mut job: Tracked, mut following: Following, slot: Slot) {
    let (end, told) = loop {
        let end = follow::follow(manager, &job, &mut following).await;
        let told = match &end {
            End::LeftAlone => return,
            End::Reported => Told::Already,
            End::Unreported(verdict) => {
                let pod = following.newest().pod;
                tokio::select! {
                    biased;
                    () = manager.stop.cancelled() => return,
                    news = Box::pin(services::news(manager, &job, pod.as_deref())) => Told::of_agent(&job, verdict, news),
                }
            }
            End::Failed(diagnosis) => {
                let next = Box::pin(retry::again(manager, &mut job, following, diagnosis.clone())).await;
                let Some(next) = conclude(manager, &job, next).await else { return };
                following = next;
                continue;
            }
            End::Canceling => Told::canceled(),
            End::Unwanted => Told::Already,
        };
        break (end, told);
    };
    if !Box::pin(finish::report(manager, &job, told)).await {
        return;
    }
    // There is room for the next job: this one runs no more, or is taken away now.
    drop(slot);
    if matches!(end, End::Reported | End::Unreported(_)) {
        let ready = async { tokio::join!(manager.calm.comes(), follow::to_the_end_of_the_pod(&mut following)) };
        tokio::select! { biased; _ = ready => {}, () = manager.stop.cancelled() => {} }
    }
    Box::pin(finish::clean(manager, &job)).await;
}

/// The pod to follow now, if there is one; else the job is over or left alone.
async fn conclude(manager: &Manager, job: &Tracked, next: Next) -> Option<Following> {
    match next {
        Next::Follow(following) => return Some(following),
        Next::Over(told) => Box::pin(finish::finish(manager, job, told)).await,
        Next::LeftAlone => {}
    }
    None
}
