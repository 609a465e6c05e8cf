//! The start in a namespace: each job that it holds for us goes on from the step it has reached.

use crate::admit::{Slot, Tracked};
use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use crate::store::Step;
use crate::wiring::{self, Manager, RunnerSide};
use crate::{Error, places, steps, store, sweep};
use agent_contract::Plan;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const LISTING: Duration = Duration::from_secs(30);

/// What a namespace holds for us.
pub struct Found {
    /// Plan Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Names of pods.
    pub pods: BTreeSet<String>,
}

/// Goes on with everything in these namespaces, and in those that jobs had asked for in their clusters.
pub async fn recover(manager: &Arc<Manager>, new: &[(Arc<Cluster>, String)]) {
    for (cluster, namespace) in new {
        let found = find(manager, cluster, namespace).await;
        begin(manager, cluster, namespace, found);
    }
    for cluster in manager.clusters() {
        if !new.iter().any(|(one, _)| Arc::ptr_eq(one, &cluster)) {
            continue;
        }
        let named = manager.namespaces(&cluster);
        let more = places::noted(manager, &cluster).await.unwrap_or_else(|error| {
            tracing::warn!(error = cluster::chain(&error), "failed to see which namespaces jobs had asked for");
            BTreeSet::new()
        });
        for namespace in more.iter().filter(|namespace| !named.contains(*namespace) && !cluster.is_watched(namespace)) {
            match list(manager, &cluster, namespace).await {
                Ok(found) if found.secrets.is_empty() && found.pods.is_empty() => {
                    places::forget(manager, &cluster, namespace).await;
                }
                Ok(found) => begin(manager, &cluster, namespace, found),
                Err(error) => {
                    let (hint, error) = (hint(&error), cluster::chain(&error));
                    tracing::warn!(namespace, error, hint, "failed to see what a namespace holds that jobs had asked for");
                }
            }
        }
    }
}

/// Goes on with what a namespace holds, and watches it from then on.
fn begin(manager: &Arc<Manager>, cluster: &Arc<Cluster>, namespace: &str, found: Found) {
    let jobs = go_on(manager, cluster, namespace, &found);
    if !found.secrets.is_empty() || !found.pods.is_empty() {
        let (secrets, pods) = (found.secrets.len(), found.pods.len());
        tracing::info!(namespace, jobs, secrets, pods, "went on with what was there");
    }
    sweep::sweep(manager, cluster, namespace, &found);
    cluster.watch(manager, namespace);
}

async fn find(manager: &Manager, cluster: &Cluster, namespace: &str) -> Found {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let error = match list(manager, cluster, namespace).await {
            Ok(found) => return found,
            Err(error) => error,
        };
        let (hint, error) = (hint(&error), cluster::chain(&error));
        tracing::error!(namespace, error, hint, "failed to see what the cluster holds; no job is asked for until then");
        tokio::time::sleep(backoff.pause()).await;
    }
}

fn hint(error: &CallError) -> &'static str {
    match error.code() {
        Some(401 | 403) => "the manager needs a Role there, which `gantry rbac` prints",
        Some(404) => "the namespace has to exist",
        _ => "",
    }
}

async fn list(manager: &Manager, cluster: &Cluster, namespace: &str) -> Result<Found, CallError> {
    let parameters = ListParams::default().labels(&manager.selector());
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let secrets = cluster::persist(LISTING, "list the plans", || secrets.list(&parameters)).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let pods = cluster::persist(LISTING, "list the pods", || pods.list_metadata(&parameters)).await?;
    let named = |secret: Secret| secret.metadata.name.clone().map(|name| (name, secret));
    Ok(Found {
        secrets: secrets.items.into_iter().filter_map(named).collect(),
        pods: pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect(),
    })
}

