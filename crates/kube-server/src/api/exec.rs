//! `exec`: from a request to a program whose streams travel over a WebSocket.
//!
//! The pod and the question are checked before the connection is upgraded, as the real server does; that a program
//! cannot be started is told over the upgraded connection, because a client that is refused the upgrade tries again
//! with SPDY and shows that failure instead.

use super::channels::{self, Protocol};
use super::path::{Query, Target};
use super::{Server, pods};
use crate::{ApiError, ExecOptions};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::http::Method;
use axum::response::Response;

/// Largest message from a client; kubectl sends input in pieces of 32 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Most arguments of a command and most bytes of all of them, well below what the kernel takes.
const MAX_ARGUMENTS: usize = 10_000;
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;

/// Whether a subresource is a stream in both directions, so that its request must not be read as a body.
pub fn is_stream(target: &Target) -> bool {
    matches!(target.subresource.as_deref(), Some("exec" | "attach" | "portforward"))
}

/// Answers `pods/NAME/{exec,attach,portforward}`.
pub async fn answer(server: Server, target: Target, request: Request) -> Result<Response, ApiError> {
    match target.subresource.as_deref() {
        Some("exec") => {}
        Some("attach") => {
            return Err(ApiError::not_implemented("attach is not served by this node; use logs -f to read and exec to write"));
        }
        _ => return Err(ApiError::not_implemented("port-forward is not served by this node; use exec to reach the port")),
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(ApiError::method_not_allowed("exec is asked for with GET or POST"));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (pod, object) = pods::find(&server.store, &target)?;
    let options = options(&query, pods::container(&object, query.get("container"))?)?;
    let (mut parts, _body) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        ApiError::bad_request(
            "exec is served over WebSocket only, not SPDY: use kubectl 1.31 or newer (1.29 and 1.30 with \
             KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)",
        )
    })?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).protocols(Protocol::NAMES);
    let protocol = upgrade.selected_protocol().and_then(|name| name.to_str().ok()).and_then(Protocol::find);
    let protocol = protocol.ok_or_else(|| {
        ApiError::bad_request(format!("the client must offer one of these WebSocket protocols: {}", Protocol::NAMES.join(", ")))
    })?;
    tracing::info!(namespace = pod.namespace, pod = pod.name, container = options.container, "exec");
    Ok(upgrade.on_upgrade(move |socket| async move {
        let wanted = channels::Wanted { stdin: options.stdin, stdout: options.stdout, stderr: options.stderr };
        match server.backend.exec(pod, options).await {
            Ok(session) => channels::run(socket, session, protocol, wanted).await,
            Err(error) => channels::refuse(socket, &error).await,
        }
    }))
}

fn options(query: &Query, container: String) -> Result<ExecOptions, ApiError> {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.first().is_none_or(String::is_empty) {
        return Err(ApiError::bad_request("you must specify a command to run"));
    }
    if command.len() > MAX_ARGUMENTS || command.iter().map(String::len).sum::<usize>() > MAX_ARGUMENT_BYTES {
        return Err(ApiError::too_large(format!("the command is longer than {MAX_ARGUMENT_BYTES} bytes")));
    }
    let tty = query.is_true("tty");
    let (stdin, stdout) = (query.is_true("stdin"), query.is_true("stdout"));
    // A terminal has one stream of output; the real server drops the wish, too.
    let stderr = query.is_true("stderr") && !tty;
    if !(stdin || stdout || stderr) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(ExecOptions { container, command, stdin, stdout, stderr, tty })
}
