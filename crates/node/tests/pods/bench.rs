//! A node, a client, and ways to wait with a deadline that explains itself.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams, WatchEvent, WatchParams};
use node::{Node, NodeOptions};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node under test.
pub struct Bench {
    /// It.
    pub node: Node,
    /// A real client of its API.
    pub client: kube::Client,
    /// Its pods.
    pub pods: Api<Pod>,
}

impl Bench {
    /// Starts a node below a directory.
    pub async fn start(directory: &Path) -> Result<Self, node::Error> {
        let agent = directory.join("agent");
        std::fs::write(&agent, "#!/bin/sh\necho agent $1\n").expect("the directory can be written");
        std::fs::set_permissions(&agent, Permissions::from_mode(0o755)).expect("it is ours");
        let options = NodeOptions {
            run_dir: crate::leftovers::run_dir(),
            data_dir: directory.join("data"),
            agent: Some(agent),
            host_paths: Vec::new(),
            insecure_registries: Vec::new(),
        };
        let node = Node::start(options).await?;
        let client = kube::Client::new(kube_server::memory::connect(node.router()), "default");
        let pods = Api::default_namespaced(client.clone());
        Ok(Self { node, client, pods })
    }

    /// Creates a pod with restart policy `Never` out of its spec.
    pub async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        let policy = spec.get("restartPolicy").cloned().unwrap_or_else(|| json!("Never"));
        spec["restartPolicy"] = policy;
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Creates a Secret.
    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {key: value}})).unwrap();
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        secrets.create(&PostParams::default(), &secret).await.unwrap();
    }

    /// Waits until a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let pod = self.pods.get(name).await.unwrap();
                if wanted(&pod) {
                    return pod;
                }
                let version = pod.metadata.resource_version.clone().unwrap_or_default();
                last = Some(pod);
                let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
                let mut events = self.pods.watch(&parameters, &version).await.unwrap().boxed();
                while let Some(event) = events.next().await {
                    match event {
                        Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) if wanted(&pod) => return pod,
                        Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => last = Some(pod),
                        _ => break,
                    }
                }
            }
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("pod {name} did not become {what}: {}", json!(last.and_then(|pod| pod.status))))
    }

    /// Waits until a pod has ended.
    pub async fn ended(&self, name: &str) -> Pod {
        self.until(name, "ended", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await
    }

    /// Waits until all containers of a pod run.
    pub async fn running(&self, name: &str) -> Pod {
        self.until(name, "running", |pod| phase(pod) == "Running").await
    }

    /// Waits until a pod is gone.
    pub async fn gone(&self, name: &str) {
        let gone = kube::runtime::wait::await_condition(self.pods.clone(), name, |pod: Option<&Pod>| pod.is_none());
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.unwrap_or_else(|_| panic!("pod {name} did not go")).unwrap();
    }

    /// Log of a container.
    pub async fn log(&self, name: &str, container: &str) -> String {
        let parameters = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        self.pods.logs(name, &parameters).await.unwrap()
    }

    /// Waits until a log has a text in it.
    pub async fn log_has(&self, name: &str, container: &str, text: &str) {
        use futures::AsyncBufReadExt;
        let parameters = LogParams { container: Some(container.to_owned()), follow: true, ..LogParams::default() };
        let lines = self.pods.log_stream(name, &parameters).await.unwrap().lines();
        let found = lines.any(|line| {
            let found = line.unwrap().contains(text);
            async move { found }
        });
        let found = tokio::time::timeout(PATIENCE, found).await;
        assert!(found.unwrap_or_else(|_| panic!("log of {name} shows no {text:?}")), "log of {name} ended without {text:?}");
    }

    /// Deletes a pod with a grace period.
    pub async fn delete(&self, name: &str, grace: u32) {
        let parameters = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
        self.pods.delete(name, &parameters).await.unwrap();
    }

    /// Runs one script in one container to its end; answers the pod and the log, and deletes it.
    pub async fn script(&self, name: &str, script: &str, more: Value) -> (Pod, String) {
        let mut spec = json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", script]}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.strip_prefix("container.") {
                Some(key) => spec["containers"][0][key] = value.clone(),
                None => spec[key] = value.clone(),
            }
        }
        self.create(name, spec).await;
        let pod = self.ended(name).await;
        let log = match container(&pod, "a").container_id {
            Some(_) => self.log(name, "a").await,
            None => String::new(),
        };
        self.delete(name, 0).await;
        self.gone(name).await;
        (pod, log)
    }

    /// `reason: message` of all events of a pod.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let parameters = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let list = events.list(&parameters).await.unwrap();
        let text = |text: Option<String>| text.unwrap_or_default();
        list.items.into_iter().map(|event| format!("{}: {}", text(event.reason), text(event.message))).collect()
    }
}

/// Phase of a pod.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Status of one container.
pub fn container(pod: &Pod, name: &str) -> ContainerStatus {
    let status = pod.status.as_ref().unwrap();
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.find(|one| one.name == name).cloned().unwrap_or_default()
}

/// Exit code, reason and message of a container that ended.
pub fn end(pod: &Pod, name: &str) -> (i32, String, String) {
    let state = container(pod, name).state.unwrap_or_default();
    let end = state.terminated.unwrap_or_else(|| panic!("container {name} has not ended: {}", json!(pod.status)));
    (end.exit_code, end.reason.unwrap_or_default(), end.message.unwrap_or_default())
}

/// Reason and message of a container that waits.
pub fn waiting(pod: &Pod, name: &str) -> (String, String) {
    let waiting = container(pod, name).state.unwrap_or_default().waiting.unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}
