//! What a crash left without a partner, found by our labels and our name; nothing else is ever touched.

use crate::cluster;
use crate::clusters::Cluster;
use crate::recover::Found;
use crate::store;
use crate::wiring::Manager;
use agent_contract::names;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::DeleteParams;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const DELETING: Duration = Duration::from_secs(600);

/// Deletes pods whose plan is gone (their end is known to GitLab) and parts of plans that were never whole.
pub fn sweep(manager: &Arc<Manager>, cluster: &Cluster, namespace: &str, found: &Found) {
    let plans = found.secrets.iter().filter_map(|(name, secret)| Some((name.strip_suffix("-plan")?, store::count(secret)?)));
    let (mut jobs, mut wanted) = (BTreeSet::new(), BTreeSet::new());
    for (pod, count) in plans {
        jobs.insert(pod.to_owned());
        wanted.extend((0..count).map(|index| names::plan_secret(pod, index)));
    }
    let is_of_a_job = |pod: &String| jobs.contains(pod) || pod.rsplit_once('-').is_some_and(|(first, _)| jobs.contains(first));
    let pods: Vec<_> = found.pods.iter().filter(|pod| !is_of_a_job(pod)).cloned().collect();
    let secrets: Vec<_> = found.secrets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
    if pods.is_empty() && secrets.is_empty() {
        return;
    }
    let (client, namespace) = (cluster.client.clone(), namespace.to_owned());
    manager.spawn(async move {
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        for name in pods {
            let parameters = DeleteParams::default();
            match cluster::persist(DELETING, "delete the pod", || api.delete(&name, &parameters)).await {
                Err(error) if !error.is_missing() => {
                    tracing::warn!(pod.name = name, error = cluster::chain(&error), "a leftover pod could not be deleted");
                }
                _ => tracing::info!(pod.name = name, "leftover pod deleted"),
            }
        }
        let api: Api<Secret> = Api::namespaced(client, &namespace);
        for name in secrets {
            match store::remove(&api, &name).await {
                Err(error) => {
                    tracing::warn!(secret = name, error = cluster::chain(&error), "a leftover Secret could not be deleted")
                }
                Ok(()) => tracing::info!(secret = name, "leftover Secret deleted"),
            }
        }
    });
}
