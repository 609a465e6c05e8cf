//! The coordinator in a process of its own: GitLab as it can be killed, stopped, slow and wrong.
//!
//! Two listeners: at `listen` what runners and pods see, through whatever trouble is set; at `control`, on loopback, what
//! the suite asks, always at once.

use super::dice::Dice;
use super::faults::{self, BODY, Fault};
use super::journal::{Entry, Writer};
use super::line::{Lines, Peer};
use crate::gitlab::{PROJECT, make_pipeline};
use anyhow::{Context, Result, bail};
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use clap::Args;
use coordinator::{Coordinator, Event, JobStatus, ProjectId, ProjectVariable, Settings};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceExt;

/// Path at which a script says that it began, before its number.
pub const BEGAN: &str = "/-/began/";
/// A job whose manager was killed before it confirmed comes back after this time; GitLab's own is longer.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);
const SLOW: Duration = Duration::from_secs(10);
const HELD: Duration = Duration::from_millis(100);
/// How long the suite waits for something to pass.
const WAIT: Duration = Duration::from_secs(3);

/// Where a coordinator lives.
#[derive(Clone, Debug, Args)]
pub struct HostArguments {
    /// Its state
    #[arg(long)]
    pub directory: PathBuf,
    /// The repository of its project
    #[arg(long)]
    pub repository: PathBuf,
    /// Commit that is built
    #[arg(long)]
    pub sha: String,
    /// Address for runners and pods
    #[arg(long)]
    pub listen: SocketAddr,
    /// Address for the suite
    #[arg(long)]
    pub control: SocketAddr,
}

/// How runners and pods are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manners {
    /// As they should be.
    #[default]
    Good,
    /// 500 to everything.
    Error,
    /// 429 with `Retry-After`.
    Busy,
    /// 429 without.
    BusyWithoutTime,
    /// Each answer comes after 10 s.
    Slow,
    /// Requests are taken, and nothing is answered.
    Silent,
    /// Requests are obeyed, and the answers lost.
    AnswersLost,
    /// Each request by itself meets a fault, once in so many times.
    Flaky {
        /// How rare faults are.
        one_in: u64,
        /// Where chance begins.
        seed: u64,
    },
}

/// A job as the suite sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Its pipeline.
    pub pipeline: u64,
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// GitLab's word.
    pub status: String,
    /// Whether that is the last one.
    pub is_final: bool,
    /// GitLab's word, when it failed.
    pub reason: Option<String>,
    /// Of the script.
    pub exit_code: Option<i32>,
}

/// Length and checksum of a trace on both sides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes that GitLab has.
    pub bytes: u64,
    /// `crc32:…` of them.
    pub checksum: String,
    /// Bytes that the runner said.
    pub told_bytes: Option<u64>,
    /// Checksum that the runner said.
    pub told_checksum: Option<String>,
}

/// A pipeline to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Its file.
    pub yaml: String,
    /// Variables of the project.
    pub variables: Vec<(String, String)>,
}

struct OneFile(String);

impl ci_yaml::Files for OneFile {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok((path == ".gitlab-ci.yml").then(|| self.0.clone()))
    }
}

#[derive(Clone)]
struct Host {
    coordinator: Coordinator,
    project: ProjectId,
    sha: String,
    journal: Arc<Writer>,
    manners: Arc<RwLock<Manners>>,
    /// Which request meets which fault.
    dice: Arc<Mutex<Dice>>,
    /// Job that was handed out last, confirmed last, ended last.
    passed: [watch::Sender<u64>; 3],
}

/// Serves until it is killed.
///
/// # Errors
/// When the state cannot be used or an address is taken.
pub fn host(arguments: &HostArguments) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &HostArguments) -> Result<()> {
    let settings = Settings { confirm_within: CONFIRM_WITHIN, ..Settings::default() };
    let coordinator = Coordinator::open_with(&arguments.directory.join("coordinator"), settings)?;
    coordinator.set_url(&format!("http://{}", arguments.listen));
    let token_file = arguments.directory.join("token");
    if !token_file.exists() {
        std::fs::write(&token_file, coordinator.register_runner("chaos")?)?;
    }
    let project = coordinator.create_project(PROJECT, &arguments.repository)?;
    let host = Host {
        coordinator,
        project,
        sha: arguments.sha.clone(),
        journal: Arc::new(Writer::open(&arguments.directory.join("journal"))?),
        manners: Arc::default(),
        dice: Arc::new(Mutex::new(Dice::new(0))),
        passed: std::array::from_fn(|_| watch::channel(0).0),
    };
    tokio::spawn(note_ends(host.clone()));
    let listener = tokio::net::TcpListener::bind(arguments.listen).await.context("failed to listen for pods")?;
    let shared = host.clone();
    let inner = host.coordinator.router();
    let door = axum::Router::new().fallback(move |ConnectInfo(peer): ConnectInfo<Peer>, request: Request| {
        let (host, inner) = (shared.clone(), inner.clone());
        async move { host.door(inner, peer, request).await }
    });
    let public = axum::serve(Lines(listener), door.into_make_service_with_connect_info::<Peer>());
    let control = tokio::net::TcpListener::bind(arguments.control).await.context("failed to listen for the suite")?;
    let private = axum::serve(control, control_router(host));
    tokio::select! { ended = public.into_future() => ended?, ended = private.into_future() => ended? }
    bail!("the listener ended")
}

