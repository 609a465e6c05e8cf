//! Namespaces that no configuration names: those that jobs asked for.
//!
//! The next manager has to find what is in them, and no list of all namespaces is allowed to it. So a Secret without
//! any secret, in the cluster's first namespace, has a key for each. It belongs to no job and is found by its name; a
//! namespace that holds nothing any more is taken from it at the next start.

use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use crate::lease;
use crate::note;
use crate::wiring::Manager;
use agent_contract::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NOTING: Duration = Duration::from_secs(10);

/// Name of the Secret of a manager.
fn name_of(owner: &str) -> String {
    format!("{}-namespaces", lease::name(owner))
}

/// The namespaces that were noted.
pub async fn noted(manager: &Manager, cluster: &Cluster) -> Result<BTreeSet<String>, CallError> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &manager.home(cluster));
    let name = name_of(&manager.owner);
    let secret = cluster::persist(NOTING, "read the namespaces", || secrets.get_opt(&name)).await?;
    Ok(secret.iter().flat_map(|secret| &secret.data).flat_map(|data| data.keys().cloned()).collect())
}

/// What all managers have noted, by owner.
pub async fn of_others(manager: &Manager, cluster: &Cluster) -> Result<Vec<(String, BTreeSet<String>)>, CallError> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &manager.home(cluster));
    // Only these Secrets have an owner and no job.
    let parameters = ListParams::default().labels(&format!("{},!{}", names::LABEL_OWNER, names::LABEL_JOB));
    let secrets = cluster::persist(NOTING, "read the namespaces", || secrets.list(&parameters)).await?;
    let noted = secrets.items.into_iter().filter_map(|secret| {
        let owner = note::label(&secret.metadata, names::LABEL_OWNER).to_owned();
        let is_noted = secret.metadata.name.as_ref() == Some(&name_of(&owner));
        is_noted.then(|| (owner, secret.data.unwrap_or_default().into_keys().collect()))
    });
    Ok(noted.collect())
}

/// Takes a namespace away in which nothing is any more.
pub async fn forget(manager: &Manager, cluster: &Cluster, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &manager.home(cluster));
    let (name, parameters) = (name_of(&manager.owner), PatchParams::default());
    let patch = serde_json::json!({"data": {namespace: null}});
    let patch = Patch::Merge(&patch);
    let forgot = cluster::persist(NOTING, "forget the namespace", || secrets.patch_metadata(&name, &parameters, &patch)).await;
    if let Err(error) = forgot {
        tracing::warn!(
            namespace,
            error = cluster::chain(&error),
            "a namespace without jobs is looked into again at the next start"
        );
    }
}

/// Notes a namespace before anything is put there.
pub async fn note(manager: &Manager, cluster: &Cluster, namespace: &str) -> Result<(), CallError> {
    if cluster.is_watched(namespace) || manager.home(cluster) == namespace {
        return Ok(());
    }
    keep(manager, cluster, namespace).await
}

/// Notes a namespace that the configuration names no more, and where jobs may still be.
pub async fn keep(manager: &Manager, cluster: &Cluster, namespace: &str) -> Result<(), CallError> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &manager.home(cluster));
    let (name, what) = (name_of(&manager.owner), "note the namespace");
    let parameters = PatchParams::default();
    let patch = serde_json::json!({"data": {namespace: ""}});
    let patch = Patch::Merge(&patch);
    match cluster::persist(NOTING, what, || secrets.patch_metadata(&name, &parameters, &patch)).await {
        Err(error) if error.is_missing() => {}
        other => return other.map(drop),
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(names::LABEL_OWNER.to_owned(), manager.owner.clone())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(namespace.to_owned(), ByteString(Vec::new()))])),
        ..Secret::default()
    };
    let created = PostParams::default();
    match cluster::persist(NOTING, what, || secrets.create(&created, &secret)).await {
        // Another job was first with another namespace.
        Err(error) if error.is_taken() => {
            cluster::persist(NOTING, what, || secrets.patch_metadata(&name, &parameters, &patch)).await.map(drop)
        }
        other => other.map(drop),
    }
}
