//! How a manager reaches the clusters of its runner entries, as GitLab Runner does.
//!
//! `host` with its certificates or a token; else what the user named (`context`, or a file in `KUBECONFIG`); else the
//! service account of the pod this program runs in; else `~/.kube/config`. `bearer_token` takes the place of whatever
//! else says who we are. Entries with the same connection share one client. A service account's token is read again from
//! its file as it changes, by the client.

use anyhow::{Context, Result};
use kube::config::{
    AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext,
};
use manager::Clusters;
use runner_config::{Config, Kubernetes};
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

/// The clusters of all entries.
///
/// # Errors
/// When one cannot be used, with the entry's name.
pub async fn clusters(config: &Config) -> Result<Clusters> {
    let (mut keys, mut known, mut of_runners) = (Vec::new(), Vec::new(), Vec::new());
    for runner in &config.runners {
        let key = Key::of(&runner.kubernetes);
        let index = match keys.iter().position(|one| *one == key) {
            Some(index) => index,
            None => {
                let config = connection(&runner.kubernetes).await.with_context(|| format!("runner \"{}\"", runner.name))?;
                let name = config.cluster_url.to_string();
                let client = kube::client::ClientBuilder::try_from(config)
                    .with_context(|| format!("runner \"{}\": failed to use the Kubernetes cluster {name}", runner.name))?
                    .with_layer(&ConcurrencyLimitLayer::new(AT_ONCE))
                    .build();
                keys.push(key);
                known.push((name, client));
                known.len() - 1
            }
        };
        of_runners.push(index);
    }
    Ok(Clusters::several(known, of_runners))
}

impl Key {
    fn of(kubernetes: &Kubernetes) -> Self {
        let Kubernetes { host, context, cert_file, key_file, ca_file, bearer_token, .. } = kubernetes;
        Self([host, context, cert_file, key_file, ca_file, bearer_token].map(Clone::clone))
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
    use super::{clusters, connection};

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
        let Err(error) = clusters(&super::tests::config(missing, "")).await else { panic!("there are no such files") };
        let told = format!("{error:#}");
        assert!(told.contains("runner \"one\"") && told.contains("/nowhere/"), "{told}");
    }
}
