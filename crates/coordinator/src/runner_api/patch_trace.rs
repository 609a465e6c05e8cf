//! `PATCH jobs/:id/trace`: appends to the trace, at its end only.

use super::{Headers, Refusal, Shared, authenticate, blocking, hints, text};
use crate::Event;
use crate::engine::{Ended, Inner, now};
use crate::status::JobStatus;
use crate::traces::{self, Appended};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gitlab_api::{headers, trace};

/// Longest patch; runners send at most 1 MiB.
pub const MOST: usize = 4 * 1024 * 1024;
/// A sign of life is written down this often at most (ms): a trace comes in every second.
const TOUCH: i64 = 10_000;
/// GitLab's word for a job whose trace is too long.
const TOO_LONG: &str = "trace_size_exceeded";

pub async fn handle(
    State(inner): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let token = text(&headers, headers::JOB_TOKEN).to_owned();
    let range = trace::parse_content_range(text(&headers, headers::CONTENT_RANGE));
    blocking(move || {
        let bad = || Refusal::new(StatusCode::BAD_REQUEST, "400 Missing header Content-Range, or one that does not fit the body");
        let fits = range.filter(|(start, end)| (end - start).checked_add(1) == Some(body.len() as u64));
        // Who may not write is told so before what was wrong with the writing.
        authenticate(&inner, id, &token)?;
        let (start, _) = fits.ok_or_else(bad)?;
        append(&inner, (id, &token), start, &body)
    })
    .await
}

fn append(inner: &Inner, (id, token): (u64, &str), start: u64, bytes: &[u8]) -> Result<Response, Refusal> {
    let file = inner.traces.get(id)?;
    let mut file = traces::lock(&file);
    // Looked up under the trace's lock: a final update holds it too.
    let job = authenticate(inner, id, token)?;
    if !job.is_held() {
        inner.traces.close(id);
        return Err(Refusal::not_running(job.status));
    }
    let range = |length: u64| [(headers::RANGE, format!("0-{length}"))].into_iter().collect::<Headers>();
    match file.append(start, bytes, inner.settings.trace_limit)? {
        Appended::Length(length) => {
            if job.touched_at.is_none_or(|at| now() - at > TOUCH) {
                inner.write(|writer| writer.touch(id))?;
            }
            let _ = inner.events.send(Event::Trace { job: id, offset: length });
            Ok((StatusCode::ACCEPTED, hints(inner, job.status), range(length), axum::Json(202)).into_response())
        }
        Appended::Elsewhere(length) => {
            let words = axum::Json(serde_json::json!({ "message": "416 Range Not Satisfiable" }));
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, hints(inner, job.status), range(length), words).into_response())
        }
        Appended::TooLong => {
            let ended = Ended { failure_reason: Some(TOO_LONG.to_owned()), ..Ended::default() };
            inner.write(|writer| writer.end(&job, JobStatus::Failed, &ended))?;
            Err(Refusal::not_running(JobStatus::Failed))
        }
    }
}
