//! The namespaces that the containers of a pod share: user, network, IPC, host name.
//!
//! A threaded process cannot enter a new user namespace, so a copy of this program makes them, waits until its parent
//! has written the id maps and opened the namespaces, and ends. No process has to stay: our descriptors keep the
//! namespaces. We decided against binding them to files: every container that starts gets a copy of all our mounts
//! first, and so each mount of each running pod would make it start later.

use crate::{Error, IdRange};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// The hidden subcommand.
pub(crate) const NAME: &str = "gantry-ns";
/// Words of the two processes to each other.
const UNSHARED: u8 = b'u';
const MAPPED: u8 = b'm';
const READY: u8 = b'r';
const HELD: u8 = b'h';

/// A pod's namespaces, until they are let go.
pub(crate) struct Namespaces {
    held: Mutex<Option<Arc<Held>>>,
}

/// Descriptors of namespaces.
#[derive(Debug)]
pub(crate) struct Held {
    user: OwnedFd,
    ipc: OwnedFd,
    uts: OwnedFd,
    /// `None` with the host's network.
    network: Option<OwnedFd>,
}

impl Held {
    /// The user namespace.
    pub(crate) fn user(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// A path of the network namespace, as long as this is held; `None` with the host's network.
    pub(crate) fn network(&self) -> Option<PathBuf> {
        self.network.as_ref().map(path)
    }

    /// Each by its name in the OCI specification, with a path that other processes of this machine's root can open.
    pub(crate) fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        let all =
            [("user", Some(&self.user)), ("ipc", Some(&self.ipc)), ("uts", Some(&self.uts)), ("network", self.network.as_ref())];
        all.into_iter().filter_map(|(name, descriptor)| Some((name, path(descriptor?)))).collect()
    }
}

fn path(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd()).into()
}

impl Namespaces {
    /// Makes them; blocking.
    pub(crate) fn create(hostname: &str, host_network: bool, ids: IdRange) -> Result<Self, Error> {
        let network = if host_network { "host" } else { "own" };
        let mut child = Command::new("/proc/self/exe")
            .args([NAME, hostname, network])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::system("start a copy of this program"))?;
        let made = hold(&mut child, host_network, ids);
        drop(child.stdin.take());
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.by_ref().take(4096).read_to_string(&mut words);
        }
        let ended = child.wait().map_err(Error::system("wait for a copy of this program"))?;
        let failed = |message: &str| Error::Reexec { what: "make namespaces", message: message.to_owned() };
        match made {
            Ok(held) if ended.success() => Ok(Self { held: Mutex::new(Some(Arc::new(held))) }),
            Err(error) if words.trim().is_empty() => Err(error),
            Ok(_) | Err(_) => Err(failed(words.trim())),
        }
    }

    /// Keeps them at least as long as the answer is kept.
    ///
    /// # Errors
    /// When they were let go.
    pub(crate) fn hold(&self) -> Result<Arc<Held>, Error> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.ok_or_else(|| Error::Reexec { what: "enter namespaces", message: "the pod was removed".to_owned() })
    }

    /// Lets go of them.
    pub(crate) fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn hold(child: &mut Child, host_network: bool, ids: IdRange) -> Result<Held, Error> {
    let pid = child.id();
    let (Some(input), Some(output)) = (child.stdin.as_mut(), child.stdout.as_mut()) else {
        return Err(Error::Reexec { what: "make namespaces", message: "no pipes".to_owned() });
    };
    expect(output, UNSHARED).map_err(Error::system("make a user namespace"))?;
    for file in ["uid_map", "gid_map"] {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        std::fs::write(&path, format!("0 {} {}\n", ids.base, ids.size)).map_err(Error::path("write", &path))?;
    }
    input.write_all(&[MAPPED]).map_err(Error::system("speak to a copy of this program"))?;
    expect(output, READY).map_err(Error::system("make namespaces"))?;
    let open = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        std::fs::File::open(&path).map(OwnedFd::from).map_err(Error::path("open namespace", &path))
    };
    let network = if host_network { None } else { Some(open("net")?) };
    let held = Held { user: open("user")?, ipc: open("ipc")?, uts: open("uts")?, network };
    input.write_all(&[HELD]).map_err(Error::system("speak to a copy of this program"))?;
    Ok(held)
}

fn expect(input: &mut impl Read, word: u8) -> std::io::Result<()> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    if byte[0] == word { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// The copy's part.
pub(crate) fn main() -> ExitCode {
    match make() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn make() -> Result<(), String> {
    let mut arguments = std::env::args().skip(2);
    let hostname = arguments.next().ok_or("no host name")?;
    let own_network = arguments.next().as_deref() == Some("own");
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let mut say = |word: u8| output.write_all(&[word]).and_then(|()| output.flush()).map_err(|error| error.to_string());
    // SAFETY: this copy has one thread and shares no memory.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|error| format!("user namespace: {error}"))?;
    say(UNSHARED)?;
    expect(&mut input, MAPPED).map_err(|error| error.to_string())?;
    let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if own_network {
        flags |= UnshareFlags::NEWNET;
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(flags) }.map_err(|error| format!("namespaces: {error}"))?;
    rustix::system::sethostname(hostname.as_bytes()).map_err(|error| format!("host name {hostname:?}: {error}"))?;
    if own_network {
        loopback_up().map_err(|error| format!("loopback: {error}"))?;
        // Nobody outside the pod is there to be protected from its low ports.
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    }
    say(READY)?;
    expect(&mut input, HELD).map_err(|error| error.to_string())
}

fn loopback_up() -> std::io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