/// Jobs that end are announced whoever ended them.
async fn note_ends(host: Host) {
    let mut events = host.coordinator.events();
    while let Ok(event) = events.recv().await {
        if let Event::JobStatus { job, status: JobStatus::Success | JobStatus::Failed, .. } = event {
            host.passed[2].send_replace(job);
        }
    }
}

impl Host {
    fn manners(&self) -> Manners {
        *self.manners.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that a runner or a pod asks.
    async fn door(&self, inner: axum::Router, peer: Peer, request: Request) -> Response {
        match self.manners() {
            Manners::Good | Manners::AnswersLost | Manners::Flaky { .. } => {}
            Manners::Error => return (StatusCode::INTERNAL_SERVER_ERROR, "500 on purpose\n").into_response(),
            Manners::Busy => return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")], "429 on purpose\n").into_response(),
            Manners::BusyWithoutTime => return (StatusCode::TOO_MANY_REQUESTS, "429 on purpose\n").into_response(),
            Manners::Slow => tokio::time::sleep(SLOW).await,
            Manners::Silent => return self.silence().await,
        }
        if let Some(number) = request.uri().path().strip_prefix(BEGAN) {
            let noted = number.parse().map(|job| self.journal.write(&Entry::Began { job }));
            return if matches!(noted, Ok(Ok(()))) { "noted\n".into_response() } else { StatusCode::BAD_REQUEST.into_response() };
        }
        let answer = match self.by_chance(inner, &peer, request).await {
            Ok(answer) => answer,
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
        };
        if self.manners() == Manners::AnswersLost { self.silence().await } else { answer }
    }

    /// Passes a request on, unless it is its turn to meet a fault.
    async fn by_chance(&self, inner: axum::Router, peer: &Peer, request: Request) -> Result<Response> {
        let carry = async |request| self.noted(inner, peer.from, request).await;
        let Manners::Flaky { one_in, .. } = self.manners() else { return carry(request).await };
        let (asked, request) = faults::asked(request).await?;
        let fault = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            dice.one_in(one_in).then(|| Fault::any(&mut dice, asked))
        };
        let Some(fault) = fault else { return carry(request).await };
        self.journal.write(&Entry::Fault { kind: fault.name().to_owned() })?;
        fault.answer(request, &peer.cut, carry).await
    }

    /// No answer for as long as that is the manner.
    async fn silence(&self) -> Response {
        while matches!(self.manners(), Manners::Silent | Manners::AnswersLost) {
            tokio::time::sleep(HELD).await;
        }
        StatusCode::BAD_GATEWAY.into_response()
    }

    /// Passes a request on, and writes down what it was about.
    async fn noted(&self, inner: axum::Router, from: SocketAddr, request: Request) -> Result<Response> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if method == Method::POST && path == "/api/v4/jobs/request" {
            let answer = inner.oneshot(request).await.into_response();
            return if answer.status() == StatusCode::CREATED { self.handed(answer).await } else { Ok(answer) };
        }
        let number = path.strip_prefix("/api/v4/jobs/").and_then(|number| number.parse::<u64>().ok());
        let Some(job) = number.filter(|_| method == Method::PUT) else {
            return Ok(inner.oneshot(request).await.into_response());
        };
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, BODY).await.context("failed to read an update")?;
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = inner.oneshot(Request::from_parts(parts, Body::from(body))).await.into_response();
        if answer.status() == StatusCode::OK {
            if told["state"] == "running" {
                self.journal.write(&Entry::Running { job })?;
                self.passed[1].send_replace(job);
            } else {
                let told = format!("{} {} {}", told["state"], told["failure_reason"], told["exit_code"]);
                self.journal.write(&Entry::Ended { job, told, from: from.ip().to_string() })?;
            }
        }
        Ok(answer)
    }

    async fn handed(&self, answer: Response) -> Result<Response> {
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, BODY).await.context("failed to read an answer")?;
        let job = serde_json::from_slice::<serde_json::Value>(&body)?["id"].as_u64().context("a job without number")?;
        self.journal.write(&Entry::Handed { job })?;
        self.passed[0].send_replace(job);
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}

