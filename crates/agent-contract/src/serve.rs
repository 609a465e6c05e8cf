//! The serve protocol: how the helper has scripts started in the build container.
//!
//! One connection per script over the unix socket [`crate::names::SERVE_SOCKET`]. Every frame is
//! `kind: u8, length: u32 big endian, body`; control frames carry JSON, output frames raw bytes, so that a log of
//! 100 MB is not encoded twice. The client sends [`Request::Start`] first and may then send [`Request::Signal`];
//! the server answers with output frames and ends with exactly one [`Answer::Exited`] or [`Answer::Failed`].
//! Back-pressure is the socket's: a side that does not read stops the other. When the client goes away the server
//! kills the script. [`Request::Leave`] instead of a start ends the server itself, [`Request::Measure`] asks for figures.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Version of the protocol; a server refuses a start with a newer one.
pub const VERSION: u32 = 1;
/// Longest output frame.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// Longest control frame: a script with all its variables.
pub const MAX_CONTROL: usize = 64 * 1024 * 1024;

const KIND_REQUEST: u8 = 1;
const KIND_ANSWER: u8 = 2;
const KIND_STDOUT: u8 = 3;
const KIND_STDERR: u8 = 4;

/// From the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Runs a script to its end.
    Start(Start),
    /// Sends a signal to the script's process group; after `kill_after_ms` (if any) everything of it gets KILL.
    Signal {
        /// Number of the signal.
        signal: i32,
        /// Grace before KILL, in milliseconds.
        kill_after_ms: Option<u64>,
    },
    /// Asks what the container has used so far, instead of a start.
    Measure,
    /// Ends the server with this exit code.
    Leave {
        /// The build container's exit code.
        exit_code: i32,
    },
}

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`] of the helper.
    pub version: u32,
    /// The whole script; it is handed to the shell as a file, never as an argument.
    pub script: String,
    /// Variables added to the container's own environment before the shell starts.
    pub env: Vec<(String, String)>,
    /// Shell of the configuration; empty means bash, and sh where the image has no bash.
    #[serde(default)]
    pub shell: String,
    /// Where it starts; `None` means the container's working directory.
    pub cwd: Option<String>,
}

/// From the build container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The script has started.
    Started {
        /// Shell that runs it, as found in the image.
        shell: String,
    },
    /// The script ended and all its output was sent.
    Exited {
        /// Exit code; 128 + signal when it was killed.
        code: i32,
        /// Whether the kernel killed something of the container for lack of memory.
        oom_killed: bool,
        /// Whether the container was told to stop while it ran.
        #[serde(default)]
        terminated: bool,
    },
    /// It could not be run at all.
    Failed {
        /// What went wrong.
        message: String,
    },
    /// Answer to [`Request::Measure`].
    Used(crate::Usage),
    /// Answer to [`Request::Leave`].
    Leaving,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// From the helper.
    Request(Request),
    /// From the build container.
    Answer(Answer),
    /// Output of the script.
    Stdout(Bytes),
    /// Error output of the script.
    Stderr(Bytes),
}

/// A frame that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Unknown kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Longer than allowed.
    #[error("frame of {0} bytes is too long")]
    TooLong(usize),
    /// Not the JSON we expect.
    #[error("malformed control frame")]
    Json(#[from] serde_json::Error),
}

impl Frame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// When it is longer than the protocol allows.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        match self {
            Self::Request(request) => put(out, KIND_REQUEST, &serde_json::to_vec(request)?, MAX_CONTROL),
            Self::Answer(answer) => put(out, KIND_ANSWER, &serde_json::to_vec(answer)?, MAX_CONTROL),
            Self::Stdout(bytes) => put(out, KIND_STDOUT, bytes, MAX_OUTPUT),
            Self::Stderr(bytes) => put(out, KIND_STDERR, bytes, MAX_OUTPUT),
        }
    }

    /// Takes one frame from the front of `input`; `None` when it is not whole yet.
    ///
    /// # Errors
    /// When the peer does not speak the protocol; the connection is of no use after that.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        if input.len() < 5 {
            return Ok(None);
        }
        let kind = input[0];
        let length = u32::from_be_bytes([input[1], input[2], input[3], input[4]]) as usize;
        let limit = match kind {
            KIND_REQUEST | KIND_ANSWER => MAX_CONTROL,
            KIND_STDOUT | KIND_STDERR => MAX_OUTPUT,
            other => return Err(FrameError::Kind(other)),
        };
        if length > limit {
            return Err(FrameError::TooLong(length));
        }
        if input.len() < 5 + length {
            return Ok(None);
        }
        input.advance(5);
        let body = input.split_to(length).freeze();
        Ok(Some(match kind {
            KIND_REQUEST => Self::Request(serde_json::from_slice(&body)?),
            KIND_ANSWER => Self::Answer(serde_json::from_slice(&body)?),
            KIND_STDOUT => Self::Stdout(body),
            _ => Self::Stderr(body),
        }))
    }
}

fn put(out: &mut BytesMut, kind: u8, body: &[u8], limit: usize) -> Result<(), FrameError> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= limit).ok_or(FrameError::TooLong(body.len()))?;
    out.reserve(5 + body.len());
    out.put_u8(kind);
    out.put_u32(length);
    out.put_slice(body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Answer, Frame, FrameError, Request, Start, VERSION};
    use bytes::{Bytes, BytesMut};

    fn frames() -> Vec<Frame> {
        let start = Start {
            version: VERSION,
            script: "echo".into(),
            shell: "sh".into(),
            env: vec![("A".into(), "b\n".into())],
            cwd: None,
        };
        vec![
            Frame::Request(Request::Start(start)),
            Frame::Stdout(Bytes::from_static(b"\xff\0x")),
            Frame::Stderr(Bytes::new()),
            Frame::Answer(Answer::Exited { code: 137, oom_killed: true, terminated: false }),
            Frame::Request(Request::Measure),
            Frame::Answer(Answer::Used(crate::Usage { cpu_ms: Some(5), ..crate::Usage::default() })),
        ]
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = BytesMut::new();
        for frame in frames() {
            frame.encode(&mut wire).unwrap();
        }
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        for byte in wire {
            input.extend_from_slice(&[byte]);
            seen.extend(Frame::decode(&mut input).unwrap());
        }
        assert_eq!(seen, frames());
    }

    #[test]
    fn a_hostile_length_is_refused_before_memory_is_taken() {
        let mut input = BytesMut::from(&[3u8, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(Frame::decode(&mut input), Err(FrameError::TooLong(_))));
        assert!(matches!(Frame::decode(&mut BytesMut::from(&[9u8, 0, 0, 0, 0][..])), Err(FrameError::Kind(9))));
    }
}
