//! The API over TLS: from the kubeconfig that was written, and not without its certificate.

mod scripted;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, AttachParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube_server::tls::{Serving, serve_tls};
use kube_server::{NoBackend, Store, router};
use scripted::Scripted;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn serve(directory: &Path) -> Serving {
    let router = router(Store::new(), Scripted::new());
    serve_tls(router, ANY_PORT, &directory.join("state"), Some(&directory.join("config"))).await.unwrap()
}

async fn client_of(kubeconfig: Kubeconfig) -> kube::Result<kube::Client> {
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config)
}

async fn client(directory: &Path) -> kube::Client {
    client_of(Kubeconfig::read_from(directory.join("config")).unwrap()).await.unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_written_kubeconfig_is_all_a_client_needs_exec_included() {
    let directory = tempfile::tempdir().unwrap();
    let _serving = serve(directory.path()).await;
    let pods: Api<Pod> = Api::default_namespaced(client(directory.path()).await);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "build", "image": "busybox"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let mut process = pods.exec("p", ["cat"], &AttachParams::default().stdin(true).stderr(false)).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(b"over TLS").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    process.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "over TLS");
}

#[tokio::test]
async fn without_a_certificate_of_ours_nobody_gets_in() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _serving = serve(directory.path()).await;
    let _other = serve(other.path()).await;
    let ours = Kubeconfig::read_from(directory.path().join("config")).unwrap();
    let theirs = Kubeconfig::read_from(other.path().join("config")).unwrap();
    let mut bare = ours.clone();
    let user = bare.auth_infos[0].auth_info.as_mut().unwrap();
    (user.client_certificate_data, user.client_key_data) = (None, None);
    let mut stranger = ours.clone();
    stranger.auth_infos = theirs.auth_infos;
    for (who, kubeconfig) in [("no certificate", bare), ("a certificate of another node", stranger)] {
        let maps: Api<ConfigMap> = Api::default_namespaced(client_of(kubeconfig).await.unwrap());
        let error = maps.list(&ListParams::default()).await.expect_err(who);
        assert!(!matches!(error, kube::Error::Api(_)), "{who} must not reach the API: {error}");
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client_of(ours).await.unwrap());
    maps.list(&ListParams::default()).await.unwrap();
}

#[tokio::test]
async fn secrets_on_disk_are_for_their_owner_and_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    drop(serve(directory.path()).await);
    let old = std::fs::read_to_string(directory.path().join("config")).unwrap();
    for (path, expected) in [("state", 0o700), ("state/authority.json", 0o600), ("config", 0o600)] {
        assert_eq!(mode(&directory.path().join(path)), expected, "{path}");
    }
    let again = serve(directory.path()).await;
    let mut kubeconfig: Kubeconfig = Kubeconfig::from_yaml(&old).unwrap();
    kubeconfig.clusters[0].cluster.as_mut().unwrap().server = Some(format!("https://{}", again.local_addr()));
    let maps: Api<ConfigMap> = Api::default_namespaced(client_of(kubeconfig).await.unwrap());
    maps.list(&ListParams::default()).await.expect("an older kubeconfig must still be good");
}

#[tokio::test]
async fn somebody_elses_kubeconfig_is_left_alone_and_a_damaged_authority_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (state, config) = (directory.path().join("state"), directory.path().join("config"));
    std::fs::write(&config, "apiVersion: v1\nkind: Config\n").unwrap();
    let router = || router(Store::new(), Arc::new(NoBackend));
    let refused = serve_tls(router(), ANY_PORT, &state, Some(&config)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert!(std::fs::read_to_string(&config).unwrap().starts_with("apiVersion"));
    std::fs::write(state.join("authority.json"), "{}").unwrap();
    let damaged = serve_tls(router(), ANY_PORT, &state, None).await.unwrap_err();
    assert!(damaged.to_string().contains("authority.json is damaged"), "{damaged}");
}

#[tokio::test]
async fn dropping_the_listener_closes_the_port_and_ends_what_runs_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = Scripted::new();
    let router = router(Store::new(), node.clone());
    let config = directory.path().join("config");
    let serving = serve_tls(router, ANY_PORT, &directory.path().join("state"), Some(&config)).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client(directory.path()).await);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "build", "image": "busybox"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let _process = pods.exec("p", ["sleep"], &AttachParams::default()).await.unwrap();
    until("the start", async || node.running.load(Ordering::SeqCst) == 1).await;
    let address = serving.local_addr();
    drop(serving);
    until("the end of the program", async || node.running.load(Ordering::SeqCst) == 0).await;
    until("the port to close", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn a_peer_that_never_says_who_it_is_is_sent_away() {
    let directory = tempfile::tempdir().unwrap();
    let serving = serve(directory.path()).await;
    let mut silent = tokio::net::TcpStream::connect(serving.local_addr()).await.unwrap();
    let mut nothing = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut nothing)).await;
    ended.expect("the connection must end").unwrap();
    assert!(nothing.is_empty());
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"));
}