/// What went wrong, for the suite's log.
struct Failure(anyhow::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

fn control_router(host: Host) -> axum::Router {
    use axum::routing::{get, post, put};
    axum::Router::new()
        .route("/ready", get(|| async { "ready\n" }))
        .route("/pipelines", post(make))
        .route("/jobs", get(jobs))
        .route("/jobs/{id}/trace", get(trace))
        .route("/jobs/{id}/facts", get(facts))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/manners", put(behave))
        .route("/passed/{what}", get(passed))
        .with_state(host)
}

async fn make(State(host): State<Host>, Json(wanted): Json<Wanted>) -> Result<Json<u64>, Failure> {
    let variables = wanted.variables.into_iter().map(|(key, value)| ProjectVariable { key, value, ..Default::default() });
    let variables = variables.collect();
    let made = tokio::task::spawn_blocking(move || {
        make_pipeline(&host.coordinator, host.project, host.sha.clone(), variables, &OneFile(wanted.yaml))
    });
    Ok(Json(made.await??))
}

#[derive(Deserialize)]
struct Since {
    from: u64,
}

/// All jobs of the pipelines from this one on.
async fn jobs(State(host): State<Host>, Query(Since { from }): Query<Since>) -> Result<Json<Vec<JobView>>, Failure> {
    let mut views = Vec::new();
    for pipeline in from.max(1).. {
        let state = match host.coordinator.pipeline(pipeline) {
            Ok(state) => state,
            Err(coordinator::Error::NoPipeline(_)) => break,
            Err(error) => return Err(error.into()),
        };
        views.extend(state.jobs.into_iter().map(|job| JobView {
            pipeline,
            id: job.id,
            name: job.name,
            status: job.status.as_str().to_owned(),
            is_final: job.status.is_final(),
            reason: job.failure_reason,
            exit_code: job.exit_code,
        }));
    }
    Ok(Json(views))
}

async fn trace(State(host): State<Host>, Path(id): Path<u64>) -> Result<Bytes, Failure> {
    Ok(host.coordinator.read_trace(id, 0, usize::MAX >> 8)?.into())
}

async fn facts(State(host): State<Host>, Path(id): Path<u64>) -> Result<Json<Facts>, Failure> {
    let facts = host.coordinator.trace_facts(id)?;
    Ok(Json(Facts {
        bytes: facts.bytes,
        checksum: format!("crc32:{:08x}", facts.crc32),
        told_bytes: facts.reported_bytes,
        told_checksum: facts.reported_checksum,
    }))
}

/// Cancels a job, as a person does.
async fn cancel(State(host): State<Host>, Path(id): Path<u64>) -> Result<(), Failure> {
    Ok(tokio::task::spawn_blocking(move || host.coordinator.cancel_job(id)).await??)
}

async fn behave(State(host): State<Host>, Json(manners): Json<Manners>) {
    if let Manners::Flaky { seed, .. } = manners {
        *host.dice.lock().unwrap_or_else(PoisonError::into_inner) = Dice::new(seed);
    }
    *host.manners.write().unwrap_or_else(PoisonError::into_inner) = manners;
}

/// Waits until a job is `handed`, `confirmed` or `ended`.
async fn passed(State(host): State<Host>, Path(what): Path<String>) -> Result<Json<Option<u64>>, Failure> {
    let index = ["handed", "confirmed", "ended"].iter().position(|word| *word == what).context("nothing is called so")?;
    let mut seen = host.passed[index].subscribe();
    let came = tokio::time::timeout(WAIT, seen.changed()).await.is_ok();
    let job = *seen.borrow();
    Ok(Json(came.then_some(job)))
}

/// Where the journal of a host lies.
pub fn journal_of(directory: &FilePath) -> PathBuf {
    directory.join("journal")
}

#[cfg(test)]
mod tests {
    use super::{Facts, HostArguments, JobView, Manners, Wanted, journal_of, serve};
    use crate::chaos::journal::{Entry, Reader};
    use crate::target::free_port;
    use reqwest::{Client, Method, Response};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// Some answers are slow on purpose.
    const LONGEST: Duration = Duration::from_secs(120);

    /// A suite and a runner in one.
    struct Both {
        http: Client,
        listen: SocketAddr,
        control: SocketAddr,
    }

    impl Both {
        async fn start(place: &Path) -> Self {
            // There may be a provider already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let repository = place.join("repository");
            std::fs::create_dir(&repository).unwrap();
            let sha = crate::gitlab::commit_all(&repository).unwrap();
            let [listen, control] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
            let arguments = HostArguments { directory: place.to_owned(), repository, sha, listen, control };
            tokio::spawn(async move { serve(&arguments).await.unwrap() });
            let both = Self { http: Client::new(), listen, control };
            let begun = Instant::now();
            while both.http.get(format!("http://{control}/ready")).send().await.is_err() {
                assert!(begun.elapsed() < Duration::from_secs(20), "the host does not come up");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            both
        }

        async fn suite(&self, method: Method, path: &str, body: Option<Value>) -> Response {
            let mut call = self.http.request(method, format!("http://{}/{path}", self.control));
            if let Some(body) = body {
                call = call.json(&body);
            }
            call.send().await.unwrap().error_for_status().unwrap()
        }

        async fn job(&self) -> JobView {
            self.suite(Method::GET, "jobs?from=1", None).await.json::<Vec<JobView>>().await.unwrap().remove(0)
        }

        async fn facts(&self, id: u64) -> Facts {
            self.suite(Method::GET, &format!("jobs/{id}/facts"), None).await.json().await.unwrap()
        }

        /// The status of an answer, and where a trace goes on; nothing when the connection was closed.
        async fn runner(&self, (method, path): (Method, String), token: &str, range: &str, body: String) -> Option<(u16, u64)> {
            let call = self.http.request(method, format!("http://{}/api/v4/jobs/{path}", self.listen));
            let answer = call.header("JOB-TOKEN", token).header("Content-Range", range).body(body).send().await.ok()?;
            let at = answer.headers().get("range").and_then(|range| range.to_str().ok()?.split_once('-')?.1.parse().ok());
            let status = answer.status().as_u16();
            answer.bytes().await.ok()?;
            Some((status, at.unwrap_or_default()))
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_by_the_answers_gets_its_trace_and_end_through_every_fault() {
        let place = tempfile::tempdir().unwrap();
        let both = Both::start(place.path()).await;
        let wanted = Wanted { yaml: "a:\n  script: [x]\n".to_owned(), variables: Vec::new() };
        both.suite(Method::POST, "pipelines", Some(serde_json::to_value(wanted).unwrap())).await;
        let token = std::fs::read_to_string(place.path().join("token")).unwrap();
        let features = json!({"cancelable": true, "cancel_gracefully": true, "two_phase_job_commit": true});
        let asks = json!({"token": token, "info": {"features": features}});
        let url = format!("http://{}/api/v4/jobs/request", both.listen);
        let payload: Value = both.http.post(url).json(&asks).send().await.unwrap().json().await.unwrap();
        let (id, token) = (payload["id"].as_u64().unwrap(), payload["token"].as_str().unwrap());
        let put = async |state: &str| {
            let body = json!({"token": token, "state": state}).to_string();
            both.runner((Method::PUT, id.to_string()), token, "", body).await
        };
        assert_eq!(put("running").await, Some((200, 0)));
        let flaky = Manners::Flaky { one_in: 2, seed: 5 };
        both.suite(Method::PUT, "manners", Some(serde_json::to_value(flaky).unwrap())).await;
        let (all, mut at, begun) = ("x".repeat(40), 0, Instant::now());
        while at < all.len() {
            assert!(begun.elapsed() < LONGEST, "only {at} bytes came through");
            let range = format!("{at}-{at}");
            let patch = (Method::PATCH, format!("{id}/trace"));
            match both.runner(patch, token, &range, all[at..=at].to_owned()).await {
                Some((202, _)) => at += 1,
                Some((416, length)) => at = usize::try_from(length).unwrap(),
                _ => {}
            }
        }
        assert_eq!(both.facts(id).await.bytes, 40);
        both.suite(Method::POST, &format!("jobs/{id}/cancel"), None).await;
        assert_eq!(both.job().await.status, "canceling");
        // A 403 says that it is over: an answer was lost.
        while !matches!(put("failed").await, Some((200 | 403, _))) {
            assert!(begun.elapsed() < LONGEST, "the end does not come through");
        }
        assert_eq!(both.job().await.status, "canceled");
        let mut kinds = BTreeMap::<String, u64>::new();
        for entry in Reader::new(&journal_of(place.path())).news().unwrap() {
            if let Entry::Fault { kind } = entry {
                *kinds.entry(kind).or_default() += 1;
            }
        }
        for kind in ["500", "429", "slow", "closed before", "answer lost", "half an answer", "416"] {
            assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
        }
    }
}
