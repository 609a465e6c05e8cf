//! A GitLab that knows some tokens, a configuration beside it, and the program.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

#[derive(Default)]
pub struct Known {
    /// Tokens with the numbers of their runners.
    pub tokens: BTreeMap<String, u64>,
    /// Every call is answered so.
    pub fault: Option<u16>,
    /// Method, path and body of each call.
    pub calls: Vec<(String, Value)>,
}

type Shared = Arc<Mutex<Known>>;

pub struct Bench {
    pub known: Shared,
    pub url: String,
    pub directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// With a GitLab that knows these tokens, the first by the number 1.
    pub fn start(tokens: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tokens = tokens.iter().zip(1..).map(|(token, id)| ((*token).to_owned(), id)).collect();
        let known = Arc::new(Mutex::new(Known { tokens, ..Known::default() }));
        let router = Router::new()
            .route("/api/v4/runners/verify", post(verify))
            .route("/api/v4/runners", post(register).delete(remove))
            .route("/api/v4/runners/managers", delete(remove))
            .route("/api/v4/runners/{id}/reset_authentication_token", post(reset_as))
            .route("/api/v4/runners/reset_authentication_token", post(reset))
            .layer(axum::middleware::from_fn_with_state(known.clone(), note))
            .with_state(known.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { known, url, directory: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.config()).unwrap()
    }

    /// An entry with its name and token.
    pub fn entry(&self, name: &str, token: &str) -> String {
        let url = &self.url;
        format!(
            "[[runners]] # {name}\n  name = \"{name}\"\n  url = \"{url}\"\n  token = \"{token}\"\n  executor = \"kubernetes\"\n"
        )
    }

    /// Writes the configuration.
    pub fn write(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn calls(&self) -> Vec<(String, Value)> {
        self.known.lock().unwrap().calls.clone()
    }

    /// Runs `gantry` with the configuration and these arguments, without what the environment of this test would tell it.
    pub fn gantry(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        Ended::of(&output)
    }

    /// The same, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.args(arguments).env_clear().env("CONFIG_FILE", self.config()).stdin(Stdio::null());
        command
    }
}

/// How a program ended and what it said.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

async fn note(State(known): State<Shared>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let fault = {
        let mut known = known.lock().unwrap();
        let call = format!("{} {}", parts.method, parts.uri.path().trim_start_matches("/api/v4/"));
        known.calls.push((call, serde_json::from_slice(&body).unwrap_or_default()));
        known.fault
    };
    match fault {
        Some(status) => StatusCode::from_u16(status).unwrap().into_response(),
        None => next.run(Request::from_parts(parts, body.into())).await,
    }
}

async fn verify(State(known): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let token = body["token"].as_str().unwrap();
    assert_eq!(headers["RUNNER-TOKEN"], token);
    match known.lock().unwrap().tokens.get(token) {
        Some(id) => axum::Json(json!({"id": id, "token": token, "token_expires_at": null})).into_response(),
        None => (StatusCode::FORBIDDEN, axum::Json(json!({"message": "403 Forbidden"}))).into_response(),
    }
}

/// The new token is the old one with its number, and ends in a while.
async fn reset(State(known): State<Shared>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut known = known.lock().unwrap();
    let token = body["token"].as_str().unwrap();
    let Some(id) = known.tokens.remove(token) else { return StatusCode::FORBIDDEN.into_response() };
    let new = format!("{token}-{id}");
    known.tokens.insert(new.clone(), id);
    let answer = json!({"id": id, "token": new, "token_expires_at": "2100-01-01T00:00:00.123Z"});
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}

/// A runner with a number and a token of its own.
async fn register(State(known): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(headers["RUNNER-TOKEN"], body["token"].as_str().unwrap());
    let mut known = known.lock().unwrap();
    if !known.tokens.contains_key(body["token"].as_str().unwrap()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    known.tokens.insert("made-token-77".to_owned(), 77);
    (StatusCode::CREATED, axum::Json(json!({"id": 77, "token": "made-token-77", "token_expires_at": null}))).into_response()
}

async fn remove(State(known): State<Shared>, body: Bytes) -> StatusCode {
    let body: Value = serde_json::from_slice(&body).unwrap();
    match known.lock().unwrap().tokens.remove(body["token"].as_str().unwrap()) {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::FORBIDDEN,
    }
}

async fn reset_as(headers: HeaderMap) -> Response {
    let person = headers["PRIVATE-TOKEN"].to_str().unwrap();
    (StatusCode::CREATED, axum::Json(json!({"token": format!("glrt-by-{person}"), "token_expires_at": null}))).into_response()
}
