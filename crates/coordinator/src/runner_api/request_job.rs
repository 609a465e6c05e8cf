//! `POST jobs/request`: hands the job that has waited longest to a runner, or holds the request until there is one.
//!
//! A runner that can confirm gets the job on trial: it counts as waiting until `PUT state=running`. Which job is taken
//! and that it is taken is one transaction, so two runners never get the same one.

use super::{Headers, Refusal, Shared, blocking, json, text};
use crate::Error;
use crate::engine::Inner;
use crate::pipelines::payload::{self, Runner};
use crate::store::rows;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gitlab_api::{JobRequest, JobResponse, headers};
use rusqlite::OptionalExtension;
use std::sync::Arc;

pub async fn handle(State(inner): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let mut request: JobRequest = json(&body)?;
    let header = text(&headers, headers::RUNNER_TOKEN);
    if !header.is_empty() {
        header.clone_into(&mut request.token);
    }
    let request = Arc::new(request);
    let mut queue = inner.queue.subscribe();
    let deadline = tokio::time::Instant::now() + inner.settings.long_poll;
    loop {
        // Seen before the look, so that a job that comes in between wakes us.
        let version = { format!("{}-{}", inner.epoch, *queue.borrow_and_update()) };
        let taken = {
            let (inner, request) = (inner.clone(), request.clone());
            blocking(move || take(&inner, &request)).await?
        };
        if let Some(job) = taken {
            return Ok((StatusCode::CREATED, axum::Json(job)).into_response());
        }
        let is_news = request.last_update != version && !request.last_update.starts_with(&inner.epoch);
        let waited = !is_news && matches!(tokio::time::timeout_at(deadline, queue.changed()).await, Ok(Ok(())));
        if !waited {
            let version: Headers = [(headers::LAST_UPDATE, version)].into_iter().collect();
            return Ok((StatusCode::NO_CONTENT, version, ()).into_response());
        }
    }
}

/// The runner with this token.
pub fn runner_of(inner: &Inner, token: &str) -> Result<Runner, Refusal> {
    let found = inner.read(|db| {
        let read = |row: &rusqlite::Row<'_>| Ok(Runner { id: row.get(0)?, description: row.get(1)? });
        db.prepare_cached("SELECT id, description FROM runners WHERE token = ?1")
            .and_then(|mut statement| statement.query_row([token], read).optional())
            .map_err(Error::store("read a runner"))
    })?;
    found.ok_or_else(Refusal::forbidden)
}

fn take(inner: &Inner, request: &JobRequest) -> Result<Option<JobResponse>, Refusal> {
    let runner = runner_of(inner, &request.token)?;
    // A look without a transaction first: most requests find nothing.
    if inner.read(rows::next_pending)?.is_none() {
        return Ok(None);
    }
    if inner.url().is_empty() {
        // Jobs would not find us.
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "503 Service Unavailable"));
    }
    let taken = inner.write(|writer| {
        let Some(job) = rows::next_pending(writer.db())? else { return Ok(None) };
        let now = crate::engine::now();
        let made = payload::make(writer.db(), &job, (&runner, &request.info), (&inner.url(), now))?;
        let features = &request.info.features;
        writer.hand_out(&job, features.cancel_gracefully)?;
        if !features.two_phase_job_commit {
            writer.run(&job)?;
        }
        Ok(Some(made))
    })?;
    Ok(taken)
}
