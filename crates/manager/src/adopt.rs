//! The look that is repeated: at what others have left, and at what fell out of our own hands.
//!
//! A job whose manager is gone (no Lease, or one that has expired) is adopted: its plan gets our label by a patch that
//! holds only while it has the old one, so that of several replicas one gets it, and the manager that was thought gone
//! learns at its next note that the job is not its own any more. From then on the job goes on as after a start.
//!
//! A look follows at once when somebody goes, and every five minutes. A pod of a manager that is gone is deleted at once
//! when it has no plan: a plan is there before its pod. Whatever else belongs to no job is deleted when it has been so for
//! some minutes by our own clock. Nothing without our labels is ever touched, nor anything of a manager that is
//! alive.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use crate::note::{self, Note};
use crate::recover::{self, Found, Place};
use crate::sweep::{self, Leftover};
use crate::wiring::Manager;
use crate::{lease, places, store};
use agent_contract::names;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between looks.
const EVERY: Duration = Duration::from_secs(300);
/// What belongs to no job is deleted after this.
const AGE: Duration = Duration::from_secs(240);
const CALLING: Duration = Duration::from_secs(30);
/// Jobs that are adopted at the same time.
const AT_ONCE: usize = 16;

/// What looks like nobody's: by namespace and object, since when.
pub type Suspects = BTreeMap<(String, Leftover), Instant>;

