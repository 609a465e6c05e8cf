//! A GitLab stand-in that any runner can ask for jobs, and that notes when what happened.
//!
//! The embedded coordinator is not used: it hands out the jobs of pipelines from a database, while a benchmark wants
//! exactly this job for exactly this runner, 10,000 of them, the time of every byte, and how many questions are open.
//! The types are those of `gitlab-api`, so that what is answered here is what the coordinator answers. Traces are
//! counted and searched for one line, not kept.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, patch, post, put};
use axum::serve::ListenerExt;
use gitlab_api::{JobRequest, UpdateJob, headers, trace};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use crate::scenario::Scenario;

/// How long a question for a job is held, as GitLab's Workhorse does.
const HOLD: Duration = Duration::from_secs(50);
/// What GitLab names while somebody looks at the job.
const TRACE_INTERVAL: &str = "3";
const VERSION: &str = "bench";
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// What is known of a job.
#[derive(Clone, Debug)]
pub struct Job {
    /// When it was handed out.
    pub handed_out: Option<Instant>,
    /// When it was confirmed.
    pub confirmed: Option<Instant>,
    /// When the script's first line came.
    pub first_line: Option<Instant>,
    /// When it ended.
    pub ended: Option<Instant>,
    /// `running`, `success`, `failed`.
    pub state: String,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// Bytes of its trace.
    pub trace_bytes: u64,
    awaited: String,
    tail: Vec<u8>,
    last: Vec<u8>,
}

impl Job {
    fn new(awaited: String) -> Self {
        Self {
            handed_out: None,
            confirmed: None,
            first_line: None,
            ended: None,
            state: "pending".to_owned(),
            failure_reason: None,
            trace_bytes: 0,
            awaited,
            tail: Vec::new(),
            last: Vec::new(),
        }
    }

    /// The end of its trace, to explain a failure.
    pub fn end_of_trace(&self) -> String {
        String::from_utf8_lossy(&self.last).into_owned()
    }

    fn append(&mut self, bytes: &[u8]) {
        self.trace_bytes += bytes.len() as u64;
        if self.first_line.is_none() {
            // The line may be cut in two by patches.
            self.tail.extend_from_slice(bytes);
            if contains(&self.tail, self.awaited.as_bytes()) {
                self.first_line = Some(Instant::now());
                self.tail = Vec::new();
            } else {
                let surplus = self.tail.len().saturating_sub(self.awaited.len());
                self.tail.drain(..surplus);
            }
        }
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(300)..]);
        let surplus = self.last.len().saturating_sub(600);
        self.last.drain(..surplus);
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// One runner entry.
#[derive(Default)]
struct Entry {
    queue: VecDeque<gitlab_api::JobResponse>,
    news: Arc<Notify>,
    questions: u64,
    open: usize,
    /// When the last open question was answered.
    closed: Option<Instant>,
    /// The longest time from there to the next one.
    longest_gap: Duration,
}

#[derive(Default)]
struct Known {
    entries: HashMap<String, Entry>,
    jobs: BTreeMap<u64, Job>,
    next_id: u64,
    heard: HashMap<String, Instant>,
}

/// The stand-in; clones are the same one.
#[derive(Clone)]
pub struct StandIn {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
    port: u16,
}

