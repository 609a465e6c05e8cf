//! Each job that the cluster holds for us goes on from the step it has reached: all at the start, and whatever is found
//! in nobody's hands later.

use crate::admit::{Slot, Tracked};
use crate::authority::Tls;
use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use crate::note::{self, Note, Step};
use crate::wiring::{self, Manager, RunnerSide};
use crate::{Error, adopt, places, steps, store, sweep};
use agent_contract::{Plan, names};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const LISTING: Duration = Duration::from_secs(30);

/// What a namespace holds.
#[derive(Default)]
pub struct Found {
    /// Plan Secrets of one owner by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Pods of all owners by name: a job that was just adopted may have one that still bears the name of the owner before.
    pub pods: BTreeMap<String, Made>,
}

/// A pod that gantry made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Whose it is.
    pub owner: String,
    /// Which one of that name.
    pub uid: Option<String>,
}

/// Where something is found.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Who looks.
    pub manager: &'a Arc<Manager>,
    /// In which cluster.
    pub cluster: &'a Arc<Cluster>,
    /// In which namespace.
    pub namespace: &'a str,
}

impl Place<'_> {
    /// All pods that gantry made here, whoever made them.
    pub async fn pods(self) -> Result<BTreeMap<String, Made>, CallError> {
        let parameters = ListParams::default().labels(&anybodys());
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let pods = cluster::persist(LISTING, "list the pods", || pods.list_metadata(&parameters)).await?;
        let made = |metadata: ObjectMeta| {
            let owner = note::label(&metadata, names::LABEL_OWNER).to_owned();
            metadata.name.map(|name| (name, Made { owner, uid: metadata.uid }))
        };
        Ok(pods.items.into_iter().filter_map(|pod| made(pod.metadata)).collect())
    }

    /// The plans of an owner, with all that stands in them.
    pub async fn plans(self, owner: &str) -> Result<BTreeMap<String, Secret>, CallError> {
        let parameters = ListParams::default().labels(&format!("{},{}={owner}", anybodys(), names::LABEL_OWNER));
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let secrets = cluster::persist(LISTING, "list the plans", || secrets.list(&parameters)).await?;
        let named = |secret: Secret| secret.metadata.name.clone().map(|name| (name, secret));
        Ok(secrets.items.into_iter().filter_map(named).collect())
    }
}

/// What selects everything that gantry made for jobs.
pub fn anybodys() -> String {
    format!("{}={}", names::MANAGED_BY, names::MANAGED_BY_VALUE)
}

impl Found {
    /// The jobs whose plans are there, by the name of their first pod.
    pub fn jobs(&self) -> impl Iterator<Item = &str> {
        self.secrets
            .iter()
            .filter(|(_, secret)| store::count(secret).is_some())
            .filter_map(|(name, _)| name.strip_suffix("-plan"))
    }

    /// What of it is one job's.
    pub fn of(&self, first: &str) -> Self {
        let plan = names::plan_secret(first, 0);
        let secrets = self.secrets.range(plan.clone()..).take_while(|(name, _)| name.starts_with(&plan));
        let pods = self.pods.range(first.to_owned()..).take_while(|(name, _)| name.starts_with(first));
        Self {
            secrets: secrets.map(|(name, secret)| (name.clone(), secret.clone())).collect(),
            pods: pods
                .filter(|(name, _)| pod_spec::attempt_of(name, first).is_some())
                .map(|(name, made)| (name.clone(), made.clone()))
                .collect(),
        }
    }
}

/// Goes on with everything in these namespaces, and in those that jobs had asked for in their clusters.
pub async fn recover(manager: &Arc<Manager>, new: &[(Arc<Cluster>, String)]) {
    for (cluster, namespace) in new {
        let place = Place { manager, cluster, namespace };
        let found = find(place).await;
        begin(place, found).await;
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
            let place = Place { manager, cluster: &cluster, namespace };
            match list(place).await {
                Ok(found) if found.secrets.is_empty() && found.pods.values().all(|made| made.owner != manager.owner) => {
                    places::forget(manager, &cluster, namespace).await;
                }
                Ok(found) => begin(place, found).await,
                Err(error) => {
                    let (hint, error) = (hint(&error), cluster::chain(&error));
                    tracing::warn!(namespace, error, hint, "failed to see what a namespace holds that jobs had asked for");
                }
            }
        }
    }
}

/// Goes on with what a namespace holds, and watches it from then on.
async fn begin(place: Place<'_>, mut found: Found) {
    adopt::complete(place, &mut found).await;
    let jobs = found.jobs().filter(|first| go_on(place, &found, first)).count();
    if !found.secrets.is_empty() {
        let (secrets, namespace) = (found.secrets.len(), place.namespace);
        tracing::info!(namespace, jobs, secrets, "went on with what was there");
    }
    sweep::sweep(place, &found);
    place.cluster.watch(place.manager, place.namespace);
}

