//! The manager with the permissions that `gantry rbac` prints, and with one less, on a real cluster.
//!
//! It reaches the cluster as a `config.toml` names it: `host`, `ca_file` and `bearer_token`.

use e2e::manager::{ACCOUNT, rbac, token};
use e2e::objects;
use e2e::target::{gantry, text_of};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A manager that cannot start ends within this.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    program: PathBuf,
    client: kube::Client,
    namespace: String,
    directory: tempfile::TempDir,
}

/// The file that leads to the cluster, and our program; else why there is nothing to test.
fn found() -> Result<(PathBuf, PathBuf), String> {
    let directory = std::env::var_os("GANTRY_CLUSTER_DIR").map_or_else(|| "/var/lib/gantry-cluster".into(), PathBuf::from);
    let kubeconfig = directory.join("admin.conf");
    let beside = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join("gantry")));
    let program = std::env::var_os("GANTRY").map(PathBuf::from).or(beside).unwrap_or_default();
    for (what, path) in [("cluster", &kubeconfig), ("gantry program", &program)] {
        if !path.exists() {
            return Err(format!("there is no {what}: {} is missing", path.display()));
        }
    }
    Ok((kubeconfig, program))
}

impl Bench {
    /// A namespace whose account has what `gantry rbac` prints, and a configuration with its token.
    async fn start(kubeconfig: &Path, program: PathBuf) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let host = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).unwrap();
        let namespace = format!("e2e-permissions-{}", std::process::id());
        objects::make_namespace(&client, &namespace, &BTreeMap::new()).await.unwrap();
        let bench = Self { program, client, namespace, directory: tempfile::tempdir().unwrap() };
        std::fs::write(bench.path("ca.pem"), bench.authority().await).unwrap();
        // Nothing listens at this GitLab: no job is what is tested here.
        let text = format!(
            "[[runners]]\nname = \"one\"\nurl = \"http://127.0.0.1:9\"\ntoken = \"glrt-runnertoken\"\nexecutor = \"kubernetes\"\n\
             [runners.kubernetes]\nhost = \"{host}\"\nca_file = {:?}\nbearer_token = \"{{token}}\"\nnamespace = \"{}\"\n",
            bench.path("ca.pem"),
            bench.namespace
        );
        std::fs::write(bench.path("config.toml"), text.replace("{token}", "none")).unwrap();
        let printed = rbac(&bench.program, &bench.namespace, &bench.path("config.toml")).await.unwrap();
        objects::create(&bench.client, &printed, &bench.namespace).await.unwrap();
        std::fs::write(
            bench.path("config.toml"),
            text.replace("{token}", &token(&bench.client, &bench.namespace).await.unwrap()),
        )
        .unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The certificates of the cluster, which every namespace gets some time after it was made.
    async fn authority(&self) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let begun = Instant::now();
        loop {
            if let Some(map) = maps.get_opt("kube-root-ca.crt").await.unwrap() {
                return map.data.unwrap()["ca.crt"].clone();
            }
            assert!(begun.elapsed() < PATIENCE, "the namespace got no certificates");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sets what the account may do.
    async fn allow(&self, rules: &[PolicyRule]) {
        let roles: Api<Role> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut role = roles.get(ACCOUNT).await.unwrap();
        role.rules = Some(rules.to_vec());
        roles.replace(ACCOUNT, &PostParams::default(), &role).await.unwrap();
    }

    async fn rules(&self) -> Vec<PolicyRule> {
        let roles: Api<Role> = Api::namespaced(self.client.clone(), &self.namespace);
        roles.get(ACCOUNT).await.unwrap().rules.unwrap()
    }

    /// Runs a manager until its log has `words`, or it ends; answers the log and whether it ended by itself.
    async fn run_until(&self, config: &Path, words: &str) -> (String, bool) {
        let log = self.path("manager.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = gantry(&self.program);
        command.args(["run", "--config"]).arg(config).stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
        let mut manager = command.spawn().unwrap();
        let begun = Instant::now();
        loop {
            let ended = manager.try_wait().unwrap().is_some();
            let text = text_of(&log);
            if ended || text.contains(words) {
                manager.kill().await.unwrap_or_default();
                let token = std::fs::read_to_string(config).unwrap();
                let token = token.split("bearer_token = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                assert!(!text.contains(token), "the token stands in the log");
                return (text, ended);
            }
            assert!(begun.elapsed() < PATIENCE, "gave up waiting for {words:?} in {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Each verb of the rules, with the rules that lack it.
fn without_one(rules: &[PolicyRule]) -> Vec<(String, String, Vec<PolicyRule>)> {
    let mut list = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for verb in &rule.verbs {
            let mut fewer = rules.to_vec();
            fewer[index].verbs.retain(|one| one != verb);
            list.push((verb.clone(), rule.resources.clone().unwrap_or_default().concat(), fewer));
        }
    }
    list
}

#[tokio::test]
async fn a_manager_starts_with_what_gantry_rbac_prints_and_names_each_permission_that_is_missing() {
    let (kubeconfig, program) = match found() {
        Ok(found) => found,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            println!("skipped, because {why}");
            return;
        }
    };
    let bench = Bench::start(&kubeconfig, program).await;
    let config = bench.path("config.toml");
    let (log, ended) = bench.run_until(&config, "the cluster was asked what it offers").await;
    assert!(!ended, "{log}");

    let rules = bench.rules().await;
    // Events and logs of services are read for jobs that ask for them, and a job without is told.
    let wished = ["events", "pods/log"];
    let cases: Vec<_> = without_one(&rules).into_iter().filter(|(_, resource, _)| !wished.contains(&resource.as_str())).collect();
    assert_eq!(cases.len(), 15);
    for (verb, resource, fewer) in cases {
        bench.allow(&fewer).await;
        let expected =
            format!("the manager stopped: the service account may not {verb} {resource} in namespace {}", bench.namespace);
        let (log, ended) = bench.run_until(&config, &expected).await;
        assert!(log.contains(&expected), "{verb} {resource}: ended {ended}: {log}");
        println!("without {verb} {resource}: {}", log.lines().last().unwrap_or_default());
    }

    // To the account, a namespace that is not there looks like one where it may do nothing.
    bench.allow(&rules).await;
    let elsewhere = std::fs::read_to_string(&config)
        .unwrap()
        .replace(&format!("namespace = \"{}\"", bench.namespace), "namespace = \"nowhere\"");
    std::fs::write(bench.path("elsewhere.toml"), elsewhere).unwrap();
    let expected = "the service account may do nothing in namespace nowhere: does it exist";
    let (log, _) = bench.run_until(&bench.path("elsewhere.toml"), expected).await;
    assert!(log.contains(expected), "{log}");
    objects::remove_namespace(&bench.client, &bench.namespace).await;
}
