//! A manager between a GitLab over HTTP and a Kubernetes API in memory, whose kubelet is the test.

pub mod access;
pub mod faults;
pub mod front;
pub mod gitlab;
pub mod line;
pub mod logs;

use access::Access;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use faults::{Faults, State};
use gitlab::Gitlab;
use gitlab_client::{Client, ClientConfig, Service};
use kube_server::{DeleteOptions, Kind, Selectors, Store, memory, router};
use logs::Logs;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Bench {
    pub gitlab: Gitlab,
    pub store: Store,
    calls: Arc<Mutex<Vec<String>>>,
    pub api: Faults,
    pub access: Access,
    pub pods: Pods,
    pub logs: Logs,
}

/// How pods that are created are answered instead.
#[derive(Clone, Default)]
pub struct Pods(Arc<Mutex<PodsKnown>>);

#[derive(Default)]
struct PodsKnown {
    /// A dry run is answered as by a server whose volumes can be images.
    image_volumes: bool,
    /// Sentences that the next pods are refused with.
    refusals: VecDeque<String>,
}

impl Pods {
    pub fn offer_image_volumes(&self) {
        self.0.lock().unwrap().image_volumes = true;
    }

    pub fn refuse_next(&self, sentence: &str) {
        self.0.lock().unwrap().refusals.push_back(sentence.to_owned());
    }

    async fn through(self, request: Request, next: Next) -> Response {
        if request.method() != Method::POST || !request.uri().path().ends_with("/pods") {
            return next.run(request).await;
        }
        if request.uri().query().is_some_and(|query| query.contains("dryRun")) {
            if self.0.lock().unwrap().image_volumes {
                return (StatusCode::CREATED, request.into_body()).into_response();
            }
        } else if let Some(sentence) = self.0.lock().unwrap().refusals.pop_front() {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": sentence});
            return (StatusCode::FORBIDDEN, axum::Json(status)).into_response();
        }
        next.run(request).await
    }
}

/// A manager at work.
pub struct Running {
    stop: CancellationToken,
    changes: (mpsc::Sender<manager::Change>, manager::Clusters),
    task: JoinHandle<Result<(), manager::Error>>,
    link: Link,
}

/// One manager's way to the Kubernetes API.
#[derive(Clone, Default)]
struct Link {
    faults: Faults,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Another configuration takes the place of its own.
    pub async fn change(&self, text: &str) {
        let (sender, clusters) = &self.changes;
        let config = runner_config::parse(text).unwrap().config;
        let sent = sender.send(manager::Change { config, clusters: clusters.clone() }).await;
        assert!(sent.is_ok(), "the manager has ended");
    }

