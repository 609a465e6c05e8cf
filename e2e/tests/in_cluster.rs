//! The manager as a pod: by its service account, with its configuration from a ConfigMap, which nobody can write to.

use anyhow::{Context, Result, ensure};
use e2e::gitlab::{GitLab, Sites};
use e2e::manager::{ACCOUNT, configuration, grant};
use e2e::target::{Target, TestImages, program};
use e2e::{objects, scenario};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, LogParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// From the pod of the manager to the end of its job.
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "manager";

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_in_a_pod_uses_its_service_account_and_a_configuration_that_cannot_be_written() {
    // There may be a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let images =
        if rustix::process::geteuid().is_root() { TestImages::make().await } else { Err(anyhow::anyhow!("pods need root")) };
    let target = match images {
        Ok(images) => Target::cluster(&images).await,
        Err(error) => Err(error),
    };
    let target = match target {
        Ok(target) => target,
        Err(error) if std::env::var_os("CI").is_none() => return println!("skipped, because {error:#}"),
        Err(error) => panic!("{error:#}"),
    };
    let namespace = format!("e2e-in-cluster-{:x}", std::process::id());
    let made = objects::make_namespace(&target.client, &namespace, &BTreeMap::new()).await;
    let played = match made {
        Ok(()) => play(&target, &namespace).await,
        Err(error) => Err(error),
    };
    objects::remove_namespace(&target.client, &namespace).await;
    played.unwrap();
}

async fn play(target: &Target, namespace: &str) -> Result<()> {
    objects::await_account(&target.client, namespace).await?;
    let directory = tempfile::tempdir()?;
    let folders = scenario::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios"))?;
    let folder = folders.iter().find(|folder| folder.name == "success").context("no scenario success")?;
    let sites = Sites::serve(target.gateway, target.port).await?;
    let url = format!("http://{}:{}/{namespace}", target.gateway, target.port);
    let gitlab = GitLab::open(&sites, url, &[], directory.path())?;
    let config = configuration(folder, target, namespace, (&gitlab.url, &gitlab.token))?;
    let (program, file) = (program()?, directory.path().join("config.toml"));
    std::fs::write(&file, &config)?;
    grant(&program, target, &[namespace.to_owned()], &file).await?;
    make(target, namespace, &config, &program).await?;
    let pipeline = gitlab.run(folder, Vec::new(), directory.path())?;
    let begun = Instant::now();
    let job = loop {
        let job = gitlab.coordinator.pipeline(pipeline)?.jobs.remove(0);
        if job.status.is_final() {
            break job;
        }
        if begun.elapsed() > PATIENCE {
            anyhow::bail!("the job is {}; the manager: {}", job.status.as_str(), log(target, namespace).await?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let said = log(target, namespace).await?;
    ensure!(job.status.as_str() == "success", "the job is {}; the manager: {said}", job.status.as_str());
    ensure!(said.contains("this manager's id cannot be kept"), "the manager does not say how it is called: {said}");
    Ok(())
}

/// The pod and its configuration. The program comes from this machine, which is the node.
async fn make(target: &Target, namespace: &str, config: &str, program: &Path) -> Result<()> {
    let map: ConfigMap = of(json!({"metadata": {"name": NAME}, "data": {"config.toml": config}}))?;
    let maps: Api<ConfigMap> = Api::namespaced(target.client.clone(), namespace);
    maps.create(&PostParams::default(), &map).await.context("failed to make the configuration")?;
    let pod: Pod = of(json!({"metadata": {"name": NAME}, "spec": {
        "serviceAccountName": ACCOUNT,
        "restartPolicy": "Never",
        "containers": [{"name": NAME, "image": target.images["DEBIAN_GIT"], "imagePullPolicy": "IfNotPresent",
            "command": ["/program", "run", "--config", "/etc/gitlab-runner/config.toml"],
            "volumeMounts": [{"name": "program", "mountPath": "/program", "readOnly": true},
                {"name": "config", "mountPath": "/etc/gitlab-runner"}]}],
        "volumes": [{"name": "program", "hostPath": {"path": program, "type": "File"}},
            {"name": "config", "configMap": {"name": NAME}}]}}))?;
    let pods: Api<Pod> = Api::namespaced(target.client.clone(), namespace);
    pods.create(&PostParams::default(), &pod).await.context("failed to make the manager's pod")?;
    Ok(())
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// The log of the manager. Its job may be over before the API hears from the kubelet that the manager has started.
async fn log(target: &Target, namespace: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(target.client.clone(), namespace);
    let begun = Instant::now();
    loop {
        match pods.logs(NAME, &LogParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 400 && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            read => return read.context("failed to read the manager's log"),
        }
    }
}
