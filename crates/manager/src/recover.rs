//! The start: each job that the cluster holds for us goes on from the step it has reached.

use crate::admit::{Slot, Tracked};
use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::wiring::{Manager, RunnerSide};
use crate::{Error, steps, store, sweep, watch};
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

/// Goes on with everything; `false` when the manager stopped before it could begin.
pub async fn recover(manager: &Arc<Manager>) -> bool {
    for namespace in manager.namespaces() {
        let namespace = namespace.to_owned();
        let Some(found) = find(manager, &namespace).await else { return false };
        let jobs = go_on(manager, &namespace, &found);
        if !found.secrets.is_empty() || !found.pods.is_empty() {
            tracing::info!(
                namespace,
                jobs,
                secrets = found.secrets.len(),
                pods = found.pods.len(),
                "went on with what was there"
            );
        }
        sweep::sweep(manager, &namespace, &found);
        // The watch begins with a list, so it has to begin after all followers are there.
        let (hub, client, selector) = (manager.hub.clone(), manager.client.clone(), manager.selector());
        let (halt, stop) = (manager.halt.clone(), manager.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = halt.cancelled() => {},
                () = stop.cancelled() => {},
                () = watch::pods(hub, client, namespace, selector) => {}
            }
        });
    }
    true
}

async fn find(manager: &Manager, namespace: &str) -> Option<Found> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let error = tokio::select! {
            () = manager.stop.cancelled() => return None,
            listed = list(manager, namespace) => match listed {
                Ok(found) => return Some(found),
                Err(error) => error,
            },
        };
        let (hint, error) = (hint(&error), cluster::chain(&error));
        tracing::error!(namespace, error, hint, "failed to see what the cluster holds; no job is asked for until then");
        tokio::select! {
            () = manager.stop.cancelled() => return None,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

fn hint(error: &CallError) -> &'static str {
    match error.code() {
        Some(401 | 403) => "the manager needs a Role there, which `gantry rbac` prints",
        Some(404) => "the namespace has to exist",
        _ => "",
    }
}

async fn list(manager: &Manager, namespace: &str) -> Result<Found, CallError> {
    let parameters = ListParams::default().labels(&manager.selector());
    let secrets: Api<Secret> = Api::namespaced(manager.client.clone(), namespace);
    let secrets = cluster::persist(LISTING, "list the plans", || secrets.list(&parameters)).await?;
    let pods: Api<Pod> = Api::namespaced(manager.client.clone(), namespace);
    let pods = cluster::persist(LISTING, "list the pods", || pods.list_metadata(&parameters)).await?;
    let named = |secret: Secret| secret.metadata.name.clone().map(|name| (name, secret));
    Ok(Found {
        secrets: secrets.items.into_iter().filter_map(named).collect(),
        pods: pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect(),
    })
}

/// Starts a task for each job; answers how many.
fn go_on(manager: &Arc<Manager>, namespace: &str, found: &Found) -> usize {
    let mut jobs = 0;
    for (name, secret) in &found.secrets {
        let (Some(pod), Some(count)) = (name.strip_suffix("-plan"), store::count(secret)) else { continue };
        let plan = match store::read(pod, count, &found.secrets) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(pod.name = pod, %error, "a stored plan cannot be read, its job is left to its agent");
                continue;
            }
        };
        let runner = match runner_of(manager, namespace, &plan) {
            Ok(runner) => runner,
            Err(error) => {
                tracing::error!(
                    pod.name = pod,
                    error = cluster::chain(&error),
                    "a stored plan names a GitLab that cannot be asked"
                );
                continue;
            }
        };
        let mut job = Tracked::new(&plan, runner.clone(), count);
        pod.clone_into(&mut job.pod);
        job.telling_at = store::telling_at(secret);
        let Some(following) = manager.hub.follow(namespace, pod) else { continue };
        let slot = Slot::take_what_is_left(manager, &runner);
        let (launched, exists) = (store::is_launched(secret), found.pods.contains(pod));
        tracing::info!(job.id = job.id, pod.name = pod, runner.name = runner.config.name, launched, exists, "job gone on with");
        let manager = manager.clone();
        if launched || exists {
            manager.clone().spawn(steps::from_the_pod(manager, job, launched, following, slot));
        } else {
            manager.clone().spawn(steps::from_the_plan(manager, job, plan, following, slot));
        }
        jobs += 1;
    }
    jobs
}

/// The entry that a plan came through; one that is not configured any more is made up from the plan.
fn runner_of(manager: &Manager, namespace: &str, plan: &Plan) -> Result<Arc<RunnerSide>, Error> {
    let settings = &plan.settings;
    let same = |runner: &&Arc<RunnerSide>| {
        runner.config.short_token() == settings.runner_short_token
            && runner.config.url == plan.coordinator.url
            && runner.namespace == namespace
    };
    if let Some(runner) = manager.runners.iter().find(same) {
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
    RunnerSide::new(config, plan.coordinator.ca_pem.clone(), 1, &manager.version).map(Arc::new)
}
