//! How a manager reaches the clusters of its runner entries, as GitLab Runner does.
//!
//! `host` with its certificates or a token; else what the user named (`context`, or a file in `KUBECONFIG`); else the
//! service account of the pod this program runs in; else `~/.kube/config`. `bearer_token` takes the place of whatever
//! else says who we are. Entries with the same connection share one client. Where only what says who we
//! are has changed in the file, what runs goes on with the new credentials. A service account's token is read again from
//! its file as it changes, by the client.

use anyhow::{Context, Result};
use axum::http::{Request, Response};
use kube::client::Body;
use kube::config::{
    AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext,
};
use manager::Clusters;
use runner_config::{Config, Kubernetes, Runner};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use tower::Service;
use tower::limit::ConcurrencyLimitLayer;

/// Environment variable that names the file with the cluster's address.
const KUBECONFIG: &str = "KUBECONFIG";
/// Environment variable that is set in every pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// Calls to one cluster that wait for their answer. Each takes a connection of its own (HTTP/1.1), which stays in the
/// pool with its buffers: sixty jobs in one moment would leave sixty. A watch counts until it has begun.
const AT_ONCE: usize = 16;
/// Name of everything in a kubeconfig that we make up.
const NAME: &str = "config.toml";

/// What makes connections the same.
#[derive(Clone, PartialEq, Eq)]
struct Key([String; 6]);

/// The connections of all configurations so far. None is ever taken away: jobs may still be there.
#[derive(Default)]
pub struct Connections {
    known: Vec<(Key, String, Current)>,
}

/// A client that another may take the place of, with newer credentials for the same cluster.
#[derive(Clone)]
struct Current(Arc<Mutex<kube::Client>>);

impl Connections {
    /// The clusters of all entries: those of before and then new ones.
    ///
    /// # Errors
    /// When one cannot be used, with the entry's name; then everything is as before.
    pub async fn of(&mut self, config: &Config) -> Result<Clusters> {
        let mut made: Vec<(Key, String, kube::Client)> = Vec::new();
        for runner in &config.runners {
            let key = Key::of(&runner.kubernetes);
            let is_known = self.known.iter().any(|(one, ..)| *one == key) || made.iter().any(|(one, ..)| *one == key);
            if !is_known {
                let (name, client) = connect(runner).await?;
                made.push((key, name, client));
            }
        }
        let keys: Vec<_> = config.runners.iter().map(|runner| Key::of(&runner.kubernetes)).collect();
        for (key, name, client) in made {
            self.add(&keys, key, name, client);
        }
        let clients = self.known.iter().map(|(_, name, current)| (name.clone(), current.client()));
        let index = |key: &Key| self.known.iter().position(|(one, ..)| one == key).unwrap_or_default();
        Ok(Clusters::several(clients.collect(), keys.iter().map(index).collect()))
    }

    /// One that nobody uses any more in that way and that leads to the same cluster goes on with the new credentials.
    fn add(&mut self, used: &[Key], key: Key, name: String, client: kube::Client) {
        let same = self.known.iter_mut().find(|(one, ..)| one.place() == key.place() && !used.contains(one));
        match same {
            Some((known, _, current)) => {
                *known = key;
                current.set(client);
            }
            None => self.known.push((key, name, Current(Arc::new(Mutex::new(client))))),
        }
    }
}

async fn connect(runner: &Runner) -> Result<(String, kube::Client)> {
    let config = connection(&runner.kubernetes).await.with_context(|| format!("runner \"{}\"", runner.name))?;
    let name = config.cluster_url.to_string();
    let client = kube::client::ClientBuilder::try_from(config)
        .with_context(|| format!("runner \"{}\": failed to use the Kubernetes cluster {name}", runner.name))?
        .with_layer(&ConcurrencyLimitLayer::new(AT_ONCE))
        .build();
    Ok((name, client))
}

impl Current {
    fn client(&self) -> kube::Client {
        let namespace = self.get().default_namespace().to_owned();
        kube::Client::new(self.clone(), namespace)
    }

    fn get(&self) -> kube::Client {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, client: kube::Client) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

impl Service<Request<Body>> for Current {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.get();
        Box::pin(async move { client.send(request).await })
    }
}

impl Key {
    fn of(kubernetes: &Kubernetes) -> Self {
        let Kubernetes { host, context, cert_file, key_file, ca_file, bearer_token, .. } = kubernetes;
        Self([host, context, cert_file, key_file, ca_file, bearer_token].map(Clone::clone))
    }

    /// What says which cluster it is.
    fn place(&self) -> &[String] {
        &self.0[..2]
    }
}

