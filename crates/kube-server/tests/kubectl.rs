//! The API through kubectl itself, where it is installed.

mod scripted;

use futures::StreamExt;
use kube_server::tls::{Serving, serve_tls};
use kube_server::{Kind, PodEvent, Selectors, Store, WatchEvent, WatchFrom, router};
use scripted::Scripted;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// A node with a listener, and a place for kubectl's files.
struct Cluster {
    directory: tempfile::TempDir,
    store: Store,
    _serving: Serving,
    kubelet: tokio::task::JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

struct Output {
    code: i32,
    out: String,
    err: String,
}

/// The cluster, unless there is no kubectl to talk to it.
async fn cluster() -> Option<Cluster> {
    let installed = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).status().await;
    if !installed.is_ok_and(|status| status.success()) {
        println!("skipped, because kubectl is not installed");
        return None;
    }
    let store = Store::new();
    let directory = tempfile::tempdir().unwrap();
    let router = router(store.clone(), Scripted::new());
    let listen = "127.0.0.1:0".parse().unwrap();
    let serving = serve_tls(router, listen, &directory.path().join("state"), Some(&directory.path().join("config"))).await;
    let kubelet = tokio::spawn(kubelet(store.clone()));
    Some(Cluster { directory, store, _serving: serving.unwrap(), kubelet })
}

/// Sets new pods running, and takes away those that are to go.
async fn kubelet(store: Store) {
    let mut pods = store.watch(Kind::Pod, None, Selectors::default(), WatchFrom::Now).unwrap();
    while let Some(Ok(event)) = pods.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("/metadata/namespace"), text("/metadata/name"), text("/metadata/uid"));
        if !text("/metadata/deletionTimestamp").is_empty() {
            store.remove(Kind::Pod, &namespace, &name, &uid);
        } else if text("/spec/nodeName").is_empty() {
            let set = store.update(Kind::Pod, &namespace, &name, |pod| {
                pod["spec"]["nodeName"] = json!("here");
                let containers = pod["spec"]["containers"].as_array().unwrap().iter();
                let statuses: Vec<_> = containers
                    .map(|container| {
                        json!({"name": container["name"], "ready": true, "restartCount": 0, "image": container["image"],
                            "imageID": "", "started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
                    })
                    .collect();
                pod["status"] = json!({"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": statuses,
                    "conditions": [{"type": "Ready", "status": "True"}]});
                Ok(())
            });
            set.unwrap();
            store.record_event(&PodEvent {
                namespace,
                pod: name,
                uid,
                reason: "Started".into(),
                message: "Started container build".into(),
                warning: false,
                component: "kubelet",
            });
        }
    }
}

impl Cluster {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.directory.path().join("config")).env("HOME", self.directory.path());
        command.current_dir(self.directory.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, program: &str, args: &[&str], input: &str) -> Output {
        let mut child = self.command(program).args(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let feed = tokio::spawn(async move {
            // A command that does not read its input is no failure.
            let _ = stdin.write_all(input.as_bytes()).await;
        });
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{program} {args:?} did not end")).unwrap();
        feed.abort();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    async fn kubectl(&self, args: &[&str]) -> Output {
        self.run("kubectl", args, "").await
    }

    /// Runs kubectl, which must succeed; answers what it printed.
    async fn ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).await;
        assert_eq!(output.code, 0, "kubectl {args:?}: {}{}", output.out, output.err);
        output.out
    }

    /// Feeds a manifest to kubectl, which must take it.
    async fn manifest(&self, args: &[&str], manifest: &Value) -> String {
        let output = self.run("kubectl", args, &manifest.to_string()).await;
        assert_eq!(output.code, 0, "kubectl {args:?}: {}{}", output.out, output.err);
        output.out
    }

    async fn running_pod(&self, name: &str) {
        self.manifest(&["create", "-f", "-"], &pod(name)).await;
        self.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=20s"]).await;
    }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "build", "image": "busybox"}]}})
}

fn has_words(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| {
        let found: Vec<_> = line.split_whitespace().collect();
        found.len() >= words.len() && words.iter().zip(&found).all(|(word, found)| *word == "*" || word == found)
    })
}