impl StandIn {
    /// Begins to listen on all addresses, because pods have to reach it.
    pub async fn start(port: u16) -> Result<Self> {
        let address = SocketAddr::from(([0, 0, 0, 0], port));
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
        let port = listener.local_addr()?.port();
        let stand_in = Self { known: Arc::default(), changed: Arc::default(), port };
        let router = Router::new()
            .route("/api/v4/jobs/request", post(request))
            .route("/api/v4/jobs/{id}/trace", patch(append))
            .route("/api/v4/jobs/{id}", put(update))
            .route("/heard/{name}", get(heard))
            .fallback(any(|| async { (StatusCode::NOT_FOUND, "{}") }))
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .with_state(stand_in.clone());
        let listener = listener.tap_io(|stream| {
            // Without it a figure would be the delay of an acknowledgement.
            let _ = stream.set_nodelay(true);
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(stand_in)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets a runner token in.
    pub fn admit(&self, token: &str) {
        self.lock().entries.entry(token.to_owned()).or_default();
    }

    /// Lets it in no more.
    pub fn dismiss(&self, token: &str) {
        if let Some(entry) = self.lock().entries.remove(token) {
            entry.news.notify_waiters();
        }
    }

    /// Puts a job into the queue of a runner token; answers its number.
    pub fn offer(&self, token: &str, scenario: &Scenario, image: &str) -> u64 {
        let mut known = self.lock();
        known.next_id += 1;
        let id = known.next_id;
        known.jobs.insert(id, Job::new(scenario.first_line.clone()));
        if let Some(entry) = known.entries.get_mut(token) {
            entry.queue.push_back(scenario.payload(id, image));
            entry.news.notify_waiters();
        }
        id
    }

    /// A job as it is now.
    pub fn job(&self, id: u64) -> Option<Job> {
        self.lock().jobs.get(&id).cloned()
    }

    /// Forgets jobs, whose figures have been read.
    pub fn forget(&self, ids: &[u64]) {
        let mut known = self.lock();
        ids.iter().for_each(|id| drop(known.jobs.remove(id)));
    }

    /// Questions of a token so far, and how many wait for their answer.
    pub fn questions(&self, token: &str) -> (u64, usize) {
        self.lock().entries.get(token).map_or((0, 0), |entry| (entry.questions, entry.open))
    }

    /// The longest time that a token had no open question after its first one.
    pub fn longest_gap(&self, token: &str) -> Duration {
        self.lock().entries.get(token).map_or(Duration::ZERO, |entry| entry.longest_gap)
    }

    /// When a pod said `name` for the first time.
    pub fn heard(&self, name: &str) -> Option<Instant> {
        self.lock().heard.get(name).copied()
    }

    /// Waits until `done`; looks again whenever something happened.
    pub async fn until(&self, patience: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let change = self.changed.notified();
            if done(self) {
                return true;
            }
            // The second look is for conditions that are not all of this server.
            let look_again = deadline.min(tokio::time::Instant::now() + Duration::from_millis(200));
            if tokio::time::timeout_at(look_again, change).await.is_err() && tokio::time::Instant::now() >= deadline {
                return done(self);
            }
        }
    }

    /// What the agent's first patch would bring, for a pod that is only played.
    pub fn play_trace(&self, id: u64, text: &str) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            job.append(text.as_bytes());
        }
        self.changed.notify_waiters();
    }

    /// What the agent's final update would bring.
    pub fn play_end(&self, id: u64) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            job.state = "success".to_owned();
            job.ended = Some(Instant::now());
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job of a token; `Err` when the token is not let in.
    fn next_job(&self, token: &str) -> Result<Option<gitlab_api::JobResponse>, StatusCode> {
        let mut known = self.lock();
        let entry = known.entries.get_mut(token).ok_or(StatusCode::FORBIDDEN)?;
        let Some(payload) = entry.queue.pop_front() else { return Ok(None) };
        if let Some(job) = known.jobs.get_mut(&payload.id) {
            job.handed_out = Some(Instant::now());
        }
        Ok(Some(payload))
    }
}

/// A question until its answer, or until the runner hangs up.
struct Open<'a>(&'a StandIn, String);

impl<'a> Open<'a> {
    fn new(stand_in: &'a StandIn, token: &str) -> Option<(Self, Arc<Notify>)> {
        let mut known = stand_in.lock();
        let entry = known.entries.get_mut(token)?;
        entry.questions += 1;
        entry.open += 1;
        entry.longest_gap = entry.longest_gap.max(entry.closed.take().map_or(Duration::ZERO, |closed| closed.elapsed()));
        let news = entry.news.clone();
        drop(known);
        stand_in.changed.notify_waiters();
        Some((Self(stand_in, token.to_owned()), news))
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.lock().entries.get_mut(&self.1) {
            entry.open = entry.open.saturating_sub(1);
            entry.closed = (entry.open == 0).then(Instant::now);
        }
    }
}

