//! The streams of a program over one WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! The first byte of each message names the channel. Nothing is buffered beyond a few messages in each direction: a
//! client that does not read stops the program's output, and a program that does not read stops the client. A client
//! that goes away ends the session, which is dropped and with it the program.

use crate::{ApiError, ExecSession};
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Bytes read from the program at once.
const CHUNK: usize = 32 * 1024;
/// Messages that wait in each direction.
const QUEUE: usize = 8;
/// How often a quiet client is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// A client that says nothing for so long, pings included, is gone.
const SILENCE: Duration = Duration::from_secs(600);
/// How long output may be missing after the end of a program, before it counts as complete; a child in the
/// background may hold the streams open for ever.
const QUIET: Duration = Duration::from_secs(2);
/// How long a client has to take the last message and close.
const FAREWELL: Duration = Duration::from_secs(10);

/// The version of the channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// No half-close.
    V4,
    /// With the close channel.
    V5,
}

impl Protocol {
    /// What is served, best first.
    pub const NAMES: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

    /// By the name that was negotiated.
    pub fn find(name: &str) -> Option<Self> {
        match name {
            "v5.channel.k8s.io" => Some(Self::V5),
            "v4.channel.k8s.io" => Some(Self::V4),
            _ => None,
        }
    }
}

/// The streams that the client asked for. Unwanted output is read and dropped, unwanted input is at its end.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Carries the streams until the program has ended and all is told, or the client is gone.
pub async fn run(socket: WebSocket, session: ExecSession, protocol: Protocol, wanted: Wanted) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let (mut sink, mut source) = socket.split();
    let (frames, mut outbound) = mpsc::channel(QUEUE);
    let (input, pending) = mpsc::channel(QUEUE);
    let (exited, has_exited) = watch::channel(false);
    let streams = async {
        let output = pump(stdout, STDOUT, wanted.stdout.then(|| frames.clone()), has_exited.clone());
        let errors = pump(stderr, STDERR, wanted.stderr.then(|| frames.clone()), has_exited);
        let code = async {
            let code = exit.await;
            // The pumps may have ended before.
            let _ = exited.send(true);
            code
        };
        let ((), (), code) = tokio::join!(output, errors, code);
        // The writer is gone only with the client, and then nobody wants to know.
        let _ = frames.send(channel(ERROR, exit_status(code).to_string().as_bytes())).await;
        drop(frames);
        std::future::pending::<()>().await;
    };
    let client = read(&mut source, Inbound { input: Some(input), resize, protocol });
    let written = write(&mut sink, &mut outbound);
    let told_all = tokio::select! {
        () = streams => false,
        () = feed(stdin.filter(|_| wanted.stdin), pending) => false,
        () = client => false,
        told_all = written => told_all,
    };
    if told_all {
        farewell(&mut sink, &mut source).await;
    }
}

/// Tells that the program could not be started.
pub async fn refuse(mut socket: WebSocket, error: &ApiError) {
    let told = socket.send(channel(ERROR, error.to_status().to_string().as_bytes())).await;
    if told.is_ok() {
        let (mut sink, mut source) = socket.split();
        farewell(&mut sink, &mut source).await;
    }
}

fn channel(number: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(number);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

/// The `Status` that clients read the exit code from.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// Reads one stream of the program to its end.
async fn pump(
    stream: Option<Box<dyn AsyncRead + Send + Unpin>>,
    number: u8,
    frames: Option<mpsc::Sender<Message>>,
    mut exited: watch::Receiver<bool>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = quiet_after_exit(&mut exited) => return,
        };
        // A terminal whose program has ended answers with an error, which is its end of file.
        let Ok(length @ 1..) = read else { return };
        let Some(frames) = &frames else { continue };
        if frames.send(channel(number, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

async fn quiet_after_exit(exited: &mut watch::Receiver<bool>) {
    if exited.wait_for(|exited| *exited).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(QUIET).await;
}

/// Hands input to the program; the end of the queue is its end of file.
async fn feed(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>, mut pending: mpsc::Receiver<Bytes>) {
    let mut stdin = stdin;
    while let Some(bytes) = pending.recv().await {
        let Some(open) = &mut stdin else { continue };
        let written = async {
            open.write_all(&bytes).await?;
            open.flush().await
        };
        // The program no longer reads; what still comes is for nobody.
        if written.await.is_err() {
            stdin = None;
        }
    }
    if let Some(mut open) = stdin {
        // It is closed by the drop as well.
        let _ = open.shutdown().await;
    }
    std::future::pending::<()>().await;
}

struct Inbound {
    input: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::UnboundedSender<(u16, u16)>>,
    protocol: Protocol,
}

/// Reads what the client sends; returns when it is gone.
async fn read(source: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin), mut inbound: Inbound) {
    loop {
        let message = match tokio::time::timeout(SILENCE, source.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) | Err(_) => return,
        };
        match message {
            Message::Close(_) => return,
            Message::Binary(bytes) => inbound.take(bytes).await,
            Message::Text(text) => inbound.take(Bytes::from(text)).await,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

impl Inbound {
    async fn take(&mut self, bytes: Bytes) {
        match bytes.first() {
            Some(&STDIN) if bytes.len() > 1 => {
                if let Some(input) = &self.input {
                    // The feeder lives as long as we do.
                    let _ = input.send(bytes.slice(1..)).await;
                }
            }
            Some(&RESIZE) => {
                if let (Some(resize), Some(size)) = (&self.resize, terminal_size(&bytes[1..])) {
                    // The terminal may be gone already.
                    let _ = resize.send(size);
                }
            }
            Some(&CLOSE) if self.protocol == Protocol::V5 && bytes.get(1) == Some(&STDIN) => self.input = None,
            // Unknown channels are ignored, as the real server does.
            _ => {}
        }
    }
}

fn terminal_size(bytes: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| size[name].as_u64().and_then(|number| u16::try_from(number).ok());
    Some((side("Width")?, side("Height")?)).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// Writes what the program says; true when all of it is written.
async fn write(sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin), outbound: &mut mpsc::Receiver<Message>) -> bool {
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = outbound.recv() => message,
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(message) = message else { return true };
        if sink.send(message).await.is_err() {
            return false;
        }
    }
}

/// Closes in order: without a code, kubectl takes the end for a failure.
async fn farewell(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    source: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) {
    let goodbye = async {
        let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
        if sink.send(close).await.is_ok() {
            while let Some(Ok(_)) = source.next().await {}
        }
    };
    within(FAREWELL, goodbye).await;
}

async fn within(limit: Duration, future: impl Future<Output = ()>) {
    // A client that does not close in time is left.
    let _ = tokio::time::timeout(limit, future).await;
}

#[cfg(test)]
mod tests {
    use super::{exit_status, terminal_size};

    #[test]
    fn an_exit_code_is_the_cause_of_a_failure() {
        assert_eq!(exit_status(0)["status"], "Success");
        let failed = exit_status(137);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0]["message"], "137");
    }

    #[test]
    fn only_a_real_size_is_a_size() {
        assert_eq!(terminal_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        for nonsense in ["", "{}", r#"{"Width":0,"Height":1}"#, r#"{"Width":70000,"Height":1}"#, "[1]"] {
            assert_eq!(terminal_size(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
