//! Kubernetes objects of a scenario: made from YAML, removed, and looked for at the end.

use agent_contract::names;
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the last pod and Secret may take to go after the end of a pipeline.
const GONE_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Makes a namespace.
///
/// # Errors
/// When the API refuses it.
pub async fn make_namespace(client: &kube::Client, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.metadata.labels = Some(labels.clone());
    namespaces.create(&PostParams::default(), &namespace).await.with_context(|| format!("failed to make {name}"))?;
    Ok(())
}

/// Waits until a namespace has its service account: no pod is admitted before.
///
/// # Errors
/// When it does not come.
pub async fn await_account(client: &kube::Client, namespace: &str) -> Result<()> {
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let begun = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        if begun.elapsed() > GONE_WITHIN {
            bail!("namespace {namespace} got no service account");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Asks for the end of a namespace; nobody waits for it.
pub async fn remove_namespace(client: &kube::Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // The next play would use another name; a rest is harmless.
    let _ = namespaces.delete(name, &DeleteParams::default()).await;
}

/// Creates every object of a YAML text, in `namespace` where it names none.
///
/// # Errors
/// When one is not an object, or the API refuses it.
pub async fn create(client: &kube::Client, yaml: &str, namespace: &str) -> Result<()> {
    for object in parse(yaml)? {
        let name = object.metadata.name.clone().unwrap_or_default();
        let api = api_of(client, &object, namespace)?;
        api.create(&PostParams::default(), &object).await.with_context(|| format!("failed to make {name}"))?;
    }
    Ok(())
}

/// Deletes every object of a YAML text.
///
/// # Errors
/// When the API refuses it.
pub async fn delete(client: &kube::Client, yaml: &str, namespace: &str) -> Result<()> {
    for object in parse(yaml)? {
        let name = object.metadata.name.clone().unwrap_or_default();
        let now = DeleteParams::default().grace_period(0);
        api_of(client, &object, namespace)?.delete(&name, &now).await.with_context(|| format!("failed to delete {name}"))?;
    }
    Ok(())
}

fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).context("the objects are not YAML")?;
    let objects = documents.into_iter().filter(|document| !document.is_null()).map(serde_json::from_value);
    objects.collect::<Result<_, _>>().context("something is not a Kubernetes object")
}

fn api_of(client: &kube::Client, object: &DynamicObject, namespace: &str) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object without kind")?;
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let own = object.metadata.namespace.as_deref().unwrap_or(namespace);
    Ok(match types.kind.as_str() {
        "PriorityClass" | "RuntimeClass" | "PersistentVolume" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), own, &resource),
    })
}

/// What gantry made for jobs: pods and Secrets with its labels.
fn ours() -> ListParams {
    ListParams::default().labels(&format!("{}={},{}", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::LABEL_JOB))
}

/// The pods of jobs in these namespaces.
///
/// # Errors
/// When they cannot be listed.
pub async fn pods(client: &kube::Client, namespaces: &[String]) -> Result<Vec<Pod>> {
    let lists = namespaces.iter().map(|namespace| {
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        async move { api.list(&ours()).await }
    });
    Ok(try_join_all(lists).await?.into_iter().flat_map(|list| list.items).collect())
}

/// The plans of jobs in these namespaces.
///
/// # Errors
/// When they cannot be listed.
pub async fn plans(client: &kube::Client, namespaces: &[String]) -> Result<Vec<Secret>> {
    let lists = namespaces.iter().map(|namespace| {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        async move { api.list(&ours()).await }
    });
    Ok(try_join_all(lists).await?.into_iter().flat_map(|list| list.items).collect())
}

/// Waits until nothing of any job is left; what is left otherwise.
///
/// # Errors
/// When they cannot be listed.
pub async fn leftovers(client: &kube::Client, namespaces: &[String]) -> Result<Vec<String>> {
    leftovers_after(client, namespaces, GONE_WITHIN).await
}

/// The same with another time to wait.
///
/// # Errors
/// When they cannot be listed.
pub async fn leftovers_after(client: &kube::Client, namespaces: &[String], within: Duration) -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let pods =
            pods(client, namespaces).await?.into_iter().map(|pod| format!("pod {}", pod.metadata.name.unwrap_or_default()));
        let plans = plans(client, namespaces).await?;
        let plans = plans.into_iter().map(|plan| format!("secret {}", plan.metadata.name.unwrap_or_default()));
        let left: Vec<_> = pods.chain(plans).collect();
        if left.is_empty() || begun.elapsed() > within {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}