async fn request(State(stand_in): State<StandIn>, body: Bytes) -> Response {
    let Ok(asked) = serde_json::from_slice::<JobRequest>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let Some((_open, news)) = Open::new(&stand_in, &asked.token) else { return StatusCode::FORBIDDEN.into_response() };
    let until = tokio::time::Instant::now() + if asked.last_update == VERSION { HOLD } else { Duration::ZERO };
    loop {
        // Made before the look, so that a notice in between is not missed.
        let new = news.notified();
        match stand_in.next_job(&asked.token) {
            Err(status) => return status.into_response(),
            Ok(Some(job)) => {
                stand_in.changed.notify_waiters();
                return (StatusCode::CREATED, [(headers::LAST_UPDATE, VERSION)], axum::Json(job)).into_response();
            }
            Ok(None) => {}
        }
        if tokio::time::timeout_at(until, new).await.is_err() {
            return (StatusCode::NO_CONTENT, [(headers::LAST_UPDATE, VERSION)]).into_response();
        }
    }
}

async fn update(State(stand_in): State<StandIn>, Path(id): Path<u64>, body: Bytes) -> Response {
    let Ok(update) = serde_json::from_slice::<UpdateJob>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    {
        let mut known = stand_in.lock();
        let Some(job) = known.jobs.get_mut(&id).filter(|job| job.ended.is_none()) else {
            return StatusCode::FORBIDDEN.into_response();
        };
        let now = Instant::now();
        job.confirmed.get_or_insert(now);
        job.state = update.state.clone();
        if matches!(update.state.as_str(), "success" | "failed") {
            job.ended = Some(now);
            job.failure_reason = update.failure_reason;
        }
    }
    stand_in.changed.notify_waiters();
    let answer = [(headers::JOB_STATUS, update.state.as_str()), (headers::TRACE_UPDATE_INTERVAL, TRACE_INTERVAL)];
    (StatusCode::OK, answer, "{}").into_response()
}

async fn append(State(stand_in): State<StandIn>, Path(id): Path<u64>, headers: HeaderMap, body: Bytes) -> Response {
    let range = headers.get(headers::CONTENT_RANGE).and_then(|value| trace::parse_content_range(value.to_str().ok()?));
    {
        let mut known = stand_in.lock();
        let Some(job) = known.jobs.get_mut(&id).filter(|job| job.ended.is_none()) else {
            return StatusCode::FORBIDDEN.into_response();
        };
        let there = job.trace_bytes;
        if range.is_none_or(|(start, end)| start != there || end - start + 1 != body.len() as u64) {
            let range = format!("0-{there}");
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(headers::RANGE, range)]).into_response();
        }
        job.append(&body);
    }
    stand_in.changed.notify_waiters();
    let answer = [(headers::JOB_STATUS, "running"), (headers::TRACE_UPDATE_INTERVAL, TRACE_INTERVAL)];
    (StatusCode::ACCEPTED, answer, "{}").into_response()
}

async fn heard(State(stand_in): State<StandIn>, Path(name): Path<String>) -> StatusCode {
    stand_in.lock().heard.entry(name).or_insert_with(Instant::now);
    stand_in.changed.notify_waiters();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::Job;

    #[test]
    fn the_first_line_is_found_across_patches() {
        let mut job = Job::new("first-42".to_owned());
        job.append(b"$ echo first-$((6 * 7))\nfir");
        assert!(job.first_line.is_none());
        job.append(b"st-42\n");
        assert!(job.first_line.is_some());
        assert_eq!(job.trace_bytes, 33);
        assert!(job.end_of_trace().ends_with("first-42\n"));
    }
}
