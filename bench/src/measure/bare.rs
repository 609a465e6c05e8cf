//! The floor: pods of two containers without any runner, on the same cluster in the same run.
//!
//! Alone, a bare pod has the volumes of a job's pod and its build container waits for a file of the helper, as a job's
//! does; what is measured is its first output over HTTP at the stand-in. At once, pods with and without volumes are
//! measured until all succeeded.

use super::Bench;
use super::latency::BURST;
use crate::percentiles::Sample;
use crate::report::{Place, Report};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(180);
/// Creates in flight.
const AT_ONCE: usize = 16;

/// What bare pods take at once, in seconds: created → all succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Pods without volumes.
    pub plain: f64,
    /// Pods with the volumes of a job.
    pub with_volumes: f64,
}

/// What one bare pod took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Created → first output of the build container.
    pub output: Duration,
    /// Created → succeeded.
    pub ended: Duration,
}

/// Makes the Secret that a pod with volumes mounts, one per pod as jobs have their plans: the kubelet watches each.
async fn plan(bench: &Bench, pod: &str) -> Result<()> {
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": plan_name(pod)}, "stringData": {"plan.0": "{}"}}))?;
    bench.cluster.api::<Secret>().create(&PostParams::default(), &secret).await.context("failed to create a Secret")?;
    Ok(())
}

async fn delete_plan(bench: &Bench, pod: &str) -> Result<()> {
    let secrets = bench.cluster.api::<Secret>();
    secrets.delete(&plan_name(pod), &DeleteParams::default()).await.context("failed to delete a Secret")?;
    Ok(())
}

fn plan_name(pod: &str) -> String {
    format!("{pod}-plan")
}

/// One bare pod, number `index`, alone in the cluster.
pub async fn one(bench: &Bench, index: usize) -> Result<Took> {
    let name = format!("bare-{index}");
    let command = format!("wget -q -O- {}/heard/{name}", bench.url());
    plan(bench, &name).await?;
    let began = Instant::now();
    let ended = until_succeeded(&bench.cluster.api(), vec![pod(&bench.settings.image, &name, &command, true)?]).await?;
    let heard = bench.stand_in.heard(&name);
    let heard = heard.with_context(|| format!("pod {name} did not reach this machine at {}: is --host right?", bench.url()))?;
    bench.cluster.become_empty().await?;
    Ok(Took { output: heard.saturating_duration_since(began), ended: ended.saturating_duration_since(began) })
}

/// As many pods at once as there are jobs at once.
pub async fn bursts(bench: &mut Bench) -> Result<Floor> {
    Ok(Floor { plain: burst(bench, "plain", false).await?, with_volumes: burst(bench, "volumes", true).await? })
}

/// What the bursts of bare pods say.
pub fn report(report: &mut Report, floors: &[Floor]) {
    let median = |of: fn(&Floor) -> f64| Sample::new(floors.iter().map(of)).percentile(50);
    let place = |of| Place { section: BURST, of };
    report.add(place("bare pods"), "ended, last", median(|floor| floor.plain), "s");
    report.add(place("bare pods, volumes"), "ended, last", median(|floor| floor.with_volumes), "s");
}

/// Pods at once, named by `prefix`: the seconds until all succeeded.
pub async fn burst(bench: &mut Bench, prefix: &str, volumes: bool) -> Result<f64> {
    let number = bench.settings.burst;
    eprintln!("{number} bare pods at once{}", if volumes { ", with the volumes of a job" } else { "" });
    let names: Vec<_> = (0..number).map(|index| format!("{prefix}-{index}")).collect();
    for name in names.iter().filter(|_| volumes) {
        plan(bench, name).await?;
    }
    let objects = names.iter().map(|name| pod(&bench.settings.image, name, "true", volumes)).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let ended = until_succeeded(&bench.cluster.api(), objects).await?;
    bench.cluster.become_empty().await?;
    // The next round makes them anew.
    for name in names.iter().filter(|_| volumes) {
        delete_plan(bench, name).await?;
    }
    Ok(ended.saturating_duration_since(began).as_secs_f64())
}

/// Creates pods, waits until all succeeded and deletes them; answers when the last one was seen to.
async fn until_succeeded(pods: &Api<Pod>, objects: Vec<Pod>) -> Result<Instant> {
    let names: HashSet<_> = objects.iter().map(ResourceExt::name_any).collect();
    let creating = stream::iter(objects)
        .map(|object| async move { pods.create(&PostParams::default(), &object).await })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())));
    let both = async {
        let (created, ended) = tokio::join!(creating, all_succeeded(pods, names.clone()));
        created.context("failed to create a pod")?;
        ended
    };
    let ended = tokio::time::timeout(PATIENCE, both).await.context("bare pods did not succeed in time")??;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for name in names {
        pods.delete(&name, &now).await.context("failed to delete a pod")?;
    }
    Ok(ended)
}

/// Watches until the named pods have succeeded; a watch that ends is begun anew.
async fn all_succeeded(pods: &Api<Pod>, mut left: HashSet<String>) -> Result<Instant> {
    loop {
        let list = pods.list(&ListParams::default()).await.context("failed to list pods")?;
        for pod in &list.items {
            note(pod, &mut left)?;
        }
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut changes = pods.watch(&WatchParams::default(), &version).await.context("failed to watch pods")?.boxed();
        while !left.is_empty() {
            match changes.try_next().await? {
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => note(&pod, &mut left)?,
                Some(WatchEvent::Error(_)) | None => break,
                Some(_) => {}
            }
        }
        if left.is_empty() {
            return Ok(Instant::now());
        }
    }
}

fn note(pod: &Pod, left: &mut HashSet<String>) -> Result<()> {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => drop(left.remove(&pod.name_any())),
        Some("Failed") => bail!("bare pod {} failed", pod.name_any()),
        _ => {}
    }
    Ok(())
}

/// A pod of a helper and a build container.
fn pod(image: &str, name: &str, command: &str, volumes: bool) -> Result<Pod> {
    let copy = "cp /bin/busybox /gantry/agent.new && mv /gantry/agent.new /gantry/agent";
    let wait = format!("until [ -x /gantry/agent ]; do sleep 0.02 2>/dev/null || sleep 1; done; {command}");
    let shell = |line: &str| json!(["sh", "-c", line]);
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let shared = [mount("gantry", "/gantry"), mount("repo", "/builds")];
    let of_helper: Vec<_> = shared.iter().cloned().chain([mount("plan", "/gantry-plan")]).collect();
    let container = |name: &str, line: &str, mounts: Value| json!({"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": shell(line), "volumeMounts": mounts});
    let (containers, all) = if volumes {
        let all = json!([{"name": "gantry", "emptyDir": {}}, {"name": "repo", "emptyDir": {}},
            {"name": "plan", "projected": {"sources": [{"secret": {"name": plan_name(name)}}]}}]);
        (json!([container("helper", copy, json!(of_helper)), container("build", &wait, json!(shared))]), all)
    } else {
        (json!([container("helper", "true", json!([])), container("build", command, json!([]))]), json!([]))
    };
    Ok(serde_json::from_value(json!({"metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": containers, "volumes": all}}))?)
}
