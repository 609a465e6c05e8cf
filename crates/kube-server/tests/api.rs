//! The API through a real client library, over in-memory connections.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube_server::backend::LogStream;
use kube_server::{
    ApiError, ExecOptions, ExecSession, Kind, LogOptions, NoBackend, PodBackend, PodEvent, PodRef, Store, memory, router,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn client(store: &Store) -> kube::Client {
    client_with(store, Arc::new(NoBackend))
}

fn client_with(store: &Store, backend: Arc<dyn PodBackend>) -> kube::Client {
    kube::Client::new(memory::connect(router(store.clone(), backend)), "default")
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "build", "image": "busybox"}]}}))
    .unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

#[tokio::test]
async fn a_pod_is_created_with_defaults_read_changed_and_deleted() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    let made = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    assert_eq!(made.spec.as_ref().unwrap().termination_grace_period_seconds, Some(30));
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    let taken = pods.create(&PostParams::default(), &pod("a")).await.unwrap_err();
    assert!(matches!(taken, kube::Error::Api(status) if status.reason == "AlreadyExists" && status.code == 409));
    let patch = json!({"metadata": {"labels": {"owner": "me"}}});
    let patched = pods.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["owner"], "me");
    assert_eq!(pods.list(&ListParams::default().labels("owner=me,app in (a,b)")).await.unwrap().items.len(), 1);
    assert_eq!(pods.list(&ListParams::default().labels("owner!=me")).await.unwrap().items.len(), 0);
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_stale_version_is_a_conflict() {
    let store = Store::new();
    let maps: Api<ConfigMap> = Api::namespaced(client(&store), "default");
    let first: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).unwrap();
    let mut old = maps.create(&PostParams::default(), &first).await.unwrap();
    let stale = old.clone();
    old.data.as_mut().unwrap().insert("a".into(), "2".into());
    maps.replace("m", &PostParams::default(), &old).await.unwrap();
    let error = maps.replace("m", &PostParams::default(), &stale).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.reason == "Conflict"));
}

#[tokio::test]
async fn a_watch_tells_of_every_change_from_a_version_on() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    let version = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = pods.watch(&WatchParams::default().labels("app=a"), &version).await.unwrap().boxed();
    for name in ["a", "b"] {
        pods.create(&PostParams::default(), &pod(name)).await.unwrap();
    }
    let unlabel = json!({"metadata": {"labels": {"app": null}}});
    pods.patch("a", &PatchParams::default(), &Patch::Merge(unlabel)).await.unwrap();
    let added = soon("the addition", events.try_next()).await.unwrap().unwrap();
    assert!(matches!(added, WatchEvent::Added(pod) if pod.metadata.name.as_deref() == Some("a")));
    let gone = soon("the loss of the label", events.try_next()).await.unwrap().unwrap();
    assert!(matches!(gone, WatchEvent::Deleted(_)));
}

#[tokio::test]
async fn a_version_from_before_the_history_is_expired() {
    let store = Store::new();
    for index in 0..5000 {
        store.create(Kind::ConfigMap, "default", json!({"metadata": {"name": format!("m{index}")}})).unwrap();
    }
    let maps: Api<ConfigMap> = Api::namespaced(client(&store), "default");
    let newest = u64::MAX.to_string();
    for version in ["1", &newest] {
        let mut events = maps.watch(&WatchParams::default(), version).await.unwrap().boxed();
        let event = soon("the refusal", events.try_next()).await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Error(status) if status.code == 410), "{version} must be refused");
    }
}

#[tokio::test]
async fn a_watcher_of_a_server_that_is_no_more_lists_again_at_the_next_one() {
    let (first, second) = (Store::new(), Store::new());
    let pods: Api<Pod> = Api::namespaced(client(&first), "default");
    let version = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let pods: Api<Pod> = Api::namespaced(client(&second), "default");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let mut events = pods.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let event = soon("the refusal", events.try_next()).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410), "it must not go on from {version}");
}

