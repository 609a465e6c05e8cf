//! Calls GitLab's runner API: the manager asks for jobs, the agent reports on one.
//!
//! Each call returns what the caller has to decide on (accepted, resynchronise, gone) as a value; only what it cannot
//! decide on is an error. Short-lived trouble (408, 429, 5xx) is retried here, as GitLab Runner's transport does (row
//! "transport: retry layer" of the parity inventory: 5 tries, `Retry-After` honoured); network errors are the
//! caller's loop. Names are resolved by hickory, never through libc, because the agent is a static program.
//!
//! Calls go over a connection pool, or to a [`Service`] in the same process: sockets know only real time, and whoever
//! simulates days in seconds needs a server that lives in the simulation's time.

mod artifacts;
mod error;
mod runners;
mod service;
mod transport;

pub use artifacts::ArtifactError;
pub use error::ClientError;
pub use service::{Body, Service};

use bytes::Bytes;
use gitlab_api::{JobRequest, JobResponse, UpdateJob, headers, request_job, trace, update_job};
use job::{JobId, RemoteState, Secret};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How to reach GitLab.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// Address, without `/api/v4`.
    pub url: String,
    /// PEM certificates to trust besides the public ones.
    pub ca_pem: Option<String>,
    /// Certificate and key (PEM) to show to a server that asks for one.
    pub identity: Option<(String, Secret)>,
    /// `User-Agent`.
    pub user_agent: String,
}

/// A connection pool to one GitLab.
#[derive(Clone, Debug)]
pub struct Client {
    /// Makes requests, and carries them unless there is a service.
    http: reqwest::Client,
    service: Option<Service>,
    base: String,
    /// Bytes of archives, either way.
    moved: Arc<AtomicU64>,
}

/// Answer to a request for a job.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// The job, if there was one.
    pub job: Option<Box<JobResponse>>,
    /// Version of the queue, to be sent with the next request.
    pub last_update: Option<String>,
    /// What the server calls this request in its logs; empty when it does not say.
    pub correlation_id: String,
}

/// What the server says beside the status of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    /// The job's state there.
    pub remote: RemoteState,
    /// The job is over there, with whatever end.
    pub ended: bool,
    /// How often it wants trace.
    pub update_interval: Option<Duration>,
}

/// What became of a `PUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// 200.
    Accepted,
    /// 202: the trace is being checked, ask again.
    StillChecking,
    /// 412: the trace there is not ours, send it again from 0.
    TraceMismatch,
    /// 403 or 404: the job is no longer ours.
    Gone,
}

/// A piece of a trace.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Where it begins.
    pub start: u64,
    /// Its bytes: not none, at most 1 MiB.
    pub bytes: Bytes,
    /// The trace may show more than it should (`CI_DEBUG_TRACE`): the server shows it to fewer people.
    pub debug_trace: bool,
}

impl Patch {
    /// An ordinary one.
    pub fn at(start: u64, bytes: impl Into<Bytes>) -> Self {
        Self { start, bytes: bytes.into(), debug_trace: false }
    }
}

/// What became of a `PATCH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOutcome {
    /// 202.
    Accepted,
    /// 416: the server has this many bytes, go on from there.
    Resync(u64),
    /// 404: nobody wants the trace any more.
    Gone,
    /// 403: the job is no longer ours.
    Forbidden,
}

