//! The repositories over smart HTTP, by way of `git http-backend`; reading only.
//!
//! A clone needs the token of a job of that project that is with a runner. The program is given the very directory and
//! nothing of our environment but `PATH`; a clone whose client goes away is killed.

use crate::engine::Inner;
use crate::pipelines::PipelineContext;
use crate::store::rows;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures::StreamExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest request: what a client has and wants.
const MOST_REQUEST: u64 = 32 * 1024 * 1024;
const MOST_HEADER: usize = 16 * 1024;
const BUFFER: usize = 64 * 1024;
/// No clone takes longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// What is asked of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Advertise,
    UploadPack,
}

/// Every path that is not the runner API's.
pub fn router(inner: Arc<Inner>) -> Router {
    Router::new().fallback(handle).with_state(inner)
}

/// Whether the repository has the ref of a pipeline.
pub fn has_ref(repository: &str, context: &PipelineContext) -> bool {
    let kind = if context.ref_is_tag { "tags" } else { "heads" };
    let mut command = std::process::Command::new("git");
    quiet(&mut command, Path::new(repository));
    // Its working tree or its git directory: both may be served.
    command.args(["-C", repository, "show-ref", "--verify", "--quiet", &format!("refs/{kind}/{}", context.ref_name)]);
    command.env("GIT_CEILING_DIRECTORIES", Path::new(repository).parent().unwrap_or(Path::new("/")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Our settings for git, and none of the user's.
fn quiet(command: &mut std::process::Command, repository: &Path) {
    let settings = [
        ("safe.directory", repository.display().to_string()),
        ("uploadpack.allowAnySHA1InWant", "true".to_owned()),
        ("uploadpack.allowReachableSHA1InWant", "true".to_owned()),
        ("http.receivepack", "false".to_owned()),
        ("http.getanyfile", "false".to_owned()),
    ];
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
}

async fn handle(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    match serve(&inner, request).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

/// An answer without a repository; git shows the words.
#[derive(Clone, Copy, Debug)]
struct Refused(StatusCode, &'static str);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let realm = [("WWW-Authenticate", "Basic realm=\"GitLab\"")];
        // git asks for a login only when it is told to.
        if self.0 == StatusCode::UNAUTHORIZED {
            (self.0, realm, self.1).into_response()
        } else {
            (self.0, self.1).into_response()
        }
    }
}

async fn serve(inner: &Arc<Inner>, request: Request) -> Result<Response, Refused> {
    let (project, service) = service_of(&request)?;
    let token = login(request.headers()).ok_or(Refused(StatusCode::UNAUTHORIZED, "HTTP Basic: Access denied\n"))?;
    let shared = inner.clone();
    let repository = tokio::task::spawn_blocking(move || repository_for(&shared, &project, &token))
        .await
        .map_err(|_| Refused(StatusCode::INTERNAL_SERVER_ERROR, "500\n"))??;
    let Ok(Ok(permit)) = tokio::time::timeout(inner.settings.idle, inner.clones.clone().acquire_owned()).await else {
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "too many clones at the same time\n"));
    };
    let failed = |error: std::io::Error| {
        tracing::error!(error = &error as &dyn std::error::Error, "failed to run git http-backend");
        Refused(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend failed\n")
    };
    let mut child = backend(&repository, service, request.headers()).map_err(failed)?;
    let (Some(input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
    };
    let feeding = tokio::spawn(feed(request.into_body(), input, inner.settings.idle));
    let (status, headers, rest) = head(&mut output).await.map_err(failed)?;
    let running = Running { feeding, watching: tokio::spawn(watch(child)), _permit: permit };
    let first = futures::stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    let stream = first.chain(tokio_util::io::ReaderStream::with_capacity(output, BUFFER)).map(move |bytes| {
        // Held by the stream: both end when the client goes away.
        let _ = &running;
        bytes
    });
    Ok((status, headers, Body::from_stream(stream)).into_response())
}

/// The tasks of a clone.
struct Running {
    feeding: tokio::task::JoinHandle<()>,
    watching: tokio::task::JoinHandle<()>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.feeding.abort();
        self.watching.abort();
    }
}

/// Reaps the program; killed when the task is given up or it takes too long.
async fn watch(mut child: Child) {
    if let Ok(Ok(status)) = tokio::time::timeout(LONGEST, child.wait()).await
        && !status.success()
    {
        tracing::warn!(%status, "git http-backend failed");
    }
}

fn service_of(request: &Request) -> Result<(String, Service), Refused> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let not_found = || Refused(StatusCode::NOT_FOUND, "404 Not Found\n");
    let (project, rest) = path.trim_start_matches('/').split_once(".git/").ok_or_else(not_found)?;
    let service = match (request.method(), rest, query) {
        (&Method::GET, "info/refs", "service=git-upload-pack") => Service::Advertise,
        (&Method::POST, "git-upload-pack", _) => Service::UploadPack,
        (_, "git-receive-pack", _) | (_, "info/refs", "service=git-receive-pack") => {
            return Err(Refused(StatusCode::FORBIDDEN, "this repository is read-only\n"));
        }
        _ => return Err(not_found()),
    };
    Ok((project.to_owned(), service))
}

/// The password of the login `gitlab-ci-token`.
fn login(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("Authorization")?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    (scheme.eq_ignore_ascii_case("basic") && user == "gitlab-ci-token").then(|| password.to_owned())
}

fn repository_for(inner: &Inner, path: &str, token: &str) -> Result<String, Refused> {
    let found = inner.read(|db| {
        let Some(job) = rows::job_by_token(db, token)? else { return Ok(None) };
        Ok(Some((rows::project_by_path(db, path)?, rows::pipeline(db, job.pipeline)?.0.project, job.is_held())))
    });
    match found {
        Ok(Some((Some(project), of_job, true))) if project.id == of_job => Ok(project.repository),
        // The same words for all: a job learns nothing about other projects.
        Ok(_) => Err(Refused(StatusCode::FORBIDDEN, "HTTP Basic: Access denied\n")),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "failed to look up a repository");
            Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, "500\n"))
        }
    }
}

