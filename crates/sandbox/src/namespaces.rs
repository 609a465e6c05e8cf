//! The namespaces that the containers of a pod share: user, network, IPC, host name.
//!
//! A threaded process cannot enter a new user namespace, so a copy of this program makes them, waits until its parent
//! has written the id maps and bound the namespaces to files, and ends. No process has to stay: the files, in our own
//! mount namespace, keep the namespaces.

use crate::{Error, IdRange};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// The hidden subcommand.
pub(crate) const NAME: &str = "gantry-ns";
/// Words of the two processes to each other.
const UNSHARED: u8 = b'u';
const MAPPED: u8 = b'm';
const READY: u8 = b'r';
const HELD: u8 = b'h';

/// Files that hold a pod's namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Namespaces {
    directory: PathBuf,
    host_network: bool,
}

impl Namespaces {
    /// Makes them; blocking.
    pub(crate) fn create(directory: &Path, hostname: &str, host_network: bool, ids: IdRange) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(Error::path("make", directory))?;
        let namespaces = Self { directory: directory.to_path_buf(), host_network };
        let network = if host_network { "host" } else { "own" };
        let mut child = Command::new("/proc/self/exe")
            .args([NAME, hostname, network])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::system("start a copy of this program"))?;
        let made = namespaces.hold(&mut child, ids);
        drop(child.stdin.take());
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.by_ref().take(4096).read_to_string(&mut words);
        }
        let ended = child.wait().map_err(Error::system("wait for a copy of this program"))?;
        if let Err(error) = made {
            namespaces.remove();
            let message = if words.trim().is_empty() { error.to_string() } else { words.trim().to_owned() };
            return Err(Error::Reexec { what: "make namespaces", message });
        }
        if !ended.success() {
            namespaces.remove();
            return Err(Error::Reexec { what: "make namespaces", message: words.trim().to_owned() });
        }
        Ok(namespaces)
    }

    fn hold(&self, child: &mut Child, ids: IdRange) -> Result<(), Error> {
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
        for name in self.names() {
            let file = self.file(name);
            std::fs::write(&file, "").map_err(Error::path("make", &file))?;
            let source = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
            rustix::mount::mount_bind(&source, &file).map_err(Error::errno(format!(
                "hold namespace {} at {}",
                source.display(),
                file.display()
            )))?;
        }
        input.write_all(&[HELD]).map_err(Error::system("speak to a copy of this program"))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        let host_network = self.host_network;
        ["user", "ipc", "uts", "net"].into_iter().filter(move |name| !(host_network && *name == "net"))
    }

    /// The file that holds a namespace (`user`, `net`, `ipc`, `uts`).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Whether the pod uses the host's network.
    pub(crate) fn host_network(&self) -> bool {
        self.host_network
    }

    /// Lets go of them.
    pub(crate) fn remove(&self) {
        for name in ["user", "ipc", "uts", "net"] {
            crate::mounts::detach(&self.file(name));
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
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
    use rustix::fd::AsRawFd;
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