/// Looks until the manager ends.
pub async fn keep(manager: &Arc<Manager>, cluster: &Arc<Cluster>) {
    loop {
        Box::pin(look(manager, cluster)).await;
        tokio::select! {
            biased;
            () = cluster.look.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What a look has found besides jobs to go on with.
#[derive(Default)]
struct Looked {
    suspects: BTreeSet<(String, Leftover)>,
    /// Pods whose plan and whose manager are gone.
    orphans: Vec<(String, Leftover)>,
    /// Who has something in some namespace.
    owners: BTreeSet<String>,
    /// Not all could be seen.
    is_partial: bool,
}

async fn look(manager: &Arc<Manager>, cluster: &Arc<Cluster>) {
    let mut looked = Looked::default();
    let mut named = manager.namespaces(cluster);
    named.extend(cluster.watched());
    match places::of_others(manager, cluster).await {
        Ok(noted) => {
            let wanted = noted.into_iter().filter(|(owner, _)| *owner == manager.owner || !cluster.leases.is_alive(owner));
            named.extend(wanted.flat_map(|(_, namespaces)| namespaces));
        }
        Err(error) => {
            looked.is_partial = true;
            tracing::warn!(error = cluster::chain(&error), "failed to see which namespaces the jobs of others had asked for");
        }
    }
    for namespace in &named {
        if let Err(error) = look_into(Place { manager, cluster, namespace }, &mut looked).await {
            looked.is_partial = true;
            let error = cluster::chain(&error);
            tracing::warn!(namespace, error, "failed to see what is left in a namespace; it is looked at again later");
        }
    }
    judge(cluster, &looked).await;
    if !looked.is_partial {
        lease::bury(manager, cluster, &looked.owners).await;
    }
}

async fn look_into(place: Place<'_>, looked: &mut Looked) -> Result<(), CallError> {
    let Place { manager, cluster, namespace } = place;
    // Pods first: one whose plan is not in the later list has none any more.
    let pods = place.pods().await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let parameters = ListParams::default().labels(&recover::anybodys());
    let plans = cluster::persist(CALLING, "list the plans", || secrets.list_metadata(&parameters)).await?.items;
    let plans: Vec<_> = plans.into_iter().map(|plan| plan.metadata).collect();
    let name = |index: usize| plans[index].name.as_deref().unwrap_or_default();
    let owner = |index: usize| note::label(&plans[index], names::LABEL_OWNER);
    let firsts: BTreeMap<&str, &str> =
        (0..plans.len()).filter_map(|index| Some((name(index).strip_suffix("-plan")?, owner(index)))).collect();
    let mut gone: BTreeSet<&str> = firsts.values().copied().collect();
    looked.owners.extend(gone.iter().map(|owner| (*owner).to_owned()));
    looked.owners.extend(pods.values().map(|made| made.owner.clone()));
    gone.retain(|owner| *owner != manager.owner && !owner.is_empty() && !cluster.leases.is_alive(owner));

    let is_ours_to_judge = |owner: &str| owner == manager.owner || !owner.is_empty() && !cluster.leases.is_alive(owner);
    let jobs: BTreeSet<String> = firsts.keys().map(|first| (*first).to_owned()).collect();
    for (name, made) in pods.iter().filter(|(name, made)| is_ours_to_judge(&made.owner) && !sweep::is_of_a_job(name, &jobs)) {
        let pod = (namespace.to_owned(), Leftover::Pod(name.clone(), made.uid.clone()));
        if made.owner == manager.owner {
            looked.suspects.insert(pod);
        } else {
            looked.orphans.push(pod);
        }
    }
    let parts = (0..plans.len()).filter(|index| is_ours_to_judge(owner(*index)) && is_part_of_none(name(*index), &jobs));
    let parts = parts.map(|index| Leftover::Secret(name(index).to_owned(), plans[index].uid.clone()));
    looked.suspects.extend(parts.map(|one| (namespace.to_owned(), one)));

    let fallen = |first: &str, owner: &str| owner == manager.owner && !cluster.hands.have(namespace, first);
    if firsts.iter().any(|(first, owner)| fallen(first, owner)) {
        let mut found = Found { secrets: place.plans(&manager.owner).await?, pods: pods.clone() };
        complete(place, &mut found).await;
        let jobs = found.jobs().filter(|first| recover::go_on(place, &found, first)).count();
        if jobs > 0 {
            tracing::warn!(namespace, jobs, "jobs that had fallen out of our hands are gone on with");
        }
    }
    for owner in gone {
        adopt_all(place, owner, Found { secrets: place.plans(owner).await?, pods: pods.clone() }).await;
    }
    Ok(())
}

/// Whether a Secret is a later part of a plan whose first part is not there.
fn is_part_of_none(name: &str, jobs: &BTreeSet<String>) -> bool {
    let Some((first, number)) = name.rsplit_once("-plan-") else { return false };
    number.bytes().all(|one| one.is_ascii_digit()) && !jobs.contains(first)
}

/// Adopts the jobs of a manager that is gone.
async fn adopt_all(place: Place<'_>, from: &str, found: Found) {
    let Place { manager, cluster, namespace } = place;
    let mut jobs: Vec<_> = found.jobs().map(str::to_owned).collect();
    if jobs.is_empty() {
        return;
    }
    if let Err(error) = places::note(manager, cluster, namespace).await {
        tracing::warn!(namespace, error = cluster::chain(&error), "jobs of a manager that is gone are left for the next look");
        return;
    }
    // Other replicas begin elsewhere.
    fastrand::shuffle(&mut jobs);
    let found = &found;
    let adopted = stream::iter(jobs)
        .map(|first| async move { adopt(place, from, found, &first).await })
        .buffer_unordered(AT_ONCE)
        .filter(|adopted| std::future::ready(*adopted))
        .count()
        .await;
    if adopted > 0 {
        tracing::info!(namespace, from, jobs = adopted, "jobs of a manager that is gone were adopted");
    }
    cluster.watch(manager, namespace);
}

async fn adopt(place: Place<'_>, from: &str, found: &Found, first: &str) -> bool {
    let Place { manager, cluster, namespace } = place;
    let mut found = found.of(first);
    let Some(count) = found.secrets.get(&names::plan_secret(first, 0)).and_then(store::count) else { return false };
    // A plan that cannot be read whole may have a part with another label: it is read again once it is ours.
    match store::read(first, count, &found.secrets) {
        Ok(plan) if recover::entry(manager, cluster, &plan).is_some() => {}
        Ok(_) => return false,
        Err(_) if count > 1 && has_entry(manager, cluster, &found, first) => {}
        Err(_) => return false,
    }
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let (name, parameters) = (names::plan_secret(first, 0), PatchParams::default());
    let patch = note::patch(from, None, &[("/metadata/labels", names::LABEL_OWNER, &manager.owner)]);
    let taken = cluster::persist(CALLING, "adopt the job", || secrets.patch_metadata(&name, &parameters, &patch)).await;
    let metadata = match taken {
        Ok(taken) => taken.metadata,
        // Another replica was faster, or the job is over.
        Err(error) if error.is_unmet() || error.is_missing() => return false,
        Err(error) => {
            tracing::warn!(
                pod.name = first,
                error = cluster::chain(&error),
                "a job could not be adopted; it is tried again later"
            );
            return false;
        }
    };
    if let Some(secret) = found.secrets.get_mut(&name) {
        // The note before may be newer than our list: from here on it cannot change.
        secret.metadata = metadata;
    }
    tracing::info!(pod.name = first, from, step = ?found.secrets.get(&name).map(|plan| Note::of(&plan.metadata).text), "job adopted");
    complete(place, &mut found).await;
    recover::go_on(place, &found, first)
}

/// The label of the first part tells the entry's short token, without its GitLab.
fn has_entry(manager: &Manager, cluster: &Arc<Cluster>, found: &Found, first: &str) -> bool {
    let Some(plan) = found.secrets.get(&names::plan_secret(first, 0)) else { return false };
    let runner = note::label(&plan.metadata, names::LABEL_RUNNER);
    manager
        .setup()
        .runners
        .iter()
        .any(|one| Arc::ptr_eq(&one.cluster, cluster) && pod_spec::label_value(one.config.short_token()) == runner)
}

/// Gives the later parts of our plans our label: who adopted the first ones may have come no further.
pub async fn complete(place: Place<'_>, found: &mut Found) {
    let manager = place.manager;
    let secrets: Api<Secret> = Api::namespaced(place.cluster.client.clone(), place.namespace);
    let counts: Vec<_> = found
        .jobs()
        .filter_map(|first| Some((first.to_owned(), store::count(found.secrets.get(&names::plan_secret(first, 0))?)?)))
        .collect();
    let parts = counts.iter().flat_map(|(first, count)| (1..*count).map(move |index| names::plan_secret(first, index)));
    let is_ours = |name: &String| {
        found.secrets.get(name).is_some_and(|part| note::label(&part.metadata, names::LABEL_OWNER) == manager.owner)
    };
    let strangers: Vec<_> = parts.filter(|name| !is_ours(name)).collect();
    let patch = Patch::Merge(labelled(manager));
    for name in strangers {
        let parameters = PatchParams::default();
        match cluster::persist(CALLING, "adopt a part of a plan", || secrets.patch(&name, &parameters, &patch)).await {
            Ok(part) => drop(found.secrets.insert(name, part)),
            Err(error) => {
                tracing::warn!(secret = name, error = cluster::chain(&error), "a part of a plan could not be adopted");
            }
        }
    }
}

/// Gives the pod of a job that is ours our label, so that our watch shows it.
pub async fn take_pod(manager: &Manager, job: &Tracked, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(labelled(manager)));
    let taken = cluster::persist(CALLING, "adopt the pod", || pods.patch_metadata(pod, &parameters, &patch)).await;
    match taken {
        Err(error) if !error.is_missing() => {
            let error = cluster::chain(&error);
            tracing::warn!(
                job.id = job.id,
                pod.name = pod,
                error,
                "the pod of a job could not be adopted; it is tried again later"
            );
        }
        _ => {}
    }
}

fn labelled(manager: &Manager) -> serde_json::Value {
    json!({"metadata": {"labels": {names::LABEL_OWNER: manager.owner}}})
}

/// Deletes the orphans and what has been nobody's for long enough, and remembers the rest.
async fn judge(cluster: &Cluster, looked: &Looked) {
    let now = Instant::now();
    let due: Vec<_> = {
        let mut suspects = cluster.suspects();
        suspects.retain(|one, _| looked.is_partial || looked.suspects.contains(one));
        for one in &looked.suspects {
            suspects.entry(one.clone()).or_insert(now);
        }
        let is_due = |(one, since): &(&(String, Leftover), &Instant)| now - **since >= AGE && looked.suspects.contains(one);
        suspects.iter().filter(is_due).map(|(one, _)| one.clone()).collect()
    };
    for (namespace, one) in due.iter().chain(&looked.orphans) {
        sweep::remove(&cluster.client, namespace, one).await;
    }
}
