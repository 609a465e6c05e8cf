//! What this program and its re-executed copy tell each other over one socket.
//!
//! The request goes over the socket because arguments and environments can be read by everybody on the machine
//! (`ps`). Descriptors travel beside the first byte of a message.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most bytes of a message: more than the kernel takes as arguments and environment together.
const LIMIT: usize = 16 << 20;
/// Most descriptors of a message.
const DESCRIPTORS: usize = 3;

/// What to run, and where. Standard streams come along as descriptors unless there is a terminal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// A process of the container, as the machine counts.
    pub(super) pid: i32,
    /// Files to write `0` to before anything else.
    pub(super) cgroup_procs: Vec<std::path::PathBuf>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: String,
    /// Bounding set, as numbers.
    pub(super) capabilities: u64,
    pub(super) no_new_privileges: bool,
    pub(super) tty: bool,
}

/// The answers to a request. The exit code follows as 4 bytes, little endian, when the program has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// First: there is a process, whose descriptor comes along.
    Forked,
    /// It runs; the terminal's descriptor comes along when there is one.
    Started,
    /// No such program.
    NotFound,
    /// There is one, but it cannot be run; or the container is not as it should be.
    CannotRun(String),
}

/// Sends a message.
pub(super) fn send<T: Serialize>(mut socket: &UnixStream, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL)?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.write_all(&body)
}

/// Receives a message.
pub(super) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut length)], &mut beside, flags)?;
    let descriptors = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let length = u32::from_le_bytes(length) as usize;
    if received.bytes != 4 || length > LIMIT {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_and_its_descriptors_arrive() {
        let (here, there) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let text = "x".repeat(3 << 20);
        let sent = text.clone();
        let sender = std::thread::spawn(move || send(&here, &sent, &[write.as_fd()]));
        let (received, descriptors): (String, _) = receive(&there).unwrap();
        sender.join().unwrap().unwrap();
        assert!(received == text);
        rustix::io::write(&descriptors[0], b"y").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 1);
        assert!(rustix::io::fcntl_getfd(&descriptors[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_peer_that_goes_away_or_sends_nonsense_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive::<Reply>(&there).is_err());
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[0xff; 64]).unwrap();
        assert!(receive::<Reply>(&there).is_err());
    }
}
