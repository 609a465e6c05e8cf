//! A GitLab over real HTTP: it hands out payloads, keeps traces by GitLab's offset rules, and misbehaves when told to.

use super::line::{self, Line};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post, put};
use gitlab_api::{JobRequest, UpdateJob, headers, trace};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How long an empty queue is held.
const HOLD: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Known {
    queue: VecDeque<Value>,
    requests: Vec<JobRequest>,
    jobs: BTreeMap<u64, JobThere>,
    /// Answers of the next job requests instead of the right ones.
    request_faults: VecDeque<u16>,
    trouble: Option<Trouble>,
    /// Calls that met it.
    troubled: usize,
    /// Job requests that wait for their answer, and the most that there were.
    open: (usize, usize),
    /// After this an unconfirmed job goes back to the queue.
    trial: Option<Duration>,
}

impl Known {
    /// What was not confirmed in time is handed out again.
    fn take_back(&mut self) {
        let Some(trial) = self.trial else { return };
        for job in self.jobs.values_mut() {
            if job.on_trial.as_ref().is_some_and(|(since, _)| since.elapsed() > trial) {
                self.queue.extend(job.on_trial.take().map(|(_, payload)| payload));
            }
        }
    }
}

/// A job as GitLab sees it.
#[derive(Clone, Debug, Default)]
pub struct JobThere {
    pub updates: Vec<UpdateJob>,
    pub trace: Vec<u8>,
    /// `Job-Status` of the answers.
    pub status: String,
    /// Whether its token is good for nothing.
    pub gone: bool,
    /// When it was handed out, and until it is confirmed.
    on_trial: Option<(Instant, Value)>,
    /// Updates are answered as if GitLab were out of order.
    pub refuse_updates: bool,
    /// The next report is answered with 503 and these seconds to wait.
    pub put_off: Option<u64>,
    /// Reports that came, whatever the answer.
    pub reports: usize,
    /// Patches that are answered with 503.
    pub refuse_patches: usize,
    /// Patches that began somewhere else than at the end of the trace.
    pub misplaced: usize,
    /// A patch counts and its answer is lost.
    pub lose_answers: usize,
}

impl JobThere {
    /// The log without its header.
    pub fn text(&self) -> String {
        let whole = self.whole();
        let header = |line: &&str| line.starts_with("\x1b[0KRunning with ") || line.starts_with("\x1b[0K  ");
        whole.split_inclusive('\n').skip_while(header).collect()
    }

    /// The log.
    pub fn whole(&self) -> String {
        String::from_utf8_lossy(&gitlab_api::log::without_stamps(&self.trace)).into_owned()
    }

    pub fn last(&self) -> Option<UpdateJob> {
        self.updates.iter().rfind(|update| update.state != "running").cloned()
    }

    pub fn finals(&self) -> usize {
        self.updates.iter().filter(|update| update.state != "running").count()
    }
}

/// What every call meets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Time until the answer.
    pub after: Duration,
    /// The answer, where it is not the right one.
    pub status: Option<u16>,
    /// Seconds after which to come back.
    pub retry_after: Option<u64>,
}

#[derive(Clone)]
pub struct Gitlab {
    address: SocketAddr,
    line: watch::Sender<Line>,
    known: Arc<Mutex<Known>>,
    news: Arc<Notify>,
}

impl Gitlab {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, line) = line::carry(listener.local_addr().unwrap()).await;
        let gitlab = Self { address, line, known: Arc::default(), news: Arc::default() };
        let router = Router::new()
            .route("/api/v4/jobs/request", post(request))
            .route("/api/v4/jobs/{id}/trace", patch(append))
            .route("/api/v4/jobs/{id}", put(update))
            .layer(axum::middleware::from_fn_with_state(gitlab.clone(), trouble))
            .with_state(gitlab.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        gitlab
    }

    /// What becomes of connections from now on.
    pub fn set_line(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// How every call is answered from now on instead of the right way, after how long.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.known.lock().unwrap().trouble = trouble;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn offer(&self, payload: Value) {
        self.known.lock().unwrap().queue.push_back(payload);
        self.news.notify_waiters();
    }

    pub fn job(&self, id: u64) -> JobThere {
        self.known.lock().unwrap().jobs.get(&id).cloned().unwrap_or_default()
    }

    pub fn with_job(&self, id: u64, change: impl FnOnce(&mut JobThere)) {
        change(self.known.lock().unwrap().jobs.entry(id).or_default());
    }

    /// Job requests that wait for their answer.
    pub fn open_requests(&self) -> usize {
        self.known.lock().unwrap().open.0
    }

    /// The most of them at once.
    pub fn most_requests(&self) -> usize {
        self.known.lock().unwrap().open.1
    }

    /// Calls that met trouble.
    pub fn troubled(&self) -> usize {
        self.known.lock().unwrap().troubled
    }

    pub fn requests(&self) -> Vec<JobRequest> {
        self.known.lock().unwrap().requests.clone()
    }

    /// How long a job may stay unconfirmed.
    pub fn set_trial(&self, trial: Duration) {
        self.known.lock().unwrap().trial = Some(trial);
    }

    pub fn request_faults(&self, statuses: impl IntoIterator<Item = u16>) {
        self.known.lock().unwrap().request_faults.extend(statuses);
    }
}

