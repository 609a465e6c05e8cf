//! A namespace per run in the cluster of `KUBECONFIG`, and in it a service account per runner.
//!
//! The accounts may do anything in the namespace: what each runner needs is not the question here, and a runner that is
//! refused measures nothing. The namespace is deleted at the end, whatever the end is.

use crate::runner::Contender;
use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the namespace may take to become empty.
const EMPTYING: Duration = Duration::from_secs(180);
const TOKEN_SECONDS: i64 = 24 * 3600;

/// The place of a run.
#[derive(Clone)]
pub struct Cluster {
    /// A client that may do everything.
    pub client: Client,
    /// The run's own namespace.
    pub namespace: String,
    directory: PathBuf,
    source: Kubeconfig,
}

fn object<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

impl Cluster {
    /// Makes the namespace; files go to `directory`.
    pub async fn connect(directory: &Path) -> Result<Self> {
        let client = Client::try_default().await.context("failed to find a cluster: name its kubeconfig in KUBECONFIG")?;
        let source = Kubeconfig::read().or_else(|_| Kubeconfig::from_env().transpose().unwrap_or(Ok(Kubeconfig::default())))?;
        let namespace = format!("bench-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": namespace}}))?).await;
        made.context("failed to create the namespace of the run")?;
        Ok(Self { client, namespace, directory: directory.to_owned(), source })
    }

    /// An API of the namespace.
    pub fn api<T>(&self) -> Api<T>
    where
        T: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        T::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The name of a runner in the audit log.
    pub fn user(&self, contender: &Contender) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, contender.name)
    }

    /// Makes a runner's service account; answers the path of its kubeconfig.
    pub async fn account(&self, contender: &Contender) -> Result<PathBuf> {
        let (name, parameters) = (contender.name.as_str(), PostParams::default());
        let accounts: Api<ServiceAccount> = self.api();
        accounts.create(&parameters, &object(json!({"metadata": {"name": name}}))?).await?;
        let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        self.api::<Role>().create(&parameters, &object(json!({"metadata": {"name": name}, "rules": everything}))?).await?;
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}]});
        self.api::<RoleBinding>().create(&parameters, &object(binding)?).await?;
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let issued = accounts.create_token_request(name, &parameters, &request).await.context("failed to get a token")?;
        let token = issued.status.context("the cluster issued no token")?.token;
        self.write_kubeconfig(name, &token)
    }

    fn write_kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let current = self.source.current_context.as_deref();
        let context = self.source.contexts.iter().find(|one| current.is_none_or(|current| one.name == current));
        let wanted = context.and_then(|one| one.context.as_ref()).map(|context| context.cluster.as_str());
        let clusters = self.source.clusters.iter();
        let found = clusters.filter(|one| wanted.is_none_or(|wanted| one.name == wanted)).find_map(|one| one.cluster.as_ref());
        let mut cluster = serde_json::to_value(found.context("the kubeconfig names no cluster")?)?;
        cluster.as_object_mut().into_iter().for_each(|fields| fields.retain(|_, value| !value.is_null()));
        let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": name, "namespace": self.namespace}}]});
        let path = self.directory.join(format!("{name}.kubeconfig"));
        let mut output = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        // JSON is YAML.
        serde_json::to_writer(&mut output, &file)?;
        Ok(path)
    }

    /// Waits until no pod is left, so that one measurement does not disturb the next.
    pub async fn become_empty(&self) -> Result<()> {
        let pods: Api<Pod> = self.api();
        let deadline = tokio::time::Instant::now() + EMPTYING;
        loop {
            let listed = pods.list(&ListParams::default()).await.context("failed to list the pods of the run");
            let is_late = tokio::time::Instant::now() > deadline;
            let left = match listed {
                Ok(list) if list.items.is_empty() => return Ok(()),
                Ok(list) => list.items,
                Err(error) if is_late => return Err(error),
                Err(_) => Vec::new(),
            };
            if is_late {
                let names: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
                anyhow::bail!("{} pods were still there after {} s: {}", names.len(), EMPTYING.as_secs(), names.join(" "));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Deletes what a failed measurement left.
    pub async fn clear(&self) -> Result<()> {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api::<Pod>().delete_collection(&now, &ListParams::default()).await.context("failed to delete left pods")?;
        self.become_empty().await
    }

    /// Deletes the namespace.
    pub async fn delete(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .context("failed to delete the namespace of the run")?;
        Ok(())
    }
}
