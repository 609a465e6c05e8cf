//! What a kubelet serves for its pods, as a trait: the server knows no containers.

use crate::ApiError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Which container.
    pub container: String,
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Put a time before each line.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
}

/// A log as it comes.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What runs the pods.
pub trait PodBackend: Send + Sync + 'static {
    /// Opens the log of a container.
    fn logs(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>>;
}

/// A server without a kubelet: pods stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct NoBackend;

impl PodBackend for NoBackend {
    fn logs(&self, pod: PodRef, _options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move { Err(ApiError::bad_request(format!("pod {} runs on no node", pod.name))) })
    }
}
