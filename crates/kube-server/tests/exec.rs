//! Programs in pods through a real client library, over in-memory connections.

mod scripted;

use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess, PostParams, TerminalSize};
use kube_server::{Store, memory, router};
use scripted::Scripted;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn client(store: &Store, node: Arc<Scripted>) -> kube::Client {
    kube::Client::new(memory::connect(router(store.clone(), node)), "default")
}

async fn pods(node: Arc<Scripted>) -> Api<Pod> {
    let pods: Api<Pod> = Api::namespaced(client(&Store::new(), node), "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "build", "image": "busybox"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    pods
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

async fn read_all(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    soon("the end of a stream", stream.read_to_string(&mut text)).await.unwrap();
    text
}

fn output_only() -> AttachParams {
    AttachParams::default().stderr(true)
}

async fn exit_code(process: &mut AttachedProcess) -> String {
    let status = soon("the status", process.take_status().unwrap()).await.unwrap();
    match status.status.as_deref() {
        Some("Success") => "0".to_owned(),
        _ => status.details.unwrap().causes.unwrap()[0].message.clone().unwrap(),
    }
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let pods = pods(Scripted::new()).await;
    let mut process = pods.exec("p", ["echo", "a b", "ü&=+"], &output_only()).await.unwrap();
    assert_eq!(read_all(process.stdout().unwrap()).await, "a b ü&=+\n");
    assert_eq!(exit_code(&mut process).await, "0");
    let mut process = pods.exec("p", ["fail", "42"], &output_only()).await.unwrap();
    assert_eq!(read_all(process.stderr().unwrap()).await, "it failed\n");
    assert_eq!(exit_code(&mut process).await, "42");
}

#[tokio::test]
async fn input_reaches_the_program_and_ends() {
    let pods = pods(Scripted::new()).await;
    let mut process = pods.exec("p", ["cat"], &AttachParams::default().stdin(true).stderr(false)).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let stdout = tokio::spawn(read_all(process.stdout().unwrap()));
    let sent = "0123456789".repeat(50_000);
    stdin.write_all(sent.as_bytes()).await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(exit_code(&mut process).await, "0");
    assert!(stdout.await.unwrap() == sent, "the input must come back whole");
}

#[tokio::test]
async fn a_terminal_learns_its_size() {
    let pods = pods(Scripted::new()).await;
    let params = AttachParams::interactive_tty();
    let mut process = pods.exec("p", ["size"], &params).await.unwrap();
    process.terminal_size().unwrap().send(TerminalSize { width: 132, height: 43 }).await.unwrap();
    assert_eq!(read_all(process.stdout().unwrap()).await, "132x43\n");
    assert_eq!(exit_code(&mut process).await, "0");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_program() {
    let node = Scripted::new();
    let pods = pods(node.clone()).await;
    let process = pods.exec("p", ["sleep"], &output_only()).await.unwrap();
    soon("the start", until(|| node.running.load(Ordering::SeqCst) == 1)).await;
    drop(process);
    soon("the end of the program", until(|| node.running.load(Ordering::SeqCst) == 0)).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_program_and_costs_no_memory() {
    let node = Scripted::new();
    let pods = pods(node.clone()).await;
    let process = pods.exec("p", ["yes"], &output_only()).await.unwrap();
    let mut before = 0;
    soon("the output to stop", async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let written = node.written.load(Ordering::SeqCst);
            if written > 0 && written == before {
                return;
            }
            before = written;
        }
    })
    .await;
    assert!(before < 1024 * 1024, "{before} bytes are on their way to a client that does not read");
    drop(process);
    soon("the end of the program", until(|| node.running.load(Ordering::SeqCst) == 0)).await;
}

#[tokio::test]
async fn a_program_that_does_not_start_says_why() {
    let pods = pods(Scripted::new()).await;
    let mut process = pods.exec("p", ["missing"], &output_only()).await.unwrap();
    let status = soon("the status", process.take_status().unwrap()).await.unwrap();
    assert!(status.message.unwrap().contains("executable file not found"));
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let store = Store::new();
    let client = client(&store, Scripted::new());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "build", "image": "busybox"}]}});
    store.create(kube_server::Kind::Pod, "default", pod).unwrap();
    for (method, path, code, words) in [
        ("POST", "pods/p/exec?command=a&stdout=true", 400, "WebSocket only, not SPDY"),
        ("GET", "pods/p/exec?stdout=true", 400, "specify a command"),
        ("GET", "pods/p/exec?command=a", 400, "at least 1 of stdin, stdout, stderr"),
        ("GET", "pods/p/exec?command=a&container=x&stdout=true", 400, "container x is not valid"),
        ("GET", "pods/q/exec?command=a&stdout=true", 404, "\"q\" not found"),
        ("GET", "secrets/q/exec?command=a&stdout=true", 404, "could not find"),
        ("POST", "pods/p/attach", 501, "attach is not served"),
        ("POST", "pods/p/portforward", 501, "port-forward is not served"),
    ] {
        let uri = format!("/api/v1/namespaces/default/{path}");
        let request = http::Request::builder().method(method).uri(uri).body(Vec::new()).unwrap();
        let error = client.request_text(request).await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{method} {path}: {error}") };
        assert!(status.code == code && status.message.contains(words), "{method} {path}: {status:?}");
    }
}

/// Asks for an exec with nothing but a socket; answers all up to the close frame or the end of a refusal.
async fn raw_exec(protocol: &str) -> Vec<u8> {
    let store = Store::new();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "build", "image": "busybox"}]}});
    store.create(kube_server::Kind::Pod, "default", pod).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let served = router(store, Scripted::new());
    tokio::spawn(async move { axum::serve(listener, served).await });
    let request = format!(
        "GET /api/v1/namespaces/default/pods/p/exec?command=echo&command=hi&stdout=1 HTTP/1.1\r\nHost: node\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("the last byte", async {
        while !answer.ends_with(NORMAL_CLOSE) && !answer.ends_with(b"\"code\":400}") {
            answer.push(socket.read_u8().await.unwrap());
        }
    })
    .await;
    answer
}

/// A close frame with code 1000 and no reason.
const NORMAL_CLOSE: &[u8] = &[0x88, 0x02, 0x03, 0xe8];

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn the_older_protocol_is_spoken_and_the_end_has_its_code() {
    let answer = raw_exec("v4.channel.k8s.io").await;
    assert!(holds(&answer, b"sec-websocket-protocol: v4.channel.k8s.io"));
    assert!(holds(&answer, b"\x82\x04\x01hi\n"), "one message on the channel of the output");
    assert!(holds(&answer, b"\x03{\"metadata\":{},\"status\":\"Success\"}"), "the status on the channel of errors");
    let refused = raw_exec("channel.k8s.io").await;
    assert!(refused.starts_with(b"HTTP/1.1 400"));
    assert!(holds(&refused, b"must offer one of these WebSocket protocols"));
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