    /// Stops it, and checks that it does so in time.
    pub async fn stop(self) {
        let begun = Instant::now();
        self.stop.cancel();
        self.end().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "the stop took {:?}", begun.elapsed());
    }

    /// Waits for it to end by itself.
    pub async fn end(self) -> Result<(), manager::Error> {
        self.task.await.unwrap()
    }

    /// Whether the Kubernetes API answers this manager with errors only.
    pub fn set_api_away(&self, away: bool) {
        self.link.faults.set(if away { State::Away } else { State::Well });
    }

    /// Its requests to the Kubernetes API so far.
    pub fn calls(&self) -> Vec<String> {
        self.link.calls.lock().unwrap().clone()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Bench {
    pub async fn start() -> Self {
        Self {
            gitlab: Gitlab::start().await,
            store: Store::new(),
            calls: Arc::default(),
            api: Faults::default(),
            access: Access::default(),
            pods: Pods::default(),
            logs: Logs::default(),
        }
    }

    fn client(&self) -> kube::Client {
        self.client_by(&Link::default())
    }

    fn client_by(&self, link: &Link) -> kube::Client {
        let (calls, Link { faults: own, calls: its_calls }) = (self.calls.clone(), link.clone());
        let with_host = tower::ServiceBuilder::new().map_request(move |mut request: http::Request<kube::client::Body>| {
            let path = request.uri().path_and_query().map_or("/".to_owned(), ToString::to_string);
            calls.lock().unwrap().push(format!("{} {path}", request.method()));
            its_calls.lock().unwrap().push(format!("{} {path}", request.method()));
            *request.uri_mut() = format!("http://in-memory{path}").parse().unwrap();
            request
        });
        let (faults, access) = (self.api.clone(), self.access.clone());
        let authorization = axum::middleware::from_fn(move |request, next| access.clone().through(request, next));
        let pods = self.pods.clone();
        let creation = axum::middleware::from_fn(move |request, next| pods.clone().through(request, next));
        let door = axum::middleware::from_fn(move |request, next| faults.clone().through(request, next));
        let own_door = axum::middleware::from_fn(move |request, next| own.clone().through(request, next));
        let served = router(self.store.clone(), Arc::new(self.logs.clone())).layer(creation).layer(authorization);
        let served = memory::connect(served.layer(door).layer(own_door));
        kube::Client::new(with_host.service(served), "default")
    }

    /// Whether the API answers with errors only; streams break off.
    pub fn set_api_away(&self, away: bool) {
        self.api.set(if away { State::Away } else { State::Well });
    }

    /// Requests to the Kubernetes API so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// A manager with `concurrent` and more lines of `[runners.kubernetes]`.
    pub fn manager(&self, concurrent: u32, kubernetes: &str) -> Running {
        self.manager_of(concurrent, "", kubernetes)
    }

    /// A manager with more lines of `[[runners]]` as well.
    pub fn manager_of(&self, concurrent: u32, runner: &str, kubernetes: &str) -> Running {
        self.manager_with(&self.config(concurrent, runner, kubernetes))
    }

    /// A manager with a whole configuration.
    pub fn manager_with(&self, text: &str) -> Running {
        self.replica("s_test", text)
    }

    /// One of several managers, which can be cut off from the cluster by itself.
    pub fn replica(&self, system_id: &str, text: &str) -> Running {
        let link = Link::default();
        let clusters = manager::Clusters::one("test", self.client_by(&link));
        self.run(system_id, text, (clusters, link), manager::Connect::default())
    }

    /// One whose GitLab never answers, for tests in virtual time.
    pub fn idle(&self, system_id: &str) -> Running {
        let link = Link::default();
        let clusters = manager::Clusters::one("test", self.client_by(&link));
        let silent = |config: &ClientConfig| Client::over(config, Service::new(|_| std::future::pending()));
        self.run(system_id, &self.config(1, "", ""), (clusters, link), manager::Connect::by(silent))
    }

    /// A manager with a second entry, whose token is `second`, and whose pods go to the cluster of `other`.
    pub fn manager_of_two(&self, other: &Bench) -> Running {
        let text = [self.config(2, "", ""), self.entry(("second", "second"), "", "")].concat();
        let known = [("a", self.client()), ("b", other.client())].map(|(name, client)| (name.to_owned(), client)).to_vec();
        self.run("s_test", &text, (manager::Clusters::several(known, vec![0, 1]), Link::default()), manager::Connect::default())
    }

    fn run(
        &self,
        system_id: &str,
        text: &str,
        (clusters, link): (manager::Clusters, Link),
        connect: manager::Connect,
    ) -> Running {
        let (stop, (sender, changes)) = (CancellationToken::new(), mpsc::channel(1));
        let options = manager::Options {
            config: runner_config::parse(text).unwrap().config,
            changes: Some(changes),
            clusters: clusters.clone(),
            system_id: system_id.to_owned(),
            helper_image: "gantry-helper".to_owned(),
            version: "1.2.3".to_owned(),
            connect,
            stop: stop.clone(),
        };
        Running { stop, changes: (sender, clusters), task: tokio::spawn(manager::run(options)), link }
    }

    /// A configuration with one entry.
    pub fn config(&self, concurrent: u32, runner: &str, kubernetes: &str) -> String {
        let entry = self.entry(("one", "glrt-secretrunnertoken"), runner, kubernetes);
        format!("concurrent = {concurrent}\ncheck_interval = 1\n{entry}")
    }

    /// An entry with its name and token.
    pub fn entry(&self, (name, token): (&str, &str), runner: &str, kubernetes: &str) -> String {
        format!(
            "[[runners]]\nname = \"{name}\"\nurl = \"{}\"\ntoken = \"{token}\"\nexecutor = \"kubernetes\"\n{runner}\n\
             [runners.kubernetes]\nimage = \"alpine\"\n{kubernetes}\n",
            self.gitlab.url()
        )
    }

    /// Ends the Lease of a manager as its stop does: who is gone for sure need not be waited for.
    pub fn end_lease(&self, name: &str) {
        self.store.delete(Kind::Lease, "default", name, &DeleteOptions::default()).unwrap();
    }

    /// Names of the objects of a kind that gantry made.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let ours = Selectors::parse("app.kubernetes.io/managed-by=gantry", "").unwrap();
        let objects = self.store.list(kind, Some("default"), &ours).0;
        objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything that is stored, as text.
    pub fn all(&self, kind: Kind) -> String {
        let objects = self.store.list(kind, None, &Selectors::default()).0;
        objects.iter().map(ToString::to_string).collect()
    }

    /// Plays whoever takes a pod away: its mark, and why.
    pub fn mark_deleted(&self, pod: &str, reason: &str, message: &str) {
        let marked = self.store.update(Kind::Pod, "default", pod, |object| {
            object["spec"]["nodeName"] = json!("node-1");
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message});
            object["status"]["conditions"] = json!([condition]);
            Ok(())
        });
        marked.unwrap();
        self.store.delete(Kind::Pod, "default", pod, &DeleteOptions::default()).unwrap();
    }

    /// Plays the kubelet.
    pub fn set_status(&self, pod: &str, status: Value) {
        let written = self.store.update(Kind::Pod, "default", pod, |object| {
            if status.get("containerStatuses").is_some() {
                object["spec"]["nodeName"] = json!("node-1");
            }
            for (key, value) in status.as_object().unwrap() {
                object["status"][key] = value.clone();
            }
            Ok(())
        });
        written.unwrap();
    }

    pub fn end_pod(&self, pod: &str) {
        let object = self.store.get(Kind::Pod, "default", pod).unwrap();
        self.store.remove(Kind::Pod, "default", pod, object["metadata"]["uid"].as_str().unwrap());
    }

    /// Waits for the pod of an attempt after the first.
    pub async fn wait_for_attempt(&self, id: u64, attempt: u32) -> String {
        let name = format!("{}-{attempt}", pod(id));
        until("the next pod", || self.names(Kind::Pod).contains(&name)).await;
        name
    }

    /// Plays the node of a pod that is deleted: the mark becomes the end.
    pub async fn let_go(&self, name: &str) {
        let marked = || match self.store.get(Kind::Pod, "default", name) {
            Ok(pod) => pod["metadata"]["deletionTimestamp"].is_string(),
            Err(_) => true,
        };
        until("the pod to be deleted", marked).await;
        if self.names(Kind::Pod).contains(&name.to_owned()) {
            self.end_pod(name);
        }
    }

    pub async fn wait_for_pod(&self, id: u64) -> String {
        let name = pod(id);
        until("the pod", || self.names(Kind::Pod).contains(&name)).await;
        name
    }

    /// Waits until of a pod on a node nothing is left but the mark that it is to end, and plays the node's part.
    pub async fn wait_for_nothing_but_marked(&self, name: &str) {
        let marked = || self.all(Kind::Pod).contains("deletionTimestamp");
        until("the pod to be deleted", marked).await;
        self.end_pod(name);
        self.wait_for_nothing().await;
    }

    /// Waits until nothing of ours is left.
    pub async fn wait_for_nothing(&self) {
        let left = || (self.names(Kind::Pod), self.names(Kind::Secret));
        until("an empty cluster", || left() == (vec![], vec![])).await;
        assert_eq!(self.access.refused(), Vec::<String>::new(), "the manager may do no more than it asks for");
    }
}

pub fn pod(id: u64) -> String {
    format!("runner-secretru-project-5-{id}")
}

pub fn payload(id: u64) -> Value {
    json!({"id": id, "token": format!("job-token-{id}"),
        "job_info": {"name": "unit", "stage": "test", "project_id": 5, "project_full_path": "group/project"},
        "git_info": {"ref": "main", "sha": "abc"}, "runner_info": {"timeout": 3600},
        "steps": [{"name": "script", "script": ["true"], "when": "on_success"}],
        "features": {"trace_sections": true, "failure_reasons": ["image_pull_failure", "runner_configuration_error"]}})
}

/// One container's part of a status.
pub fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "alpine", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

pub fn running() -> Value {
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    json!({"phase": "Running", "containerStatuses": [container("helper", state.clone()), container("build", state)]})
}

/// The helper ended with a verdict.
pub fn ended(verdict: &Value) -> Value {
    let state = json!({"terminated": {"exitCode": 0, "message": verdict.to_string(), "startedAt": "2026-01-01T00:00:00Z"}});
    json!({"phase": "Succeeded", "containerStatuses": [container("helper", state)]})
}

pub fn reported() -> Value {
    ended(&json!({"state": "success", "reported": true, "trace_bytes": 9}))
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
