//! Repositories over smart HTTP for those who log in, by way of `git http-backend`; it keeps what clients said.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

/// `gitlab-ci-token:job-token-7`.
const LOGIN: &str = "Basic Z2l0bGFiLWNpLXRva2VuOmpvYi10b2tlbi03";

struct Known {
    root: PathBuf,
    requests: Mutex<Vec<(String, HeaderMap)>>,
    failures: Mutex<(String, u32)>,
}

/// The server.
pub struct Repositories {
    port: u16,
    known: Arc<Known>,
}

impl Repositories {
    /// Serves every repository below `root`.
    pub async fn start(root: &Path) -> Self {
        let known = Arc::new(Known { root: root.to_owned(), requests: Mutex::default(), failures: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(handle).with_state(known.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, known }
    }

    /// Address of a repository, with the login in it.
    pub fn url(&self, name: &str) -> String {
        format!("http://gitlab-ci-token:job-token-7@127.0.0.1:{}/{name}", self.port)
    }

    /// Address without a login.
    pub fn plain_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// The next requests for a repository that log in are answered with 500.
    pub fn fail_for(&self, name: &str, times: u32) {
        *self.known.failures.lock().unwrap() = (format!("/{name}/"), times);
    }

    /// Values of a header in all requests for a repository.
    pub fn headers(&self, name: &str, header: &str) -> Vec<String> {
        let requests = self.known.requests.lock().unwrap();
        let of_repository = requests.iter().filter(|(path, _)| path.starts_with(&format!("/{name}")));
        of_repository
            .flat_map(|(_, headers)| headers.get_all(header).iter().map(|value| value.to_str().unwrap().to_owned()))
            .collect()
    }
}

async fn handle(State(known): State<Arc<Known>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    known.requests.lock().unwrap().push((path.clone(), parts.headers.clone()));
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if header("authorization") != LOGIN {
        return (StatusCode::UNAUTHORIZED, [("WWW-Authenticate", "Basic realm=\"test\"")]).into_response();
    }
    {
        let mut failures = known.failures.lock().unwrap();
        if failures.1 > 0 && path.starts_with(&failures.0) {
            failures.1 -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut backend = tokio::process::Command::new("git");
    backend.arg("http-backend").env("GIT_PROJECT_ROOT", &known.root).env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", path);
    backend.env("QUERY_STRING", parts.uri.query().unwrap_or_default()).env("REQUEST_METHOD", parts.method.as_str());
    backend.env("CONTENT_TYPE", header("content-type")).env("HTTP_CONTENT_ENCODING", header("content-encoding"));
    backend.env("GIT_PROTOCOL", header("git-protocol")).env("REMOTE_USER", "gitlab-ci-token").env("REMOTE_ADDR", "127.0.0.1");
    let settings = [("safe.directory", "*"), ("uploadpack.allowAnySHA1InWant", "true"), ("http.receivepack", "true")];
    backend.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        backend.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeding = tokio::spawn(async move {
        // A backend that has seen enough closes its end.
        let _ = input.write_all(&body).await;
    });
    let output = child.wait_with_output().await.unwrap().stdout;
    feeding.await.unwrap();
    answer(&output)
}

/// A CGI answer.
fn answer(output: &[u8]) -> Response {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(Bytes::copy_from_slice(&output[end + 4..]))).unwrap()
}
