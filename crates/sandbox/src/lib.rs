//! Containers on one Linux machine: images, root filesystems, namespaces, control groups, network.
//!
//! A [`Pod`] is a set of namespaces that its [`Container`]s share; no process stands behind it. All containers of a
//! machine run in a user namespace over one range of host ids, so that root inside is nobody outside. Creating a
//! container is left to a well-kept runtime library, called only from a re-executed, single-threaded copy of this
//! program ([`reexec`]), because it forks. Mounts are made in a mount namespace of our own ([`enter`]): a killed
//! program leaves none, and what else it leaves ([`Machine::open`]) is found by the next one and removed.
//!
//! We decided against driving `runc` or `crun`: neither is on every machine, and the library is as fast.

pub mod image;

mod bundle;
mod cgroup;
mod container;
mod error;
mod exec;
mod files;
mod gate;
mod machine;
mod mount_table;
mod mounts;
mod namespaces;
mod network;
mod oci;
mod pod;
mod runtime;
mod spec;
mod untaken;

pub use container::Container;
pub use error::{Error, StartError};
pub use exec::Exec;
pub use machine::Machine;
pub use mount_table::mounts_at_or_below;
pub use pod::Pod;
pub use spec::{
    Bind, Capabilities, ContainerSpec, ExecSpec, Exit, IdRange, Layer, Overlay, PodOptions, Resources, Rootfs, Swept, User,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;

/// Open files that a program in a container begins with, as systemd has it; it may ask for more. Old programs close
/// every number up to the limit when they start another.
const FILES_OF_CONTAINERS: u64 = 1024;

/// Does the work of a hidden subcommand and ends, if this process was started for one. Must be the first thing in
/// `main`: nothing else may have been started.
pub fn reexec() {
    let name = std::env::args_os().nth(1);
    let main = match name.as_ref().and_then(|name| name.to_str()) {
        Some(runtime::NAME) => runtime::main,
        Some(namespaces::NAME) => namespaces::main,
        Some(exec::NAME) => exec::main,
        _ => return,
    };
    limit_files(|limits| limits.current = Some(limits.current.unwrap_or(u64::MAX).min(FILES_OF_CONTAINERS)));
    let code = main();
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

/// Gives this process a mount namespace of its own, makes it the parent of what its containers leave behind, and lets
/// it open as many files as it may. Must come before any thread is started.
///
/// # Errors
/// When this is not root.
pub fn enter() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    // A thousand pods have more than a thousand pipes and sockets here.
    limit_files(|limits| limits.current = limits.maximum);
    // SAFETY: unsharing the mount namespace changes no memory; the caller has started no thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(Error::errno("leave the machine's mount namespace"))?;
    let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(Error::errno("make mounts private"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Error::errno("become a subreaper"))
}

/// Changes how many files this process may open; what cannot be changed stays.
fn limit_files(change: impl FnOnce(&mut Rlimit)) {
    let mut limits = getrlimit(Resource::Nofile);
    change(&mut limits);
    let _ = setrlimit(Resource::Nofile, limits);
}