async fn trouble(State(gitlab): State<Gitlab>, request: Request, next: Next) -> Response {
    let trouble = {
        let mut known = gitlab.known.lock().unwrap();
        known.troubled += usize::from(known.trouble.is_some());
        known.trouble
    };
    let Some(Trouble { after, status, retry_after }) = trouble else { return next.run(request).await };
    tokio::time::sleep(after).await;
    let Some(status) = status else { return next.run(request).await };
    let mut response = StatusCode::from_u16(status).unwrap().into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("Retry-After", seconds.into());
    }
    response
}

async fn request(State(gitlab): State<Gitlab>, body: Bytes) -> Response {
    let _open = Open::new(&gitlab);
    answer_request(&gitlab, body).await
}

/// A job request until its answer, or its end.
struct Open(Gitlab);

impl Open {
    fn new(gitlab: &Gitlab) -> Self {
        let (open, most) = &mut gitlab.known.lock().unwrap().open;
        *open += 1;
        *most = (*most).max(*open);
        Self(gitlab.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.known.lock().unwrap().open.0 -= 1;
    }
}

async fn answer_request(gitlab: &Gitlab, body: Bytes) -> Response {
    let until = tokio::time::Instant::now() + HOLD;
    let request: JobRequest = serde_json::from_slice(&body).unwrap();
    gitlab.known.lock().unwrap().requests.push(request);
    loop {
        let news = gitlab.news.notified();
        {
            let mut known = gitlab.known.lock().unwrap();
            if let Some(status) = known.request_faults.pop_front() {
                return StatusCode::from_u16(status).unwrap().into_response();
            }
            known.take_back();
            if let Some(job) = known.queue.pop_front() {
                let there = known.jobs.entry(job["id"].as_u64().unwrap()).or_default();
                there.on_trial = Some((Instant::now(), job.clone()));
                return (StatusCode::CREATED, [(headers::LAST_UPDATE, "v1")], axum::Json(job)).into_response();
            }
        }
        let look_again = until.min(tokio::time::Instant::now() + Duration::from_millis(100));
        if tokio::time::timeout_at(look_again, news).await.is_err() && tokio::time::Instant::now() >= until {
            return (StatusCode::NO_CONTENT, [(headers::LAST_UPDATE, "v1")]).into_response();
        }
    }
}

fn answer(job: &JobThere, status: u16) -> Response {
    let word = if job.status.is_empty() { "running" } else { &job.status };
    (StatusCode::from_u16(status).unwrap(), [(headers::JOB_STATUS, word.to_owned())], "{}").into_response()
}

async fn update(State(gitlab): State<Gitlab>, Path(id): Path<u64>, body: Bytes) -> Response {
    let mut known = gitlab.known.lock().unwrap();
    known.take_back();
    let waits = known.queue.iter().any(|payload| payload["id"] == id);
    let job = known.jobs.entry(id).or_default();
    let update: UpdateJob = serde_json::from_slice(&body).unwrap();
    job.reports += usize::from(update.state != "running");
    if job.gone || job.finals() > 0 || waits {
        return StatusCode::FORBIDDEN.into_response();
    }
    if update.state != "running"
        && let Some(seconds) = job.put_off.take()
    {
        return (StatusCode::SERVICE_UNAVAILABLE, [("Retry-After", seconds.to_string())]).into_response();
    }
    job.on_trial = None;
    if job.refuse_updates {
        return StatusCode::NOT_IMPLEMENTED.into_response();
    }
    assert_eq!(update.token, format!("job-token-{id}"));
    job.updates.push(update);
    answer(job, 200)
}

async fn append(State(gitlab): State<Gitlab>, Path(id): Path<u64>, headers: HeaderMap, body: Bytes) -> Response {
    let mut known = gitlab.known.lock().unwrap();
    let job = known.jobs.entry(id).or_default();
    if job.gone || job.finals() > 0 {
        // GitLab names the state of a job that does not run; a token that is good for nothing names no job.
        return if job.status.is_empty() { StatusCode::FORBIDDEN.into_response() } else { answer(job, 403) };
    }
    if job.refuse_patches > 0 {
        job.refuse_patches -= 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let range = headers.get(headers::CONTENT_RANGE).and_then(|value| trace::parse_content_range(value.to_str().ok()?));
    let (start, end) = range.expect("a patch has a range");
    assert_eq!(end - start + 1, body.len() as u64, "the range must fit the body");
    if start != job.trace.len() as u64 {
        let range = format!("0-{}", job.trace.len());
        job.misplaced += 1;
        return (StatusCode::RANGE_NOT_SATISFIABLE, [(headers::RANGE, range)]).into_response();
    }
    job.trace.extend_from_slice(&body);
    if job.lose_answers > 0 {
        job.lose_answers -= 1;
        return StatusCode::GATEWAY_TIMEOUT.into_response();
    }
    answer(job, 202)
}
