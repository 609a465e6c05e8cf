//! What a crash left without a partner, found by our labels and our name; nothing else is ever touched.

use crate::cluster::{self, CallError};
use crate::recover::{Found, Made, Place};
use crate::store;
use agent_contract::names;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::time::Duration;

const DELETING: Duration = Duration::from_secs(600);

/// One object that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leftover {
    /// By name and uid.
    Pod(String, Option<String>),
    /// The same.
    Secret(String, Option<String>),
}

/// Deletes pods whose plan is gone (their end is known to GitLab) and parts of plans that were never whole.
pub fn sweep(place: Place<'_>, found: &Found) {
    let (mut jobs, mut wanted) = (BTreeSet::new(), BTreeSet::new());
    for job in found.jobs() {
        jobs.insert(job.to_owned());
        let count = found.secrets.get(&names::plan_secret(job, 0)).and_then(store::count).unwrap_or_default();
        wanted.extend((0..count).map(|index| names::plan_secret(job, index)));
    }
    let ours = |made: &Made| made.owner == place.manager.owner;
    let pods = found.pods.iter().filter(|(name, made)| ours(made) && !is_of_a_job(name, &jobs));
    let pods = pods.map(|(name, made)| Leftover::Pod(name.clone(), made.uid.clone()));
    let secrets = found.secrets.iter().filter(|(name, _)| !wanted.contains(*name));
    let secrets = secrets.map(|(name, secret)| Leftover::Secret(name.clone(), secret.metadata.uid.clone()));
    let leftovers: Vec<_> = pods.chain(secrets).collect();
    if leftovers.is_empty() {
        return;
    }
    let (client, namespace) = (place.cluster.client.clone(), place.namespace.to_owned());
    place.manager.spawn(async move {
        for one in leftovers {
            remove(&client, &namespace, &one).await;
        }
    });
}

/// Whether a pod belongs to one of these jobs.
pub fn is_of_a_job(pod: &str, jobs: &BTreeSet<String>) -> bool {
    jobs.contains(pod) || pod.rsplit_once('-').is_some_and(|(first, _)| jobs.contains(first))
}

/// Whether a plan needs it after all: a list may have been too old, or not whole. What cannot be asked for may be there.
async fn is_needed(secrets: &Api<Secret>, leftover: &Leftover) -> bool {
    let (plans, part) = match leftover {
        Leftover::Pod(name, _) => {
            let first = name.rsplit_once('-').map(|(first, _)| names::plan_secret(first, 0));
            ([Some(names::plan_secret(name, 0)), first], 0)
        }
        Leftover::Secret(name, _) => match name.rsplit_once('-').map(|(plan, index)| (plan.to_owned(), index.parse::<usize>())) {
            Some((plan, Ok(index))) => ([Some(plan), None], index),
            _ => return false,
        },
    };
    for plan in plans.into_iter().flatten() {
        match cluster::call("look for the plan", secrets.get_opt(&plan)).await {
            Ok(found) if found.as_ref().and_then(store::count).is_none_or(|count| part >= count) => {}
            Ok(_) => return true,
            Err(error) => {
                tracing::warn!(secret = plan, error = cluster::chain(&error), "a leftover stays, because its plan may be there");
                return true;
            }
        }
    }
    false
}

/// Deletes one object, if it is still the one that was found and nobody needs it.
pub async fn remove(client: &Client, namespace: &str, leftover: &Leftover) {
    let (Leftover::Pod(name, uid) | Leftover::Secret(name, uid)) = leftover;
    if is_needed(&Api::namespaced(client.clone(), namespace), leftover).await {
        return;
    }
    let preconditions = uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let deleting = async || match leftover {
        Leftover::Pod(..) => pods.delete(name, &parameters).await.map(drop),
        Leftover::Secret(..) => secrets.delete(name, &parameters).await.map(drop),
    };
    match cluster::persist_unless(DELETING, "delete a leftover", deleting, CallError::is_outdated).await {
        Err(error) if !error.is_missing() && !error.is_outdated() => {
            tracing::warn!(namespace, name, error = cluster::chain(&error), "a leftover could not be deleted");
        }
        _ => tracing::info!(namespace, name, "leftover deleted"),
    }
}
