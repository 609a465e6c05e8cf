//! What the cluster holds of the jobs: listed after a kill, watched to know when to kill.

use super::phase::{self, AtGitlab, Phase};
use crate::objects;
use agent_contract::names;
use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::broadcast;

/// More than ever come while nobody looks.
const EVENTS: usize = 4096;
const PAUSE: Duration = Duration::from_millis(200);

/// A job's objects.
#[derive(Debug, Default)]
pub struct Held {
    /// The first part of its plan.
    pub plan: Option<Secret>,
    /// Its newest pod.
    pub pod: Option<Pod>,
    /// How many pods it has.
    pub pods: usize,
}

/// The jobs' namespace.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    namespace: String,
    events: broadcast::Sender<Phase>,
}

impl Cluster {
    /// Watches a namespace until the runtime ends.
    pub fn watch(client: kube::Client, namespace: &str) -> Self {
        let cluster = Self { client, namespace: namespace.to_owned(), events: broadcast::channel(EVENTS).0 };
        tokio::spawn(cluster.clone().follow::<Secret>(|plan, gone| match phase::step(plan) {
            _ if gone => Phase::Cleaning,
            step if step.starts_with("telling") => Phase::Telling,
            step if step.starts_with("launched") => Phase::Pending,
            _ => Phase::Stored,
        }));
        tokio::spawn(cluster.clone().follow::<Pod>(|pod, _| match pod {
            pod if phase::agent_has_ended(pod) => Phase::Finishing,
            pod if phase::is_running(pod) => Phase::Running,
            _ => Phase::Launched,
        }));
        cluster
    }

    async fn follow<K>(self, tell: impl Fn(&K, bool) -> Phase)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let labels = format!("{}={},{}", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::LABEL_JOB);
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut known = HashMap::new();
        let mut events = Box::pin(watcher::watcher(api, watcher::Config::default().labels(&labels)));
        while let Some(event) = events.next().await {
            let (object, gone) = match event {
                Ok(Event::Apply(object)) => (object, false),
                Ok(Event::Delete(object)) => (object, true),
                Ok(_) => continue,
                // The API may be away on purpose.
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (name, phase) = (object.meta().name.clone().unwrap_or_default(), tell(&object, gone));
            // Only what is new: a status changes more often than a phase.
            if known.insert(name.clone(), phase) != Some(phase) {
                let _ = self.events.send(phase);
            }
            if gone {
                known.remove(&name);
            }
        }
    }

    /// Waits until some job comes into a phase; whether one did in time.
    pub async fn comes(&self, wanted: Phase, within: Duration) -> bool {
        let mut events = self.events.subscribe();
        let come = async {
            loop {
                match events.recv().await {
                    Ok(phase) if phase == wanted => return true,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return false,
                }
            }
        };
        tokio::time::timeout(within, come).await.unwrap_or(false)
    }

    /// All objects of all jobs, by the job's number.
    pub async fn held(&self) -> Result<BTreeMap<u64, Held>> {
        let namespaces = [self.namespace.clone()];
        let (pods, plans) =
            futures::try_join!(objects::pods(&self.client, &namespaces), objects::plans(&self.client, &namespaces))?;
        let mut held: BTreeMap<u64, Held> = BTreeMap::new();
        for pod in pods {
            if let Some(job) = number(&pod.metadata) {
                let entry = held.entry(job).or_default();
                entry.pods += 1;
                entry.pod = Some(pod);
            }
        }
        for plan in plans.into_iter().filter(|plan| plan.metadata.name.as_ref().is_some_and(|name| name.ends_with("-plan"))) {
            if let Some(job) = number(&plan.metadata) {
                held.entry(job).or_default().plan = Some(plan);
            }
        }
        Ok(held)
    }

    /// Where each job stands that GitLab knows as `known`.
    pub async fn phases(&self, known: &BTreeMap<u64, AtGitlab>) -> Result<BTreeMap<u64, Phase>> {
        let held = self.held().await?;
        let all: BTreeSet<_> = known.keys().chain(held.keys()).copied().collect();
        let phase = |job: u64| {
            let (gitlab, held) = (known.get(&job).copied().unwrap_or_default(), held.get(&job));
            phase::of(gitlab, held.and_then(|held| held.plan.as_ref()), held.and_then(|held| held.pod.as_ref()))
        };
        Ok(all.into_iter().filter_map(|job| Some((job, phase(job)?))).collect())
    }
}

fn number(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<u64> {
    meta.labels.as_ref()?.get(names::LABEL_JOB)?.parse().ok()
}
