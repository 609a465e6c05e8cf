//! What the API server asks a kubelet for: logs, and commands in running containers.

use crate::clock;
use crate::kubelet::Kubelet;
use crate::logs::{self, reader::Selection, reader::read};
use crate::pod::PodHandle;
use crate::status::State;
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube_server::backend::LogStream;
use kube_server::{ApiError, ExecOptions, ExecSession, LogOptions, PodBackend, PodRef};
use std::sync::Arc;

/// The node, as the API server sees it.
pub struct Backend(pub Arc<Kubelet>);

impl Backend {
    fn pod(&self, pod: &PodRef) -> Result<Arc<PodHandle>, ApiError> {
        let found = self.0.pod(&pod.uid);
        found.ok_or_else(|| ApiError::bad_request(format!("pod {} does not have a host assigned", pod.name)))
    }

    fn open_log(&self, pod: &PodRef, options: &LogOptions) -> Result<LogStream, ApiError> {
        let handle = self.pod(pod)?;
        let container = &options.container;
        let Some(log) = handle.log(container, options.previous) else {
            return without_log(pod, options, handle.record().state(container));
        };
        let selection = Selection {
            follow: options.follow,
            tail_lines: options.tail_lines,
            timestamps: options.timestamps,
            limit_bytes: options.limit_bytes,
            since: since(options),
        };
        Ok(read(log, selection))
    }

    async fn open_exec(&self, pod: &PodRef, options: ExecOptions) -> Result<ExecSession, ApiError> {
        let handle = self.pod(pod)?;
        let running = handle.running(&options.container);
        let running = running.ok_or_else(|| ApiError::bad_request(format!("container not found (\"{}\")", options.container)))?;
        let mut env = Vec::new();
        if options.tty && !running.env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let spec = sandbox::ExecSpec { args: options.command, env, cwd: None, tty: options.tty, user: None };
        let started = running.container.exec(spec).await;
        let session = started.map_err(|error| ApiError::internal(crate::pod::chain(&error)))?;
        Ok(ExecSession {
            stdin: session.stdin.filter(|_| options.stdin),
            stdout: options.stdout.then_some(session.stdout),
            stderr: session.stderr.filter(|_| options.stderr && !options.tty),
            resize: session.resize,
            exit: session.exit,
        })
    }
}

/// The answer where nothing was ever written: a container that could not be started has an empty log, as everywhere.
fn without_log(pod: &PodRef, options: &LogOptions, state: State) -> Result<LogStream, ApiError> {
    let (container, pod) = (&options.container, &pod.name);
    let why = match state {
        _ if options.previous => {
            let sentence = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
            return Err(ApiError::bad_request(sentence));
        }
        State::Waiting { reason, message } if message.is_empty() => reason.to_owned(),
        State::Waiting { reason, message } => format!("{reason}: {message}"),
        State::Running { .. } | State::Terminated(_) => return Ok(futures::stream::empty().boxed()),
    };
    Err(ApiError::bad_request(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}")))
}

/// The time a log is wanted from, as it stands in the log.
fn since(options: &LogOptions) -> Option<String> {
    let seconds = options.since_seconds.map(|seconds| {
        let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        logs::time(clock::now().checked_sub(span).unwrap_or(Timestamp::MIN))
    });
    seconds.or_else(|| options.since_time.map(|time| time.strftime(logs::TIME_FORMAT).to_string()))
}

impl PodBackend for Backend {
    fn logs(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move { self.open_log(&pod, &options) })
    }

    fn exec(&self, pod: PodRef, options: ExecOptions) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        Box::pin(async move { self.open_exec(&pod, options).await })
    }
}