async fn connection(kubernetes: &Kubernetes) -> Result<kube::Config> {
    let mut config = if kubernetes.host.is_empty() { found(&kubernetes.context).await? } else { configured(kubernetes).await? };
    if !kubernetes.bearer_token.is_empty() {
        config.auth_info = AuthInfo { token: Some(kubernetes.bearer_token.clone().into()), ..AuthInfo::default() };
    }
    if let Ok(agent) = format!("gantry/{}", env!("CARGO_PKG_VERSION")).parse() {
        config.headers.push((axum::http::header::USER_AGENT, agent));
    }
    Ok(config)
}

/// The cluster that the configuration names.
async fn configured(kubernetes: &Kubernetes) -> Result<kube::Config> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let secure = !kubernetes.ca_file.is_empty() || !kubernetes.cert_file.is_empty();
    let server = match kubernetes.host.as_str() {
        host if host.contains("://") => host.to_owned(),
        host if secure => format!("https://{host}"),
        host => format!("http://{host}"),
    };
    let cluster = Cluster { server: Some(server), certificate_authority: some(&kubernetes.ca_file), ..Cluster::default() };
    let user = AuthInfo {
        client_certificate: some(&kubernetes.cert_file),
        client_key: some(&kubernetes.key_file),
        ..AuthInfo::default()
    };
    let context = kube::config::Context { cluster: NAME.to_owned(), user: Some(NAME.to_owned()), ..Default::default() };
    let made = Kubeconfig {
        clusters: vec![NamedCluster { name: NAME.to_owned(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: NAME.to_owned(), auth_info: Some(user), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: NAME.to_owned(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(NAME.to_owned()),
        ..Kubeconfig::default()
    };
    let config = kube::Config::from_custom_kubeconfig(made, &KubeConfigOptions::default()).await;
    config.map_err(|error| anyhow::anyhow!("failed to reach host \"{}\": {}", kubernetes.host, without_content(&error)))
}

/// The cluster that the user, the pod or the home directory names. A `KUBECONFIG` that cannot be used is an error:
/// another cluster is not what was asked for.
async fn found(context: &str) -> Result<kube::Config> {
    let is_set = |name| std::env::var_os(name).is_some();
    let named = !context.is_empty() || is_set(KUBECONFIG);
    if !named && is_set(IN_CLUSTER) {
        match kube::Config::incluster() {
            Ok(config) => return Ok(config),
            Err(error) => tracing::debug!(%error, "this program does not run in a cluster, or without a service account"),
        }
    }
    let options =
        KubeConfigOptions { context: (!context.is_empty()).then(|| context.to_owned()), ..KubeConfigOptions::default() };
    kube::Config::from_kubeconfig(&options).await.map_err(|error| {
        let why = without_content(&error);
        anyhow::anyhow!(
            "failed to find a Kubernetes cluster: {why}; name its kubeconfig in {KUBECONFIG} (`gantry node` writes one)"
        )
    })
}

/// What is wrong with a kubeconfig, without the lines that a YAML error shows: they may be a key.
fn without_content(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) => format!("failed to read {}: {source}", path.display()),
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => format!("the kubeconfig is not valid, line {}", place.line()),
            None => "the kubeconfig is not valid".to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, connection};

    fn config(first: &str, second: &str) -> runner_config::Config {
        let entry = |name: &str, keys: &str| {
            format!(
                "[[runners]]\nname = \"{name}\"\nurl = \"http://g\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n[runners.kubernetes]\n{keys}\n"
            )
        };
        runner_config::parse(&format!("{}{}", entry("one", first), entry("two", second))).unwrap().config
    }

    #[tokio::test]
    async fn a_host_is_reached_over_tls_where_there_are_certificates_and_the_token_is_the_configured_one() {
        let parsed = config("host = \"api.example:6443\"\nbearer_token = \"hunter22\"", "host = \"https://other.example\"");
        let config = connection(&parsed.runners[0].kubernetes).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "http://api.example:6443/");
        assert!(config.auth_info.token.is_some() && !format!("{config:?}").contains("hunter22"));
        let missing = "host = \"api.example\"\ncert_file = \"/nowhere/c\"\nkey_file = \"/nowhere/k\"\nca_file = \"/nowhere/a\"";
        let Err(error) = Connections::default().of(&super::tests::config(missing, "")).await else {
            panic!("there are no such files")
        };
        let told = format!("{error:#}");
        assert!(told.contains("runner \"one\"") && told.contains("/nowhere/"), "{told}");
    }
}
