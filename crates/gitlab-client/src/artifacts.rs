//! Archives up and down, streamed: an archive of any size takes a buffer's worth of memory.

use crate::{Call, Client, ClientError, transport};
use bytes::Bytes;
use futures::StreamExt;
use gitlab_api::{artifacts, headers};
use job::{JobId, Secret};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// One try of a transfer ends after this, however slow the peer is (row "transport: timeouts": 60 min a request).
const TRANSFER: Duration = Duration::from_secs(3600);
const UPLOAD_TRIES: u32 = 3;
const UPLOAD_TRIES_BUSY: u32 = 6;
const DOWNLOAD_TRIES: u32 = 3;
/// A transfer that is sent elsewhere more often than this goes in circles.
const MOST_MOVES: u32 = 5;

/// Why an archive did not go over.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// 413.
    #[error("the archive is larger than GitLab allows")]
    TooLarge,
    /// 401 or 403.
    #[error("the transfer was refused (status {status}){message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server said, with a leading blank and parentheses, or empty.
        message: String,
    },
    /// 404.
    #[error("GitLab has no such archive")]
    NotFound,
    /// The file on our side.
    #[error("failed to read or write {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ArtifactError {
    /// Whether another try would end the same way.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::TooLarge | Self::Refused { .. } | Self::NotFound | Self::File { .. })
    }
}

impl Client {
    /// Bytes of archives that went either way so far, those of failed tries among them.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Uploads the file at `archive` under the name `filename`; 3 tries, 6 while the server is busy (503).
    ///
    /// # Errors
    /// What the last try ended with.
    pub async fn upload_artifact(
        &self,
        job: (JobId, &Secret),
        query: &artifacts::UploadQuery,
        filename: &str,
        archive: &Path,
    ) -> Result<(), ArtifactError> {
        let (mut tries, mut moves, mut base) = (1, 0, self.base.clone());
        loop {
            let error = match self.upload_once(&base, job, query, (filename, archive)).await {
                Ok(None) => return Ok(()),
                Ok(Some(elsewhere)) if moves < MOST_MOVES => {
                    (moves, base) = (moves + 1, elsewhere);
                    continue;
                }
                Ok(Some(_)) => {
                    return Err(ArtifactError::Refused { status: 307, message: " (sent from place to place)".to_owned() });
                }
                Err(error) => error,
            };
            let busy = matches!(&error, ArtifactError::Client(ClientError::Status { status: 503, .. }));
            if error.is_final() || tries >= if busy { UPLOAD_TRIES_BUSY } else { UPLOAD_TRIES } {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_secs(u64::from(tries).min(5))).await;
            tries += 1;
        }
    }

    /// `Some` when it is wanted elsewhere: a base of the same calls.
    async fn upload_once(
        &self,
        base: &str,
        (id, token): (JobId, &Secret),
        query: &artifacts::UploadQuery,
        (filename, archive): (&str, &Path),
    ) -> Result<Option<String>, ArtifactError> {
        let call = Call::new("POST", &artifacts::path(id));
        let on_file = |source| ArtifactError::File { path: archive.display().to_string(), source };
        let file = tokio::fs::File::open(archive).await.map_err(on_file)?;
        let length = file.metadata().await.map_err(on_file)?.len();
        let moved = self.moved.clone();
        let count = move |bytes: &std::io::Result<Bytes>| {
            let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            moved.fetch_add(length, Ordering::Relaxed);
        };
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024).inspect(count);
        let body = reqwest::Body::wrap_stream(stream);
        let part = reqwest::multipart::Part::stream_with_length(body, length)
            .file_name(filename.to_owned())
            .mime_str("application/octet-stream")
            .map_err(|source| call.transport(source))?;
        let form = reqwest::multipart::Form::new().part("file", part);
        let request = self.http.post(call.url(base)).timeout(TRANSFER).query(query).header(headers::JOB_TOKEN, token.expose());
        let response = self.send_once(&call, request.multipart(form)).await?;
        match response.status().as_u16() {
            200 | 201 => Ok(None),
            307 | 308 if transport::location(&response).is_some() => {
                Ok(transport::location(&response).map(|url| at_host(base, &url)))
            }
            413 => Err(ArtifactError::TooLarge),
            401 | 403 => Err(refused(&call, response).await),
            404 => Err(ArtifactError::NotFound),
            _ => Err(transport::unexpected(&call, response).await.into()),
        }
    }

    /// Downloads the archive of a job into the file `into`; 3 tries, of which the first may be sent to where the archive
    /// lies (`direct`).
    ///
    /// # Errors
    /// What the last try ended with.
    pub async fn download_artifact(&self, job: (JobId, &Secret), direct: bool, into: &Path) -> Result<(), ArtifactError> {
        let mut tries = 1;
        loop {
            match self.download_once(job, direct && tries == 1, into).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() || tries >= DOWNLOAD_TRIES => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            tries += 1;
        }
    }

    async fn download_once(&self, (id, token): (JobId, &Secret), direct: bool, into: &Path) -> Result<(), ArtifactError> {
        let call = Call::new("GET", &artifacts::path(id));
        let on_file = |source| ArtifactError::File { path: into.display().to_string(), source };
        let query: &[(&str, &str)] = if direct { &[("direct_download", "true")] } else { &[] };
        let request = self.http.get(call.url(&self.base)).timeout(TRANSFER).query(query);
        let mut response = self.send_once(&call, request.header(headers::JOB_TOKEN, token.expose())).await?;
        // To another host nothing of ours is carried: the address says all that is needed.
        for _ in 0..MOST_MOVES {
            let Some(place) = transport::location(&response).filter(|_| response.status().is_redirection()) else { break };
            response = self.send_once(&call, self.http.get(place).timeout(TRANSFER)).await?;
        }
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(refused(&call, response).await),
            404 => return Err(ArtifactError::NotFound),
            _ => return Err(transport::unexpected(&call, response).await.into()),
        }
        let mut file = tokio::fs::File::create(into).await.map_err(on_file)?;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| call.transport(source))?;
            self.moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            file.write_all(&chunk).await.map_err(on_file)?;
        }
        file.flush().await.map_err(on_file)
    }
}

async fn refused(call: &Call, response: reqwest::Response) -> ArtifactError {
    match transport::unexpected(call, response).await {
        ClientError::Status { status, message, .. } => ArtifactError::Refused { status, message },
        other => other.into(),
    }
}

/// The base of our calls at the host of another address.
fn at_host(base: &str, place: &reqwest::Url) -> String {
    let path = reqwest::Url::parse(base).map(|base| base.path().to_owned()).unwrap_or_default();
    format!("{}{}", place.origin().ascii_serialization(), path.trim_end_matches('/'))
}
