//! What a cluster offers, asked once at the start.
//!
//! A version does not tell whether a feature is switched on, and an API server drops a field of a feature that is off
//! without a word. So a pod with such a field is sent as a dry run, and the answer shows whether it is still there.

use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::PostParams;
use pod_spec::{Features, OLDEST};
use serde_json::json;
use std::time::Duration;

/// Since this `1.x` a volume can be an image, where the feature is on.
const IMAGE_VOLUMES: u32 = 31;
/// Since this `1.x` an init container may go on running beside the others.
const SIDECARS: u32 = 29;
/// Since this `1.x` pods may have users of their own, where nodes can do it.
const USERS: u32 = 33;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks a cluster; comes back when it has answered.
pub async fn ask(cluster: &Cluster, home: &str) {
    let minor = version(cluster).await;
    let tried = minor >= IMAGE_VOLUMES && image_volumes(cluster, home).await;
    let features = Features { minor, image_volumes: tried };
    cluster.keep(features);
    if minor == 0 {
        tracing::warn!(cluster = cluster.name, "the cluster does not tell its version: only what all versions have is used");
        return;
    }
    if minor < OLDEST {
        let message = "this Kubernetes is older than what gantry is tried with: jobs may fail";
        tracing::warn!(cluster = cluster.name, version = format!("1.{minor}"), oldest = format!("1.{OLDEST}"), "{message}");
    }
    tracing::info!(
        cluster = cluster.name,
        version = format!("1.{minor}"),
        image_volumes = features.image_volumes,
        native_sidecars = minor >= SIDECARS,
        user_namespaces = minor >= USERS,
        "the cluster was asked what it offers"
    );
}

/// The `x` of `1.x`; 0 when the server does not say.
async fn version(cluster: &Cluster) -> u32 {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match cluster::call("ask for the version", cluster.client.apiserver_version()).await {
            Ok(version) => return number(&version.minor),
            Err(error) if error.is_short_lived() && !matches!(error, CallError::Unreadable(_)) => {
                let (pause, error) = (backoff.pause(), cluster::chain(&error));
                tracing::warn!(cluster = cluster.name, error, pause_ms = pause.as_millis(), "failed to ask for the version");
                tokio::time::sleep(pause).await;
            }
            Err(_) => return 0,
        }
    }
}

/// `27+` is 27.
fn number(minor: &str) -> u32 {
    let digits = minor.find(|one: char| !one.is_ascii_digit()).unwrap_or(minor.len());
    minor[..digits].parse().unwrap_or(0)
}

/// Whether the API server keeps a volume that is an image. A quota or a policy may refuse the pod: then the answer is no.
async fn image_volumes(cluster: &Cluster, namespace: &str) -> bool {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let Ok(pod) = serde_json::from_value::<Pod>(probe()) else { return false };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match cluster::call("try a volume that is an image", pods.create(&dry_run, &pod)).await {
        Ok(made) => made.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| volume.image.is_some()),
        Err(error) => {
            let error = cluster::chain(&error);
            tracing::debug!(cluster = cluster.name, error, "the cluster does not say whether volumes can be images");
            false
        }
    }
}

/// A pod that strict policies let through.
fn probe() -> serde_json::Value {
    let amounts = json!({"cpu": "1m", "memory": "1Mi"});
    let container = json!({"name": "probe", "image": "probe", "volumeMounts": [{"name": "image", "mountPath": "/image"}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    json!({"metadata": {"generateName": "gantry-probe-"}, "spec": {"containers": [container], "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "image", "image": {"reference": "probe"}}]}})
}

/// Whether a namespace is there: a list says nothing of that, and to read namespaces is not ours. A dry run that is
/// refused for another reason leaves the question open.
pub async fn is_missing(cluster: &Cluster, namespace: &str) -> bool {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let secret = serde_json::from_value::<Secret>(json!({"metadata": {"generateName": "gantry-probe-"}})).unwrap_or_default();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let tried = cluster::call("look for the namespace", secrets.create(&dry_run, &secret)).await;
    tried.is_err_and(|error| error.is_missing())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_with_a_suffix_is_a_number() {
        assert_eq!(["27", "27+", "", "x"].map(super::number), [27, 27, 0, 0]);
    }
}