#[tokio::test]
async fn the_client_librarys_watcher_sees_the_initial_list_and_what_follows() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    pods.create(&PostParams::default(), &pod("before")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut seen = watcher(pods.clone(), config).applied_objects().boxed();
        let first = soon("the first pod", seen.try_next()).await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("before"));
        pods.create(&PostParams::default(), &pod("after")).await.unwrap();
        let next = soon("the second pod", seen.try_next()).await.unwrap().unwrap();
        assert_eq!(next.metadata.name.as_deref(), Some("after"));
        pods.delete("after", &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_pod_on_a_node_is_marked_and_the_node_removes_it() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let bound = store.update(Kind::Pod, "default", "a", |pod| {
        pod["spec"]["nodeName"] = json!("n");
        Ok(())
    });
    let uid = bound.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    pods.delete("a", &DeleteParams::default().grace_period(5)).await.unwrap();
    let marked = pods.get("a").await.unwrap().metadata;
    assert!(marked.deletion_timestamp.is_some());
    assert_eq!(marked.deletion_grace_period_seconds, Some(5));
    assert!(store.remove(Kind::Pod, "default", "a", "another uid").is_none());
    assert!(store.remove(Kind::Pod, "default", "a", &uid).is_some());
    assert!(pods.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn objects_that_break_a_rule_are_refused() {
    let store = Store::new();
    let secrets: Api<Secret> = Api::namespaced(client(&store), "default");
    let large = json!({"metadata": {"name": "s"}, "stringData": {"a": "x".repeat(1_100_000)}});
    let error = secrets.create(&PostParams::default(), &serde_json::from_value(large).unwrap()).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 422 && status.message.contains("Too long")));
    let nowhere: Api<Pod> = Api::namespaced(client(&store), "nowhere");
    let error = nowhere.create(&PostParams::default(), &pod("a")).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 404 && status.message.contains("namespaces \"nowhere\"")));
}

#[tokio::test]
async fn the_end_of_a_namespace_is_the_end_of_its_content() {
    let store = Store::new();
    let client = client(&store);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let new = serde_json::from_value(json!({"metadata": {"name": "ci"}})).unwrap();
    namespaces.create(&PostParams::default(), &new).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "ci");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    namespaces.delete("ci", &DeleteParams::default()).await.unwrap();
    assert!(Api::<Pod>::all(client).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_namespace_with_a_running_pod_ends_when_the_node_is_done_and_takes_nothing_new() {
    let store = Store::new();
    let client = client(&store);
    store.create(Kind::Namespace, "", json!({"metadata": {"name": "ci"}})).unwrap();
    store.create(Kind::Secret, "ci", json!({"metadata": {"name": "s"}})).unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "ci");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let bound = store.update(Kind::Pod, "ci", "a", |pod| {
        pod["spec"]["nodeName"] = json!("n");
        Ok(())
    });
    let uid = bound.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("ci", &DeleteParams::default()).await.unwrap();
    let ending = namespaces.get("ci").await.unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    assert!(store.get(Kind::Secret, "ci", "s").is_err());
    assert!(pods.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let refused = pods.create(&PostParams::default(), &pod("b")).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated")));
    assert!(store.remove(Kind::Pod, "ci", "a", &uid).is_some());
    assert!(namespaces.get_opt("ci").await.unwrap().is_none());
    let kept = namespaces.delete("default", &DeleteParams::default()).await.unwrap_err();
    assert!(matches!(kept, kube::Error::Api(status) if status.code == 403));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_with_a_status() {
    let client = client(&Store::new());
    let request = http::Request::post("/api/v1/namespaces/default/configmaps").header("content-type", "application/json");
    let body = format!(r#"{{"metadata": {{"name": "m"}}, "data": {{"a": "{}"}}}}"#, "x".repeat(4 * 1024 * 1024));
    let error = client.request_text(request.body(body.into_bytes()).unwrap()).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 413), "{error}");
}

#[tokio::test]
async fn events_that_repeat_are_counted() {
    let store = Store::new();
    let event = PodEvent {
        namespace: "default".into(),
        pod: "p".into(),
        uid: "u".into(),
        reason: "BackOff".into(),
        message: "again".into(),
        warning: true,
        component: "kubelet",
    };
    store.record_event(&event);
    store.record_event(&event);
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client(&store), "default");
    let found = events.list(&ListParams::default().fields("involvedObject.name=p,type=Warning")).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].count, Some(2));
}