#[tokio::test]
async fn pods_are_created_shown_labelled_and_deleted() {
    let Some(cluster) = cluster().await else { return };
    cluster.running_pod("p").await;
    let table = cluster.ok(&["get", "pods"]).await;
    assert!(has_words(&table, &["NAME", "READY", "STATUS", "RESTARTS", "AGE"]), "{table}");
    assert!(has_words(&table, &["p", "1/1", "Running", "0"]), "{table}");
    let wide = cluster.ok(&["get", "po", "-A", "-o", "wide"]).await;
    assert!(has_words(&wide, &["default", "p", "1/1", "Running", "0", "*", "10.1.2.3", "here", "<none>", "<none>"]), "{wide}");
    assert!(cluster.ok(&["label", "pod", "p", "tier=front"]).await.contains("labeled"));
    assert!(cluster.ok(&["annotate", "pod", "p", "note=x"]).await.contains("annotated"));
    assert_eq!(cluster.ok(&["get", "pods", "-l", "tier=front", "-o", "jsonpath={.items[*].metadata.name}"]).await, "p");
    assert!(cluster.ok(&["get", "pods", "--show-labels", "--sort-by=.metadata.name"]).await.contains("tier=front"));
    let described = cluster.ok(&["describe", "pod", "p"]).await;
    assert!(described.contains("Started container build"), "{described}");
    assert!(cluster.ok(&["get", "events"]).await.contains("pod/p"));
    assert!(cluster.ok(&["events", "--for", "pod/p"]).await.contains("Started"));
    assert!(cluster.ok(&["delete", "pod", "p", "--grace-period=5"]).await.contains("deleted"));
    let missing = cluster.kubectl(&["get", "pod", "p"]).await;
    assert!(missing.code == 1 && missing.err.contains("(NotFound): pods \"p\" not found"), "{}", missing.err);
    cluster.ok(&["wait", "--for=delete", "pod/p", "--timeout=20s"]).await;
    for flags in [&["--now"][..], &["--force", "--grace-period=0"]] {
        cluster.running_pod("q").await;
        assert!(cluster.ok(&[&["delete", "pod", "q"], flags].concat()).await.contains("deleted"));
    }
    assert!(cluster.store.list(Kind::Pod, None, &Selectors::default()).0.is_empty());
}

