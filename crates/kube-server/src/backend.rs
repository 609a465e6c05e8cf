//! What a kubelet serves for its pods, as a trait: the server knows no containers.

use crate::ApiError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::fmt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

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
    /// The log of the container's previous run; a backend that never restarts containers refuses it.
    pub previous: bool,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Only lines from this time on.
    pub since_time: Option<jiff::Timestamp>,
}

/// A log as it comes.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What to run in a container, and which of its streams the client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Which container.
    pub container: String,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// The client sends input.
    pub stdin: bool,
    /// The client reads the output.
    pub stdout: bool,
    /// The client reads the errors; never together with `tty`, where both are one stream.
    pub stderr: bool,
    /// Give the program a terminal.
    pub tty: bool,
}

/// A program that runs in a container. Dropping the session ends the program.
pub struct ExecSession {
    /// Its input; dropping it is the end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output, with a terminal the only one.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Sizes of the terminal: columns, rows.
    pub resize: Option<mpsc::UnboundedSender<(u16, u16)>>,
    /// Its exit code, 128 + signal for a signal. It may resolve before the streams are at their end.
    pub exit: BoxFuture<'static, i32>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ExecSession").field("tty", &self.resize.is_some()).finish_non_exhaustive()
    }
}

/// What runs the pods.
pub trait PodBackend: Send + Sync + 'static {
    /// Opens the log of a container.
    fn logs(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>>;

    /// Starts a program in a running container.
    fn exec(&self, pod: PodRef, options: ExecOptions) -> BoxFuture<'_, Result<ExecSession, ApiError>>;
}

/// A server without a kubelet: pods stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct NoBackend;

impl PodBackend for NoBackend {
    fn logs(&self, pod: PodRef, _options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move { Err(ApiError::bad_request(format!("pod {} runs on no node", pod.name))) })
    }

    fn exec(&self, pod: PodRef, _options: ExecOptions) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async move { Err(ApiError::bad_request(format!("pod {} runs on no node", pod.name))) })
    }
}