async fn find(place: Place<'_>) -> Found {
    let namespace = place.namespace;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let error = match list(place).await {
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

/// Pods first: one whose plan is not in the later list has none any more.
async fn list(place: Place<'_>) -> Result<Found, CallError> {
    let pods = place.pods().await?;
    Ok(Found { secrets: place.plans(&place.manager.owner).await?, pods })
}

/// Starts the task of a job whose plan is ours; `false` when that cannot be, or somebody has it.
pub fn go_on(place: Place<'_>, found: &Found, first: &str) -> bool {
    let Place { manager, cluster, namespace } = place;
    let Some(secret) = found.secrets.get(&names::plan_secret(first, 0)) else { return false };
    let Some(count) = store::count(secret) else { return false };
    let runner = store::read(first, count, &found.secrets).map_err(|error| cluster::chain(&error)).and_then(|plan| {
        let runner = runner_of(manager, cluster, namespace, &plan).map_err(|error| cluster::chain(&error))?;
        Ok((plan, runner))
    });
    let (plan, runner) = match runner {
        Ok(known) => known,
        Err(error) => {
            if !cluster.is_known_as_hopeless(namespace, first) {
                tracing::error!(pod.name = first, error, "a stored plan cannot be gone on with, its job is left to its agent");
            }
            return false;
        }
    };
    let Some(hand) = cluster.hands.take(namespace, first) else { return false };
    let note = Note::of(&secret.metadata);
    let step = note.step();
    let mut job = Tracked::new(&plan, runner.clone(), count);
    job.set_note(note);
    job.hand = Some(hand);
    namespace.clone_into(&mut job.namespace);
    first.clone_into(&mut job.first);
    job.has_image_volume = cluster.features().image_volumes;
    let exists = attempt(&mut job, step, &found.pods);
    let Some(following) = cluster.hub.follow(namespace, &job.pod) else { return false };
    if cluster.is_watched(namespace) {
        // What the watch has told of this pod, nobody has heard.
        following.doubt();
    }
    let slot = Slot::take_what_is_left(manager, &runner);
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = runner.config.name, ?step, exists, "job gone on with");
    let strangers: Vec<_> = found.of(first).pods.into_iter().filter(|(_, made)| made.owner != manager.owner).collect();
    let manager = manager.clone();
    manager.clone().spawn(async move {
        for (pod, _) in strangers {
            adopt::take_pod(&manager, &job, &pod).await;
        }
        let task: BoxFuture<'_, ()> = match step {
            Step::Again(..) if !exists => steps::from_the_retry(manager, job, plan, following, slot).boxed(),
            Step::Stored if !exists => steps::from_the_plan(manager, job, plan, following, slot).boxed(),
            Step::Stored | Step::Again(..) => steps::from_the_pod(manager, job, false, following, slot).boxed(),
            Step::Launched(..) | Step::Telling(_) => steps::from_the_pod(manager, job, true, following, slot).boxed(),
        };
        task.await;
    });
    true
}

/// Which pod of a job comes next, by its step and the pods that are there; answers whether that one is there.
fn attempt(job: &mut Tracked, step: Step, pods: &BTreeMap<String, Made>) -> bool {
    let named = |attempt: u32| if attempt > 1 { format!("{}-{attempt}", job.first) } else { job.first.clone() };
    let newest = pods.range(job.first.clone()..).map(|(pod, _)| pod).take_while(|pod| pod.starts_with(&job.first));
    let newest = newest.filter_map(|pod| pod_spec::attempt_of(pod, &job.first)).max();
    let (attempt, failures) = match step {
        Step::Stored => (1, 0),
        Step::Launched(attempt, failures) | Step::Again(attempt, failures) => (attempt, failures),
        Step::Telling(offset) => {
            job.telling_at = Some(offset);
            (newest.unwrap_or(1), 0)
        }
    };
    let exists = pods.contains_key(&named(attempt));
    // The pod before is what has to go first.
    let pod = if matches!(step, Step::Again(..)) && !exists { named(attempt.saturating_sub(1)) } else { named(attempt) };
    (job.pod, job.attempt, job.pull_failures) = (pod, attempt, failures);
    exists
}

/// The entry that a plan came through, if it is configured.
pub fn entry(manager: &Manager, cluster: &Arc<Cluster>, plan: &Plan) -> Option<Arc<RunnerSide>> {
    let settings = &plan.settings;
    let same = |runner: &&Arc<RunnerSide>| {
        runner.config.short_token() == settings.runner_short_token
            && runner.config.url == plan.coordinator.url
            && Arc::ptr_eq(&runner.cluster, cluster)
    };
    manager.setup().runners.iter().find(same).cloned()
}

/// The same; one that is not configured any more is made up from the plan.
fn runner_of(manager: &Manager, cluster: &Arc<Cluster>, namespace: &str, plan: &Plan) -> Result<Arc<RunnerSide>, Error> {
    if let Some(runner) = entry(manager, cluster, plan) {
        return Ok(runner);
    }
    let settings = &plan.settings;
    let mut config = runner_config::Runner {
        name: settings.runner_name.clone(),
        url: plan.coordinator.url.clone(),
        token: settings.runner_short_token.clone(),
        ..runner_config::Runner::default()
    };
    config.kubernetes.namespace = namespace.to_owned();
    config.kubernetes.image = settings.image.clone();
    let tls = Tls { ca_pem: plan.coordinator.ca_pem.clone(), identity: plan.coordinator.identity.clone() };
    let client = wiring::gitlab(&manager.connect, &config, &tls, &manager.version)?;
    Ok(Arc::new(RunnerSide::new(config, cluster.clone(), (client, tls), 1)))
}