#[tokio::test]
async fn a_pod_that_has_ended_is_gone_at_once_and_a_running_one_by_its_deadline() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    for (name, phase) in [("ended", "Succeeded"), ("running", "Running")] {
        pods.create(&PostParams::default(), &pod(name)).await.unwrap();
        let set = store.update(Kind::Pod, "default", name, |pod| {
            pod["spec"]["nodeName"] = json!("n");
            pod["status"]["phase"] = json!(phase);
            Ok(())
        });
        set.unwrap();
        pods.delete(name, &DeleteParams::default().grace_period(3600)).await.unwrap();
    }
    assert!(pods.get_opt("ended").await.unwrap().is_none());
    let deadline =
        store.get(Kind::Pod, "default", "running").unwrap()["metadata"]["deletionTimestamp"].as_str().unwrap().to_owned();
    assert!(deadline > jiff::Timestamp::now().to_string(), "{deadline} must lie ahead by the grace");
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_changes_nothing() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client(&store), "default");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let version = store.version();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    assert_eq!(pods.create(&dry, &pod("b")).await.unwrap().metadata.name.as_deref(), Some("b"));
    let taken = pods.create(&dry, &pod("a")).await.unwrap_err();
    assert!(matches!(taken, kube::Error::Api(status) if status.reason == "AlreadyExists"));
    let patch = Patch::Merge(json!({"metadata": {"labels": {"owner": "me"}}}));
    let patched = pods.patch("a", &PatchParams { dry_run: true, ..PatchParams::default() }, &patch).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["owner"], "me");
    pods.delete("a", &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.unwrap();
    pods.delete_collection(&DeleteParams { dry_run: true, ..DeleteParams::default() }, &ListParams::default()).await.unwrap();
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert!(!pods.get("a").await.unwrap().metadata.labels.unwrap().contains_key("owner"));
    assert_eq!(store.version(), version);
}

#[tokio::test]
async fn malformed_objects_are_refused_and_the_server_goes_on() {
    let store = Store::new();
    let client = client(&store);
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    for (method, path, media_type, body) in [
        ("PUT", "pods/a", "application/json", "[]"),
        ("PUT", "pods/a", "application/json", r#"{"metadata": "x"}"#),
        ("PATCH", "pods/a", "application/merge-patch+json", r#"{"spec": {"containers": ["x"]}}"#),
        ("PATCH", "pods/a", "application/merge-patch+json", r#"{"metadata": 5}"#),
        ("POST", "secrets", "application/json", r#"{"metadata": {"name": "s"}, "data": "x", "stringData": {"a": "b"}}"#),
        ("POST", "pods", "application/json", r#"{"metadata": {"name": "b"}, "spec": {"containers": ["x"]}}"#),
    ] {
        let request = http::Request::builder().method(method).uri(format!("/api/v1/namespaces/default/{path}"));
        let request = request.header("content-type", media_type).body(body.as_bytes().to_vec()).unwrap();
        let error = client.request_text(request).await.unwrap_err();
        assert!(
            matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code)),
            "{method} {path} {body}: {error}"
        );
    }
    assert!(pods.get_opt("a").await.unwrap().is_some());
}

struct FixedLog;

impl PodBackend for FixedLog {
    fn logs(&self, pod: PodRef, options: LogOptions) -> futures::future::BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move {
            let text = format!("{} {} {:?}\n", pod.name, options.container, options.tail_lines);
            Ok(futures::stream::iter([Ok(text.into())]).boxed())
        })
    }

    fn exec(&self, _pod: PodRef, _options: ExecOptions) -> futures::future::BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async { Err(ApiError::bad_request("nothing runs here")) })
    }
}

#[tokio::test]
async fn a_log_comes_from_the_node_and_a_wrong_container_is_refused() {
    let store = Store::new();
    let pods: Api<Pod> = Api::namespaced(client_with(&store, Arc::new(FixedLog)), "default");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let options = kube::api::LogParams { tail_lines: Some(3), ..Default::default() };
    assert_eq!(pods.logs("a", &options).await.unwrap(), "a build Some(3)\n");
    let wrong = kube::api::LogParams { container: Some("helper".into()), ..Default::default() };
    assert!(matches!(pods.logs("a", &wrong).await.unwrap_err(), kube::Error::Api(status) if status.code == 400));
}