#[tokio::test]
async fn a_watch_shows_changes_as_they_happen() {
    let Some(cluster) = cluster().await else { return };
    let mut watching = cluster.command("kubectl").args(["get", "pods", "-w"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    // kubectl prints nothing before the first pod.
    cluster.running_pod("p").await;
    cluster.ok(&["delete", "pod", "p"]).await;
    let terminating = async {
        let mut seen = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            seen.push_str(&line);
            seen.push('\n');
            if has_words(&line, &["p", "1/1", "Terminating"]) {
                return seen;
            }
        }
        panic!("the watch ended: {seen}");
    };
    let seen = tokio::time::timeout(Duration::from_secs(30), terminating).await.expect("the end of the pod must be shown");
    assert!(has_words(&seen, &["NAME", "READY"]) && has_words(&seen, &["p", "1/1", "Running"]), "{seen}");
    watching.kill().await.unwrap();
}

#[tokio::test]
async fn manifests_are_applied_and_applied_again() {
    let Some(cluster) = cluster().await else { return };
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": value}});
    assert!(cluster.manifest(&["apply", "-f", "-"], &map("1")).await.contains("created"));
    assert!(cluster.manifest(&["apply", "-f", "-"], &map("1")).await.contains("unchanged"));
    assert!(cluster.manifest(&["apply", "-f", "-"], &map("2")).await.contains("configured"));
    assert_eq!(cluster.ok(&["get", "cm", "m", "-o", "jsonpath={.data.k}"]).await, "2");
    assert!(cluster.manifest(&["apply", "--dry-run=server", "-f", "-"], &map("3")).await.contains("(server dry run)"));
    let difference = cluster.run("kubectl", &["diff", "-f", "-"], &map("3").to_string()).await;
    assert!(difference.code == 1 && difference.out.contains("+  k: \"3\""), "{}{}", difference.out, difference.err);
    assert_eq!(cluster.ok(&["get", "cm", "m", "-o", "jsonpath={.data.k}"]).await, "2");
    assert!(cluster.manifest(&["apply", "--server-side", "-f", "-"], &pod("p")).await.contains("serverside-applied"));
    assert!(cluster.manifest(&["replace", "--force", "-f", "-"], &pod("p")).await.contains("replaced"));
    cluster.ok(&["create", "namespace", "ci"]).await;
    cluster.ok(&["create", "secret", "generic", "s", "-n", "ci", "--from-literal=password=geheim"]).await;
    cluster.ok(&["create", "configmap", "n", "-n", "ci", "--from-literal=a=b"]).await;
    let secret = cluster.ok(&["get", "secret", "s", "-n", "ci", "-o", "jsonpath={.data.password}"]).await;
    assert_eq!(secret, "Z2VoZWlt");
    let table = cluster.ok(&["get", "secrets,configmaps,serviceaccounts", "-n", "ci"]).await;
    assert!(has_words(&table, &["secret/s", "Opaque", "1"]) && has_words(&table, &["configmap/n", "1"]), "{table}");
    assert!(has_words(&cluster.ok(&["get", "ns"]).await, &["ci", "Active"]));
    cluster.ok(&["delete", "namespace", "ci"]).await;
    assert!(cluster.ok(&["auth", "can-i", "create", "pods"]).await.contains("yes"));
    assert!(cluster.ok(&["api-resources"]).await.contains("leases"));
    assert!(cluster.ok(&["version"]).await.contains("+gantry"));
}

#[tokio::test]
async fn logs_are_read_and_followed() {
    let Some(cluster) = cluster().await else { return };
    cluster.running_pod("p").await;
    assert_eq!(cluster.ok(&["logs", "p"]).await, "build one\nbuild two\nbuild three\n");
    assert_eq!(cluster.ok(&["logs", "p", "--tail=1", "--timestamps"]).await, "2026-01-02T03:04:05Z build three\n");
    assert!(cluster.ok(&["logs", "p", "-f"]).await.ends_with("three\nfollowed\n"));
    assert!(cluster.ok(&["logs", "p", "--since=5m", "--all-containers"]).await.starts_with("since 300\n"));
    let previous = cluster.kubectl(&["logs", "p", "--previous"]).await;
    assert!(previous.code == 1 && previous.err.contains("previous terminated container"), "{}", previous.err);
}

#[tokio::test]
async fn programs_run_in_pods() {
    let Some(cluster) = cluster().await else { return };
    cluster.running_pod("p").await;
    assert_eq!(cluster.ok(&["exec", "p", "--", "echo", "a  b", "&c"]).await, "a  b &c\n");
    let piped = cluster.run("kubectl", &["exec", "-i", "p", "--", "cat"], "through\nthe pod\n").await;
    assert_eq!((piped.code, piped.out.as_str()), (0, "through\nthe pod\n"), "{}", piped.err);
    let failed = cluster.kubectl(&["exec", "p", "--", "fail", "7"]).await;
    assert_eq!((failed.code, failed.err.contains("it failed")), (7, true), "{}", failed.err);
    let missing = cluster.kubectl(&["exec", "p", "--", "missing"]).await;
    assert!(missing.code != 0 && missing.err.contains("executable file not found"), "{}", missing.err);
    let terminal = ["-qec", "stty rows 33 cols 99; exec kubectl exec -it p -- size", "/dev/null"];
    let sized = cluster.run("script", &terminal, "").await;
    assert!(sized.out.contains("99x33"), "{}{}", sized.out, sized.err);
    let terminal = ["-qec", "kubectl exec -it p -- line", "/dev/null"];
    let line = cluster.run("script", &terminal, "typed\n").await;
    assert!(line.out.contains("read typed"), "{}{}", line.out, line.err);
    let old = ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "kubectl", "exec", "p", "--", "echo"];
    let old = cluster.run("env", &old, "").await;
    assert!(old.code != 0 && old.err.contains("WebSocket only, not SPDY"), "{}", old.err);
    for refused in [&["attach", "p"][..], &["port-forward", "pod/p", "1:2"]] {
        let output = cluster.kubectl(refused).await;
        assert!(output.code != 0 && output.err.contains("not served by this node"), "{refused:?}: {}", output.err);
    }
}
