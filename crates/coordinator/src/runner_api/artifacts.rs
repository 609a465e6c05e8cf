//! `POST` and `GET jobs/:id/artifacts`: archives, streamed to and from the disk.
//!
//! Up: the job's own token while it runs. Down: the token of the job that left the archive, which later jobs get with
//! their payload, or the token of a running job of the same pipeline.

use super::multipart::{self, MultipartError, Upload};
use super::{Headers, Refusal, Shared, authenticate, blocking, text};
use crate::archives::{self, Received};
use crate::dotenv;
use crate::engine::Inner;
use crate::store::rows::{self, ArtifactRow};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gitlab_api::artifacts::UploadQuery;
use gitlab_api::headers;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Longest name, type or expiry that is kept.
const MOST_WORD: usize = 255;
const BUFFER: usize = 256 * 1024;

/// A file that goes when it is not kept.
struct Incoming(std::path::PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        // It is gone already when it was kept.
        let _ = std::fs::remove_file(&self.0);
    }
}

pub async fn upload(
    State(inner): State<Shared>,
    Path(id): Path<u64>,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let token = text(&headers, headers::JOB_TOKEN).to_owned();
    let (kind, format) = words(&query)?;
    let left = room(&inner, id, &token, &kind).await?;
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "413 Request Entity Too Large");
    let length: u64 = text(&headers, "Content-Length").parse().unwrap_or(0);
    if length > left.saturating_add(64 * 1024) {
        return Err(too_large());
    }
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - file is missing");
    let boundary = multipart::boundary(text(&headers, "Content-Type")).ok_or_else(bad)?;
    let permit = inner.uploads.clone().try_acquire_owned();
    let _permit = permit.map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "503 Service Unavailable"))?;
    let mut form = Upload::begin(body.into_data_stream(), &boundary, inner.settings.idle).await.map_err(broken)?;
    let incoming = Incoming(archives::incoming(&inner.directory).join(uuid::Uuid::new_v4().simple().to_string()));
    let on_file = |source| Refusal::from(crate::Error::File { path: incoming.0.display().to_string(), source });
    let file = tokio::fs::File::create(&incoming.0).await.map_err(on_file)?;
    let (mut file, mut digest, mut size) = (tokio::io::BufWriter::with_capacity(BUFFER, file), Sha256::new(), 0);
    while let Some(bytes) = form.next().await.map_err(broken)? {
        size += bytes.len() as u64;
        if size > left {
            return Err(too_large());
        }
        digest.update(&bytes);
        file.write_all(&bytes).await.map_err(on_file)?;
    }
    file.flush().await.map_err(on_file)?;
    let received = Received {
        kind,
        format,
        filename: file_name(&form.filename),
        expire_in: query.expire_in.chars().take(MOST_WORD).collect(),
        size,
        sha256: hex::encode(digest.finalize()),
    };
    blocking(move || {
        // It may have been cancelled while the archive came in.
        held(&inner, id, &token)?;
        let is_report = received.kind == dotenv::KIND;
        let report = is_report.then(|| dotenv::read(&incoming.0)).transpose();
        let report = report.map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, why))?;
        archives::keep(&inner, id, &incoming.0, &received)?;
        if let Some(report) = report {
            inner.write(|writer| dotenv::keep(writer.db(), id, &report))?;
        }
        Ok((StatusCode::CREATED, axum::Json(201)).into_response())
    })
    .await
}

/// How many bytes an archive of this type may have: what the others of the job leave of the limit.
async fn room(inner: &Shared, id: u64, token: &str, kind: &str) -> Result<u64, Refusal> {
    let (inner, token, kind) = (inner.clone(), token.to_owned(), kind.to_owned());
    blocking(move || {
        held(&inner, id, &token)?;
        let others = inner.read(|db| rows::artifact_bytes(db, id, &kind))?;
        Ok(inner.settings.artifact_limit.saturating_sub(others))
    })
    .await
}

fn held(inner: &Inner, id: u64, token: &str) -> Result<(), Refusal> {
    let job = authenticate(inner, id, token)?;
    if job.is_held() { Ok(()) } else { Err(Refusal::not_running(job.status)) }
}

/// Type and format, which become parts of a file name.
fn words(query: &UploadQuery) -> Result<(String, String), Refusal> {
    let word = |text: &str, default: &str| {
        let text = if text.is_empty() { default } else { text };
        let fits =
            text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        fits.then(|| text.to_owned())
            .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - unknown artifact type or format"))
    };
    Ok((word(&query.artifact_type, "archive")?, word(&query.artifact_format, "zip")?))
}

/// The last part of what the runner called it, without what would break a header.
fn file_name(told: &str) -> String {
    let last = told.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|one| !one.is_control() && *one != '"').take(MOST_WORD).collect();
    if clean.is_empty() { "artifacts.zip".to_owned() } else { clean }
}

fn broken(error: MultipartError) -> Refusal {
    match error {
        MultipartError::Stalled => Refusal::new(StatusCode::REQUEST_TIMEOUT, "408 Request Timeout"),
        MultipartError::Malformed => Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - file is missing"),
        MultipartError::Truncated => Refusal::new(StatusCode::BAD_REQUEST, "400 Bad Request - the body ended too early"),
    }
}

pub async fn download(State(inner): State<Shared>, Path(id): Path<u64>, headers: HeaderMap) -> Result<Response, Refusal> {
    let token = text(&headers, headers::JOB_TOKEN).to_owned();
    let shared = inner.clone();
    let artifact = blocking(move || find(&shared, id, &token)).await?;
    let path = archives::path(&inner.directory, id, &artifact.stored);
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(|source| Refusal::from(crate::Error::File { path: path.display().to_string(), source }))?;
    let facts: Headers = [
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Content-Length", artifact.size.to_string()),
        ("Content-Disposition", format!("attachment; filename=\"{}\"", artifact.filename)),
    ]
    .into_iter()
    .collect();
    Ok((facts, Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, BUFFER))).into_response())
}

fn find(inner: &Inner, id: u64, token: &str) -> Result<ArtifactRow, Refusal> {
    let (owner, bearer, artifact) = inner.read(|db| {
        let bearer = if token.is_empty() { None } else { rows::job_by_token(db, token)? };
        Ok((rows::job(db, id)?, bearer, rows::artifact(db, id, "archive")?))
    })?;
    let owner = owner.ok_or_else(Refusal::not_found)?;
    let bearer = bearer.ok_or_else(Refusal::forbidden)?;
    let allowed = bearer.id == id || (bearer.is_held() && bearer.pipeline == owner.pipeline);
    if !allowed {
        return Err(Refusal::forbidden());
    }
    artifact.ok_or_else(Refusal::not_found)
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn a_file_name_cannot_leave_its_place_or_its_header() {
        for (told, expected) in
            [("a.zip", "a.zip"), ("../../etc/passwd", "passwd"), ("a\"\r\nX: y.zip", "aX: y.zip"), ("x/", "artifacts.zip")]
        {
            assert_eq!(file_name(told), expected);
        }
    }
}
