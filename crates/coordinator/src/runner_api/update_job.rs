//! `PUT jobs/:id`: confirms a job, keeps it alive, ends it.
//!
//! An end is accepted once the trace that the runner says it wrote is the trace that stands here; until then 412 asks
//! for all of it again. The same end told twice is accepted twice, because its first answer may have been lost.

use super::{Refusal, Shared, authenticate, blocking, hints, json, text};
use crate::Error;
use crate::engine::{Ended, Inner};
use crate::status::JobStatus;
use crate::store::rows::{self, JobRow};
use crate::traces;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gitlab_api::update_job::checksum_text;
use gitlab_api::{UpdateJob, headers};
use job::{FailureReason, JobState};

pub async fn handle(
    State(inner): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let update: UpdateJob = json(&body)?;
    let header = text(&headers, headers::JOB_TOKEN);
    let token = if header.is_empty() { update.token.clone() } else { header.to_owned() };
    blocking(move || apply(&inner, id, &token, &update)).await
}

fn apply(inner: &Inner, id: u64, token: &str, update: &UpdateJob) -> Result<Response, Refusal> {
    let job = authenticate(inner, id, token)?;
    let state = JobState::parse(&update.state)
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - state does not have a valid value"))?;
    let accepted = |status| (hints(inner, status), axum::Json(200)).into_response();
    if !job.is_held() {
        let repeated =
            matches!((job.status, state), (JobStatus::Success, JobState::Success) | (JobStatus::Failed, JobState::Failed));
        return if repeated { Ok(accepted(job.status)) } else { Err(Refusal::not_running(job.status)) };
    }
    if state == JobState::Running {
        return confirm(inner, id, token).map(accepted);
    }
    // Held over the change, so that no byte comes in between the comparison and the end.
    let trace = inner.traces.get(id)?;
    let mut trace = traces::lock(&trace);
    if !matches(update, trace.facts()) {
        trace.allow_restart();
        return Ok((StatusCode::PRECONDITION_FAILED, hints(inner, job.status), axum::Json(412)).into_response());
    }
    let status = inner.write(|writer| {
        let Some(job) = current(writer.db(), id, token)? else { return Ok(None) };
        if job.status == JobStatus::Pending {
            writer.run(&job)?;
        }
        let status = match (job.status, state) {
            (JobStatus::Canceling, _) => JobStatus::Canceled,
            (_, JobState::Success) => JobStatus::Success,
            _ => JobStatus::Failed,
        };
        writer.end(&job, status, &ended(update, state))?;
        Ok(Some(status))
    })?;
    drop(trace);
    inner.traces.close(id);
    status.map(accepted).ok_or_else(Refusal::forbidden)
}

/// The job inside a change, if it is still with the runner that has this token.
fn current(db: &rusqlite::Connection, id: u64, token: &str) -> Result<Option<JobRow>, Error> {
    Ok(rows::job(db, id)?.filter(|job| job.token == token && job.is_held()))
}

fn confirm(inner: &Inner, id: u64, token: &str) -> Result<JobStatus, Refusal> {
    let status = inner.write(|writer| {
        let Some(job) = current(writer.db(), id, token)? else { return Ok(None) };
        if job.status == JobStatus::Pending {
            writer.run(&job)?;
            return Ok(Some(JobStatus::Running));
        }
        writer.touch(id)?;
        Ok(Some(job.status))
    })?;
    status.ok_or_else(Refusal::forbidden)
}

/// Whether the runner's facts of the trace are ours; what it does not say is not compared.
fn matches(update: &UpdateJob, (length, crc32): (u64, u32)) -> bool {
    let Some(output) = &update.output else { return true };
    let checksum = output.checksum.as_ref().or(update.checksum.as_ref());
    output.bytesize == length && checksum.is_none_or(|told| *told == checksum_text(crc32))
}

fn ended(update: &UpdateJob, state: JobState) -> Ended {
    let told = update.failure_reason.as_deref().unwrap_or_default();
    let reason = match FailureReason::parse(told) {
        // No reason is a script failure, an unknown word an unknown failure, as in GitLab.
        None if told.is_empty() => FailureReason::ScriptFailure,
        None => FailureReason::UnknownFailure,
        Some(reason) => reason,
    };
    let output = update.output.as_ref();
    Ended {
        failure_reason: (state == JobState::Failed).then(|| reason.as_str().to_owned()),
        exit_code: update.exit_code,
        checksum: output.and_then(|output| output.checksum.clone()).map(|text| text.chars().take(64).collect()),
        bytes: output.map(|output| output.bytesize),
    }
}
