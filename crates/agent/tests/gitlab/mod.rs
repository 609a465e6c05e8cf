//! A GitLab for one job over real HTTP: it keeps the trace, checks offsets, and misbehaves when told to.

pub mod network;
pub mod repositories;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post, put};
use gitlab_api::{UpdateJob, headers, trace};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// An answer of this status, without effect.
    Status(u16),
    /// A patch is refused with 416 although it is right.
    Resync,
    /// A patch counts but its answer is lost.
    Drop,
    /// The final update is answered with 202.
    StillChecking,
}

/// An uploaded archive.
#[derive(Clone)]
pub struct Upload {
    /// Query of the call.
    pub query: String,
    /// The archive.
    pub archive: Vec<u8>,
}

#[derive(Default)]
struct Known {
    trace: Vec<u8>,
    updates: Vec<UpdateJob>,
    faults: VecDeque<Fault>,
    job_status: String,
    uploads: Vec<Upload>,
    offered: HashMap<u64, Vec<u8>>,
    interval: Option<u32>,
    hold_uploads: Duration,
    upload_faults: VecDeque<Fault>,
    calls: usize,
    debug_traces: Vec<bool>,
}

type Shared = Arc<Mutex<Known>>;

/// The server.
pub struct Gitlab {
    address: SocketAddr,
    /// Whose certificates it has, in PEM; HTTP without TLS when there is none.
    pub authority: Option<String>,
    /// What it wants to be shown, when it does.
    pub identity: Option<agent_contract::Identity>,
    /// How it is called, when not by its address.
    pub name: Option<String>,
    known: Shared,
}

impl Gitlab {
    pub async fn start() -> Self {
        let known = Shared::default();
        let router = Router::new()
            .route("/api/v4/jobs/{id}/trace", patch(append))
            .route("/api/v4/jobs/{id}", put(update))
            .route("/api/v4/jobs/{id}/artifacts", post(upload).get(download))
            .layer(DefaultBodyLimit::max(64 * 1024 * 1024))
            .with_state(known.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, authority: None, identity: None, name: None, known }
    }

    pub fn url(&self) -> String {
        let host = self.name.clone().unwrap_or_else(|| self.address.to_string());
        format!("http{}://{host}", if self.authority.is_some() { "s" } else { "" })
    }

    pub fn trace(&self) -> String {
        String::from_utf8(self.known.lock().unwrap().trace.clone()).unwrap()
    }

    pub fn write_first(&self, bytes: &[u8]) {
        self.known.lock().unwrap().trace.extend_from_slice(bytes);
    }

    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.known.lock().unwrap().faults.extend(faults);
    }

    /// What goes wrong with the next uploads; statuses only.
    pub fn upload_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.known.lock().unwrap().upload_faults.extend(faults);
    }

    /// Patches and updates so far.
    pub fn calls(&self) -> usize {
        self.known.lock().unwrap().calls
    }

    pub fn set_job_status(&self, status: &str) {
        self.known.lock().unwrap().job_status = status.to_owned();
    }

    /// How often a trace is wanted, in seconds.
    pub fn set_interval(&self, seconds: u32) {
        self.known.lock().unwrap().interval = Some(seconds);
    }

    pub fn final_update(&self) -> Option<UpdateJob> {
        self.known.lock().unwrap().updates.iter().rfind(|update| update.state != "running").cloned()
    }

    /// Uploads are answered so much later.
    pub fn hold_uploads(&self, time: Duration) {
        self.known.lock().unwrap().hold_uploads = time;
    }

    pub fn uploads(&self) -> Vec<Upload> {
        self.known.lock().unwrap().uploads.clone()
    }

    pub fn offer(&self, job: u64, archive: Vec<u8>) {
        self.known.lock().unwrap().offered.insert(job, archive);
    }

    /// What patches said of their trace, without repetitions.
    pub fn debug_traces(&self) -> Vec<bool> {
        let mut said = self.known.lock().unwrap().debug_traces.clone();
        said.dedup();
        said
    }

    pub async fn wait_for(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(&self.trace()) {
            assert!(Instant::now() < deadline, "gave up waiting for {what}; the trace is\n{}", self.trace());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn with_headers(known: &Known, status: u16) -> Response {
    let job_status = if known.job_status.is_empty() { "running" } else { &known.job_status };
    let code = StatusCode::from_u16(status).unwrap();
    let interval = known.interval.unwrap_or(1).to_string();
    let extra = [(headers::JOB_STATUS, job_status.to_owned()), (headers::TRACE_UPDATE_INTERVAL, interval)];
    (code, extra, "{}").into_response()
}

async fn append(
    State(known): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut known = known.lock().unwrap();
    known.debug_traces.push(query["debug_trace"] == "true");
    known.calls += 1;
    let fault = known.faults.front().copied().filter(|fault| !matches!(fault, Fault::StillChecking));
    if fault.is_some() {
        known.faults.pop_front();
    }
    if headers.get(headers::JOB_TOKEN).map(|token| token.as_bytes()) != Some(b"job-token-7") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let range = headers.get(headers::CONTENT_RANGE).and_then(|value| trace::parse_content_range(value.to_str().ok()?));
    let (start, end) = range.expect("a patch has a range");
    assert_eq!(end - start + 1, body.len() as u64, "the range must fit the body");
    assert!(body.len() <= 1024 * 1024, "a patch has at most 1 MiB");
    if let Some(Fault::Status(status)) = fault {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if start != known.trace.len() as u64 || matches!(fault, Some(Fault::Resync)) {
        let range = format!("0-{}", known.trace.len());
        return (StatusCode::RANGE_NOT_SATISFIABLE, [(headers::RANGE, range)]).into_response();
    }
    known.trace.extend_from_slice(&body);
    if matches!(fault, Some(Fault::Drop)) {
        return StatusCode::GATEWAY_TIMEOUT.into_response();
    }
    with_headers(&known, 202)
}

async fn update(State(known): State<Shared>, body: Bytes) -> Response {
    let mut known = known.lock().unwrap();
    known.calls += 1;
    let update: UpdateJob = serde_json::from_slice(&body).unwrap();
    let checking = update.state != "running" && matches!(known.faults.front(), Some(Fault::StillChecking));
    if checking {
        known.faults.pop_front();
    }
    known.updates.push(update);
    with_headers(&known, if checking { 202 } else { 200 })
}

async fn upload(State(known): State<Shared>, Query(query): Query<Vec<(String, String)>>, body: Bytes) -> StatusCode {
    let hold = known.lock().unwrap().hold_uploads;
    tokio::time::sleep(hold).await;
    if let Some(Fault::Status(status)) = known.lock().unwrap().upload_faults.pop_front() {
        return StatusCode::from_u16(status).unwrap();
    }
    let query = query.iter().map(|(key, value)| format!("{key}={}", value.replace(' ', "+"))).collect::<Vec<_>>().join("&");
    // One part: what stands between the first empty line and the last boundary.
    let start = body.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let end = body.windows(4).rposition(|window| window == b"\r\n--").unwrap();
    known.lock().unwrap().uploads.push(Upload { query, archive: body[start..end].to_vec() });
    StatusCode::CREATED
}

async fn download(State(known): State<Shared>, Path(id): Path<u64>) -> Response {
    match known.lock().unwrap().offered.get(&id) {
        Some(archive) => archive.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
