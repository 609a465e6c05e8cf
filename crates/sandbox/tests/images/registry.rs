//! A registry on loopback that can refuse, and break off.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fixtures::Layout;

/// Ends when dropped.
pub struct Registry {
    address: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    tags: BTreeMap<String, String>,
    /// Value of the header that is required.
    authorization: Mutex<Option<String>>,
    /// Where a token is to be had instead, for that.
    realm: Mutex<Option<String>>,
    cut: AtomicUsize,
    manifests_sent: AtomicUsize,
    blobs_sent: Mutex<Vec<String>>,
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    /// How much of the body is sent before the connection is closed.
    sent: usize,
}

impl Registry {
    pub async fn serve(blobs: BTreeMap<String, Vec<u8>>, tags: BTreeMap<String, String>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State { blobs, tags, ..State::default() });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
        });
        Registry { address, state, task }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn require(&self, user: &str, password: &str) {
        assert_eq!((user, password), ("alice", "secret"), "the only ones whose base64 is written down here");
        *self.state.authorization.lock().expect("no panic") = Some("Basic YWxpY2U6c2VjcmV0".to_owned());
    }

    /// Asks for a token, which is given for those credentials.
    pub fn require_token(&self, user: &str, password: &str) {
        self.require(user, password);
        *self.state.realm.lock().expect("no panic") = Some(format!("http://{}/token", self.address));
    }

    /// Breaks off the next `count` layers half way.
    pub fn cut_short(&self, count: usize) {
        self.state.cut.store(count, Ordering::SeqCst);
    }

    pub fn manifests_sent(&self) -> usize {
        self.state.manifests_sent.load(Ordering::SeqCst)
    }

    pub fn blobs_sent(&self) -> usize {
        self.state.blobs_sent.lock().expect("no panic").len()
    }

    pub fn layers_sent(&self, layout: &Layout) -> usize {
        let layers = layout.layers();
        self.state.blobs_sent.lock().expect("no panic").iter().filter(|digest| layers.contains(digest)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `127.0.0.1:PORT` that nobody listens on.
pub async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").to_string()
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&part[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let answer = answer(&request, &state);
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
        answer.status,
        answer.body.len(),
        answer.headers
    );
    if stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(&answer.body[..answer.sent]).await.is_ok() {
        drop(stream.shutdown().await);
    }
}

fn answer(request: &str, state: &State) -> Answer {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let required = state.authorization.lock().expect("no panic").clone();
    let given = request.lines().find_map(|line| line.to_lowercase().starts_with("authorization:").then(|| line[14..].trim()));
    let realm = state.realm.lock().expect("no panic").clone();
    if let Some(realm) = realm {
        if path == "/token?service=test&scope=repository%3Ateam%2Fapp%3Apull" && required.as_deref() == given {
            return whole("200 OK", "", br#"{"access_token":"granted"}"#);
        }
        if given != Some("Bearer granted") {
            let header =
                format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:team/app:pull\"\r\n");
            return whole("401 Unauthorized", &header, b"{}");
        }
    } else if required.is_some() && required.as_deref() != given {
        return whole("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", b"{}");
    }
    let wanted = path.rsplit('/').next().unwrap_or_default();
    if wanted == "endless" {
        return whole("200 OK", "", &vec![b' '; 8 << 20]);
    }
    if path.starts_with("/v2/team/app/manifests/") {
        let digest = state.tags.get(wanted).map_or(wanted, String::as_str);
        let Some(blob) = state.blobs.get(digest) else {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return whole("404 Not Found", "", body);
        };
        state.manifests_sent.fetch_add(1, Ordering::SeqCst);
        let headers = format!("Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: {digest}\r\n");
        return whole("200 OK", &headers, blob);
    }
    let Some(blob) = state.blobs.get(wanted) else { return whole("404 Not Found", "", b"") };
    state.blobs_sent.lock().expect("no panic").push(wanted.to_owned());
    let mut answer = whole("200 OK", "", blob);
    let layer = !blob.starts_with(b"{");
    if layer && state.cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        answer.sent /= 2;
    }
    answer
}

fn whole(status: &'static str, headers: &str, body: &[u8]) -> Answer {
    Answer { status, headers: headers.to_owned(), body: body.to_vec(), sent: body.len() }
}
