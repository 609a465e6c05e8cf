//! The runner API, one file per endpoint; what all of them share stands here.
//!
//! Statuses and headers are GitLab's (parity inventory of the runner API), so that GitLab's own runner could be the
//! client. Everything that touches the disk runs on blocking threads.

mod artifacts;
mod multipart;
mod patch_trace;
mod request_job;
mod update_job;
mod verify;

use crate::Error;
use crate::engine::Inner;
use crate::status::JobStatus;
use crate::store::rows::{self, JobRow};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post, put};
use gitlab_api::headers;
use std::sync::Arc;

/// Longest JSON body.
const MOST_JSON: usize = 256 * 1024;

pub type Shared = Arc<Inner>;

/// The routes.
pub fn router(inner: Shared) -> Router {
    Router::new()
        .route("/api/v4/jobs/request", post(request_job::handle))
        .layer(DefaultBodyLimit::max(MOST_JSON))
        .merge(short(inner.clone()))
        .merge(
            // Read as a stream with a limit of its own.
            Router::new().route("/api/v4/jobs/{id}/artifacts", post(artifacts::upload).get(artifacts::download)),
        )
        .with_state(inner)
}

/// Calls that nothing holds up but a client that stands still in the middle of its body.
fn short(inner: Shared) -> Router<Shared> {
    let trace = Router::new()
        .route("/api/v4/jobs/{id}/trace", patch(patch_trace::handle))
        .layer(DefaultBodyLimit::max(patch_trace::MOST));
    let limit =
        axum::middleware::from_fn_with_state(inner, |State(inner): State<Shared>, request: Request, next: Next| async move {
            let answer = tokio::time::timeout(inner.settings.idle, next.run(request)).await;
            answer.unwrap_or_else(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "408 Request Timeout").into_response())
        });
    Router::new()
        .route("/api/v4/jobs/{id}", put(update_job::handle))
        .route("/api/v4/runners/verify", post(verify::handle))
        .layer(DefaultBodyLimit::max(MOST_JSON))
        .merge(trace)
        .layer(limit)
}

/// An answer that is not what the runner hoped for.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: &'static str,
    job: Option<JobStatus>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message, job: None }
    }

    /// The token is not known, or not for this.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "403 Forbidden")
    }

    /// There is no such thing.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "404 Not Found")
    }

    /// The job is not with a runner any more, and this is its status.
    pub fn not_running(status: JobStatus) -> Self {
        Self { status: StatusCode::FORBIDDEN, message: "403 Forbidden - Job is not running", job: Some(status) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "failed to answer a runner");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = axum::Json(serde_json::json!({ "message": self.message }));
        let status = self.job.map(|status| [(headers::JOB_STATUS, status.as_str())]);
        (self.status, status.into_iter().flatten().collect::<Headers>(), body).into_response()
    }
}

/// A few headers with values of ours.
pub struct Headers(HeaderMap);

impl<V: AsRef<str>> FromIterator<(&'static str, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'static str, V)>>(list: I) -> Self {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            // Names and values are ours: words and numbers.
            if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.as_ref().parse()) {
                map.insert(name, value);
            }
        }
        Self(map)
    }
}

impl axum::response::IntoResponseParts for Headers {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: axum::response::ResponseParts) -> Result<axum::response::ResponseParts, Self::Error> {
        parts.headers_mut().extend(self.0);
        Ok(parts)
    }
}

/// What every answer about a job carries.
pub fn hints(inner: &Inner, status: JobStatus) -> Headers {
    let seconds = inner.settings.trace_interval.as_secs().max(1);
    let status = if status == JobStatus::Pending { JobStatus::Running } else { status };
    [(headers::JOB_STATUS, status.as_str().to_owned()), (headers::TRACE_UPDATE_INTERVAL, seconds.to_string())]
        .into_iter()
        .collect()
}

/// Runs what touches the disk on a blocking thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "failed to answer a runner");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"))
        }
    }
}

/// The job `id`, for its own token only.
pub fn authenticate(inner: &Inner, id: u64, token: &str) -> Result<JobRow, Refusal> {
    let job = inner.read(|db| rows::job(db, id))?.ok_or_else(Refusal::not_found)?;
    if token.is_empty() || job.token != token { Err(Refusal::forbidden()) } else { Ok(job) }
}

/// A header as text.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The body as JSON, whatever its content type.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - body is not valid JSON"))
}