fn backend(repository: &str, service: Service, headers: &HeaderMap) -> std::io::Result<Child> {
    let mut command = std::process::Command::new("git");
    quiet(&mut command, Path::new(repository));
    command.arg("http-backend");
    let (method, path, query) = match service {
        Service::Advertise => ("GET", "/info/refs", "service=git-upload-pack"),
        Service::UploadPack => ("POST", "/git-upload-pack", ""),
    };
    command.env("GIT_PROJECT_ROOT", repository).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", method);
    command.env("REMOTE_USER", "gitlab-ci-token").env("GATEWAY_INTERFACE", "CGI/1.1");
    for (header, variable) in [
        ("Content-Type", "CONTENT_TYPE"),
        ("Content-Length", "CONTENT_LENGTH"),
        ("Content-Encoding", "HTTP_CONTENT_ENCODING"),
        ("Git-Protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = headers.get(header).and_then(|value| value.to_str().ok()) {
            command.env(variable, value);
        }
    }
    let mut command = Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn()
}

/// Passes the request on; closing the pipe is its end.
async fn feed(body: Body, mut input: ChildStdin, idle: Duration) {
    let mut body = body.into_data_stream();
    let mut passed = 0;
    while let Ok(Some(Ok(bytes))) = tokio::time::timeout(idle, body.next()).await {
        passed += bytes.len() as u64;
        if passed > MOST_REQUEST || input.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The head of a CGI answer, and what was read behind it.
async fn head(output: &mut ChildStdout) -> std::io::Result<(StatusCode, HeaderMap, Bytes)> {
    let mut buffer = Vec::with_capacity(4096);
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if buffer.len() > MOST_HEADER || output.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "git http-backend gave no answer"));
        }
    };
    let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
    for line in String::from_utf8_lossy(&buffer[..end]).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("status") {
            status = value.trim().get(..3).and_then(|code| code.parse().ok()).unwrap_or(StatusCode::BAD_GATEWAY);
        } else if let (Ok(name), Ok(value)) = (name.trim().parse::<http::HeaderName>(), value.trim().parse()) {
            headers.append(name, value);
        }
    }
    Ok((status, headers, Bytes::from(buffer.split_off(end + 4))))
}