impl Client {
    /// Makes the pool; nothing is sent yet.
    ///
    /// # Errors
    /// When the address or a certificate cannot be read.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let base = base(config)?;
        Ok(Self { http: transport::pool(config)?, service: None, base, moved: Arc::default() })
    }

    /// Hands every request to `service`, by the same rules for retries and time limits.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn over(config: &ClientConfig, service: Service) -> Result<Self, ClientError> {
        let (http, base) = (service::builder()?, base(config)?);
        Ok(Self { http, service: Some(service), base, moved: Arc::default() })
    }

    /// Asks for a job; the server may hold the request for most of a minute.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the token is not known.
    pub async fn request_job(&self, token: &Secret, request: &JobRequest) -> Result<Requested, ClientError> {
        let call = Call::new("POST", request_job::PATH);
        let make = || self.post(&call).header(headers::RUNNER_TOKEN, token.expose()).json(request);
        let response = self.send(&call, make).await?;
        let last_update = transport::header(&response, headers::LAST_UPDATE).map(str::to_owned);
        let correlation_id = transport::header(&response, headers::REQUEST_ID).unwrap_or_default().to_owned();
        match response.status().as_u16() {
            204 => Ok(Requested { job: None, last_update, correlation_id }),
            201 => {
                let job = response.json().await.map_err(|source| call.transport(source))?;
                Ok(Requested { job: Some(Box::new(job)), last_update, correlation_id })
            }
            403 => Err(ClientError::Forbidden { call: call.name() }),
            _ => Err(transport::unexpected(&call, response).await),
        }
    }

    /// Confirms a job, keeps it alive, or reports how it ended.
    ///
    /// # Errors
    /// When the server could not be asked, or answered something it should not.
    pub async fn update_job(&self, id: JobId, token: &Secret, body: &UpdateJob) -> Result<(UpdateOutcome, Hints), ClientError> {
        let call = Call::new("PUT", &update_job::path(id));
        let response = self.send(&call, || self.update(&call, token, body)).await?;
        updated(&call, response).await
    }

    /// The same, tried once: for a report whose sender has to know before every try that the job is still its own.
    ///
    /// # Errors
    /// As [`Self::update_job`], and when the server is busy.
    pub async fn update_job_once(
        &self,
        id: JobId,
        token: &Secret,
        body: &UpdateJob,
    ) -> Result<(UpdateOutcome, Hints), ClientError> {
        let call = Call::new("PUT", &update_job::path(id));
        let response = self.send_once(&call, self.update(&call, token, body)).await?;
        updated(&call, response).await
    }

    fn update(&self, call: &Call, token: &Secret, body: &UpdateJob) -> reqwest::RequestBuilder {
        let request = self.http.put(call.url(&self.base)).timeout(transport::CALL);
        request.header(headers::JOB_TOKEN, token.expose()).json(body)
    }

    /// Appends to the trace; tried once.
    ///
    /// # Errors
    /// When the server could not be asked, or answered something it should not; the bytes may have counted all the
    /// same, which the answer to the next patch tells.
    pub async fn patch_trace(&self, id: JobId, token: &Secret, patch: Patch) -> Result<(PatchOutcome, Hints), ClientError> {
        let call = Call::new("PATCH", &trace::path(id, patch.debug_trace));
        let request = self
            .http
            .patch(call.url(&self.base))
            .timeout(transport::CALL)
            .header(headers::JOB_TOKEN, token.expose())
            .header(headers::CONTENT_RANGE, trace::content_range(patch.start, patch.bytes.len()))
            .header("Content-Type", "text/plain")
            .body(patch.bytes);
        let response = self.send_once(&call, request).await?;
        let hints = transport::hints(&response);
        let outcome = match response.status().as_u16() {
            200 | 202 => PatchOutcome::Accepted,
            416 => match transport::header(&response, headers::RANGE).and_then(trace::parse_range) {
                Some(at) => PatchOutcome::Resync(at),
                None => return Err(transport::unexpected(&call, response).await),
            },
            404 => PatchOutcome::Gone,
            403 => PatchOutcome::Forbidden,
            _ => return Err(transport::unexpected(&call, response).await),
        };
        Ok((outcome, hints))
    }

    fn post(&self, call: &Call) -> reqwest::RequestBuilder {
        self.http.post(call.url(&self.base)).timeout(transport::LONG_CALL).header("Accept", "application/json")
    }
}

async fn updated(call: &Call, response: reqwest::Response) -> Result<(UpdateOutcome, Hints), ClientError> {
    let hints = transport::hints(&response);
    let outcome = match response.status().as_u16() {
        200 => UpdateOutcome::Accepted,
        202 => UpdateOutcome::StillChecking,
        412 => UpdateOutcome::TraceMismatch,
        403 | 404 => UpdateOutcome::Gone,
        _ => return Err(transport::unexpected(call, response).await),
    };
    Ok((outcome, hints))
}

fn base(config: &ClientConfig) -> Result<String, ClientError> {
    let address = config.url.trim_end_matches('/');
    let address = address.strip_suffix("/ci").unwrap_or(address);
    if !address.starts_with("http://") && !address.starts_with("https://") {
        return Err(ClientError::Address(config.url.clone()));
    }
    Ok(format!("{address}/api/v4"))
}

/// Method and path of a call, for errors; never a token.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: &'static str,
    path: String,
}

impl Call {
    fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned() }
    }

    fn url(&self, base: &str) -> String {
        format!("{base}/{}", self.path)
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn transport(&self, source: reqwest::Error) -> ClientError {
        if source.is_decode() {
            return ClientError::Unreadable { call: self.name() };
        }
        self.lost(source.without_url())
    }

    fn lost(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Transport { call: self.name(), source: source.into() }
    }
}
