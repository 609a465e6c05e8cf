//! The helper's side of the serve protocol: one connection per script.

use agent_contract::Usage;
use agent_contract::serve::{Answer, Frame, FrameError, Request, Start, VERSION};
use bytes::{Bytes, BytesMut};
use gitlab_api::log::Stream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How often a socket that is not there yet is tried.
const AGAIN: Duration = Duration::from_millis(20);

/// Why a script has no exit code.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The build container cannot run it.
    #[error("the build container cannot run the script: {0}")]
    Refused(String),
    /// The build container went away.
    #[error("the build container went away")]
    Lost(#[source] std::io::Error),
    /// It was there and does not listen any more.
    #[error("the build container does not listen any more, perhaps because the script removed its socket")]
    Gone,
    /// It does not speak our protocol.
    #[error("the build container does not speak the serve protocol")]
    Protocol(#[from] FrameError),
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Its exit code.
    pub code: i32,
    /// Whether the kernel killed something for lack of memory.
    pub oom_killed: bool,
    /// Whether the container was told to stop while it ran.
    pub terminated: bool,
}

/// What comes out of a running script.
#[derive(Debug)]
pub enum Event {
    /// Output, and of which kind.
    Output(Stream, Bytes),
    /// The end.
    Exited(Exited),
}

/// A connection to `serve`.
pub struct Build {
    stream: UnixStream,
    input: BytesMut,
}

impl Build {
    /// Connects, as soon as the build container listens; the caller bounds the time.
    pub async fn connect(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        loop {
            match UnixStream::connect(&socket).await {
                Ok(stream) => return Self { stream, input: BytesMut::new() },
                Err(_not_yet) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// User and group of the process that listens.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn owner(&self) -> std::io::Result<(u32, u32)> {
        let who = self.stream.peer_cred()?;
        Ok((who.uid(), who.gid()))
    }

    /// Starts a script.
    ///
    /// # Errors
    /// When the build container is gone.
    pub async fn start(&mut self, script: String, env: Vec<(String, String)>, shell: &str) -> Result<(), BuildError> {
        self.send(Request::Start(Start { version: VERSION, script, env, shell: shell.to_owned(), cwd: None })).await
    }

    /// Signals the script's process group; KILL follows after `kill_after`.
    ///
    /// # Errors
    /// When the build container is gone.
    pub async fn signal(&mut self, signal: i32, kill_after: Duration) -> Result<(), BuildError> {
        let kill_after_ms = Some(u64::try_from(kill_after.as_millis()).unwrap_or(u64::MAX));
        self.send(Request::Signal { signal, kill_after_ms }).await
    }

    /// Ends the build container with this exit code.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn leave(&mut self, exit_code: i32) -> Result<(), BuildError> {
        self.send(Request::Leave { exit_code }).await
    }

    /// What the build container has used so far.
    ///
    /// # Errors
    /// When it is gone, or does not know the question.
    pub async fn measure(&mut self) -> Result<Usage, BuildError> {
        self.send(Request::Measure).await?;
        loop {
            match Frame::decode(&mut self.input)? {
                Some(Frame::Answer(Answer::Used(usage))) => return Ok(usage),
                Some(_) => {}
                None => self.more().await?,
            }
        }
    }

    /// The next thing that happens; safe to drop and call again.
    ///
    /// # Errors
    /// When there is nothing more to expect.
    pub async fn next(&mut self) -> Result<Event, BuildError> {
        loop {
            match Frame::decode(&mut self.input)? {
                Some(Frame::Stdout(bytes)) => return Ok(Event::Output(Stream::WORK, bytes)),
                Some(Frame::Stderr(bytes)) => return Ok(Event::Output(Stream::WORK_ERRORS, bytes)),
                Some(Frame::Answer(Answer::Exited { code, oom_killed, terminated })) => {
                    return Ok(Event::Exited(Exited { code, oom_killed, terminated }));
                }
                Some(Frame::Answer(Answer::Failed { message })) => return Err(BuildError::Refused(message)),
                Some(Frame::Answer(Answer::Started { .. } | Answer::Used(_) | Answer::Leaving) | Frame::Request(_)) => {}
                None => self.more().await?,
            }
        }
    }

    /// Reads on; safe to drop and call again.
    async fn more(&mut self) -> Result<(), BuildError> {
        match self.stream.read_buf(&mut self.input).await.map_err(BuildError::Lost)? {
            0 => Err(BuildError::Lost(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), BuildError> {
        let mut out = BytesMut::new();
        Frame::Request(request).encode(&mut out)?;
        self.stream.write_all(&out).await.map_err(BuildError::Lost)
    }
}