/// Starts a task for each job; answers how many.
fn go_on(manager: &Arc<Manager>, cluster: &Arc<Cluster>, namespace: &str, found: &Found) -> usize {
    let mut jobs = 0;
    for (name, secret) in &found.secrets {
        let (Some(first), Some(count)) = (name.strip_suffix("-plan"), store::count(secret)) else { continue };
        let plan = match store::read(first, count, &found.secrets) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(pod.name = first, %error, "a stored plan cannot be read, its job is left to its agent");
                continue;
            }
        };
        let runner = match runner_of(manager, cluster, namespace, &plan) {
            Ok(runner) => runner,
            Err(error) => {
                tracing::error!(
                    pod.name = first,
                    error = cluster::chain(&error),
                    "a stored plan names a GitLab that cannot be asked"
                );
                continue;
            }
        };
        let mut job = Tracked::new(&plan, runner.clone(), count);
        namespace.clone_into(&mut job.namespace);
        first.clone_into(&mut job.first);
        job.has_image_volume = cluster.features().image_volumes;
        let step = store::step(secret);
        let exists = attempt(&mut job, step, &found.pods);
        let Some(following) = cluster.hub.follow(namespace, &job.pod) else { continue };
        let slot = Slot::take_what_is_left(manager, &runner);
        tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = runner.config.name, ?step, exists, "job gone on with");
        let manager = manager.clone();
        match step {
            Step::Again(..) if !exists => manager.clone().spawn(steps::from_the_retry(manager, job, plan, following, slot)),
            Step::Stored if !exists => manager.clone().spawn(steps::from_the_plan(manager, job, plan, following, slot)),
            Step::Stored | Step::Again(..) => manager.clone().spawn(steps::from_the_pod(manager, job, false, following, slot)),
            Step::Launched(..) | Step::Telling(_) => {
                manager.clone().spawn(steps::from_the_pod(manager, job, true, following, slot));
            }
        }
        jobs += 1;
    }
    jobs
}

/// Which pod of a job comes next, by its step and the pods that are there; answers whether that one is there.
fn attempt(job: &mut Tracked, step: Step, pods: &BTreeSet<String>) -> bool {
    let named = |attempt: u32| if attempt > 1 { format!("{}-{attempt}", job.first) } else { job.first.clone() };
    let newest = pods.range(job.first.clone()..).take_while(|pod| pod.starts_with(&job.first));
    let newest = newest.filter_map(|pod| pod_spec::attempt_of(pod, &job.first)).max();
    let (attempt, failures) = match step {
        Step::Stored => (1, 0),
        Step::Launched(attempt, failures) | Step::Again(attempt, failures) => (attempt, failures),
        Step::Telling(offset) => {
            job.telling_at = Some(offset);
            (newest.unwrap_or(1), 0)
        }
    };
    let exists = pods.contains(&named(attempt));
    // The pod before is what has to go first.
    let pod = if matches!(step, Step::Again(..)) && !exists { named(attempt.saturating_sub(1)) } else { named(attempt) };
    (job.pod, job.attempt, job.pull_failures) = (pod, attempt, failures);
    exists
}

/// The entry that a plan came through; one that is not configured any more is made up from the plan.
fn runner_of(manager: &Manager, cluster: &Arc<Cluster>, namespace: &str, plan: &Plan) -> Result<Arc<RunnerSide>, Error> {
    let settings = &plan.settings;
    let same = |runner: &&Arc<RunnerSide>| {
        runner.config.short_token() == settings.runner_short_token
            && runner.config.url == plan.coordinator.url
            && Arc::ptr_eq(&runner.cluster, cluster)
    };
    if let Some(runner) = manager.setup().runners.iter().find(same) {
        return Ok(runner.clone());
    }
    let mut config = runner_config::Runner {
        name: settings.runner_name.clone(),
        url: plan.coordinator.url.clone(),
        token: settings.runner_short_token.clone(),
        ..runner_config::Runner::default()
    };
    config.kubernetes.namespace = namespace.to_owned();
    config.kubernetes.image = settings.image.clone();
    let ca_pem = plan.coordinator.ca_pem.clone();
    let client = wiring::gitlab(&manager.connect, &config, ca_pem.clone(), &manager.version)?;
    Ok(Arc::new(RunnerSide::new(config, cluster.clone(), (client, ca_pem), 1)))
}
