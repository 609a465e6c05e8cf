//! The only place that calls the runtime library: a hidden subcommand that creates and starts one container.
//!
//! The library forks with a raw system call; in a process with threads it can hang in a lock that another thread held
//! (seen in 2 of 4 runs). This copy of the program has one thread. It tells what went wrong in a file, because its
//! standard streams are the container's.

use anyhow::Context as _;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::process::WaitOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The hidden subcommand.
pub(crate) const NAME: &str = "gantry-oci";
/// Number of the container's first process, in the bundle.
pub(crate) const PID_FILE: &str = "pid";
/// What went wrong, in the bundle.
pub(crate) const ERROR_FILE: &str = "error";
/// The library's own state, in the bundle.
pub(crate) const STATE: &str = "state";

/// Number of the first descriptor of a namespace; nothing else in this copy has so high ones.
const FIRST_NAMESPACE: i32 = 100;

/// Where the runtime finds a namespace, in the order in which [`main`] is told them. It joins some as root of the
/// container, who can open what its own process has open, and nothing of ours.
pub(crate) fn namespace(number: usize) -> String {
    format!("/proc/self/fd/{}", FIRST_NAMESPACE as usize + number)
}

/// Creates and starts the container of a bundle (second argument), under the name in the third; paths of namespaces
/// follow.
pub(crate) fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(2);
    let (Some(bundle), Some(id)) = (arguments.next(), arguments.next()) else { return ExitCode::FAILURE };
    let bundle = PathBuf::from(bundle);
    // What the library starts and loses becomes our child, not a zombie of the program that runs for long.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let started = open_namespaces(arguments).and_then(|_held| start(&bundle, id));
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::fs::write(bundle.join(ERROR_FILE), format!("{error:#}"));
            reap();
            ExitCode::FAILURE
        }
    }
}

fn open_namespaces(paths: impl Iterator<Item = String>) -> anyhow::Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    for (number, path) in (FIRST_NAMESPACE..).zip(paths) {
        let opened = std::fs::File::open(&path).with_context(|| format!("failed to open namespace {path}"))?;
        let descriptor = rustix::io::fcntl_dupfd_cloexec(opened, number)?;
        anyhow::ensure!(descriptor.as_raw_fd() == number, "descriptor {number} is in use");
        held.push(descriptor);
    }
    Ok(held)
}

fn start(bundle: &Path, id: String) -> anyhow::Result<()> {
    let state = bundle.join(STATE);
    std::fs::create_dir_all(&state)?;
    let mut container = ContainerBuilder::new(id, SyscallType::default())
        .with_root_path(state)?
        .with_pid_file(Some(bundle.join(PID_FILE)))?
        .validate_id()?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    container.start()?;
    Ok(())
}

/// Waits a moment for the processes of a container that failed.
fn reap() {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_none_left) => return,
        }
    }
}
