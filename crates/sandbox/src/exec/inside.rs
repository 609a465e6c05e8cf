//! The re-executed copy: joins the container, starts the program, waits for it.
//!
//! Until it joins, this is root of the machine; from then on it is root of the container at most. It stays outside the
//! container's process namespace, cannot be traced from there, and holds nothing open but the socket.

use super::program;
use super::wire::{self, Reply, Request};
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::thread::ThreadNameSpaceType as Namespace;
use rustix::{fs, process, thread};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// The hidden subcommand; the socket is standard input.
pub(crate) fn main() -> ExitCode {
    // SAFETY: this process has opened no descriptor above the standard ones that anything still uses; what there is
    // came from the program that started ours.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    // In a session of its own a Ctrl-C for the program outside does not reach it.
    let _ = process::setsid();
    let _ = process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let Ok(control) = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3) else { return ExitCode::FAILURE };
    let control = UnixStream::from(control);
    // The socket is not for the program: it gets streams of its own.
    if let Ok(null) = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(null);
    }
    match serve(&control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = wire::send(&control, &Reply::CannotRun(format!("{error:#}")), &[]);
            ExitCode::FAILURE
        }
    }
}

fn serve(mut control: &UnixStream) -> anyhow::Result<()> {
    let (request, descriptors) = wire::receive::<Request>(control).context("failed to read the request")?;
    join(&request)?;
    let (master, streams) = if request.tty {
        let (master, inside) = open_terminal(request.uid).context("failed to open a terminal in the container")?;
        (Some(master), program::Streams::Terminal(inside))
    } else {
        let streams = <[OwnedFd; 3]>::try_from(descriptors).ok().context("the request came without streams")?;
        (None, program::Streams::Pipes(streams))
    };
    let (status, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, so the child finds no lock held by another.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()).context("failed to start a process in the container"),
        0 => program::run(&request, streams, report),
        child => Pid::from_raw(child).context("the process has no number")?,
    };
    drop((streams, report));
    let pidfd = process::pidfd_open(child, PidfdFlags::empty())?;
    wire::send(control, &Reply::Forked, &[pidfd.as_fd()])?;
    let reply = wait_for_start(control, child, status)?;
    let passed: Vec<BorrowedFd<'_>> = master.iter().map(|master| master.as_fd()).collect();
    wire::send(control, &reply, if reply == Reply::Started { &passed } else { &[] })?;
    drop(master);
    wait_for(control, pidfd.as_fd(), child)?;
    let code = reap(child)?;
    if reply == Reply::Started {
        let _ = control.write_all(&code.to_le_bytes());
    }
    Ok(())
}

/// Becomes root of the container, in its namespaces and its control groups.
fn join(request: &Request) -> anyhow::Result<()> {
    // First: from inside, these files cannot be written.
    for file in &request.cgroup_procs {
        std::fs::write(file, "0").with_context(|| format!("failed to join {}", file.display()))?;
    }
    let target = Pid::from_raw(request.pid).context("the container has no process")?;
    let gone = "the container is not running";
    let container = process::pidfd_open(target, PidfdFlags::empty()).context(gone)?;
    let mut namespaces = Namespace::MOUNT
        | Namespace::PROCESS_ID
        | Namespace::NETWORK
        | Namespace::INTER_PROCESS_COMMUNICATION
        | Namespace::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Namespace::CONTROL_GROUP;
    let user = |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/user"));
    if user(&request.pid.to_string()).context(gone)? != user("self")? {
        namespaces |= Namespace::USER;
    }
    thread::move_into_thread_name_spaces(container.as_fd(), namespaces).context("failed to join the container")?;
    // Nobody until now: this user is not in the container's map. Groups follow with the program's user.
    let (uid, gid) = (fs::Uid::ROOT, fs::Gid::ROOT);
    thread::set_thread_res_gid(gid, gid, gid).context("failed to become the container's root")?;
    thread::set_thread_res_uid(uid, uid, uid).context("failed to become the container's root")?;
    process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// A terminal of the container's own, outer end first.
fn open_terminal(uid: u32) -> anyhow::Result<(OwnedFd, OwnedFd)> {
    // What is there was made by the container: it may be anything.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let master = fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    let device = fs::fstat(&master)?.st_rdev;
    anyhow::ensure!((fs::major(device), fs::minor(device)) == (5, 2), "/dev/pts/ptmx is something else");
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inside = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    fs::fchown(&inside, Some(fs::Uid::from_raw(uid)), None)?;
    Ok((master, inside))
}

/// The program's process closes its end of the pipe by running the program, or says why it cannot.
fn wait_for_start(control: &UnixStream, child: Pid, status: OwnedFd) -> anyhow::Result<Reply> {
    wait_for(control, status.as_fd(), child)?;
    let mut text = String::new();
    std::fs::File::from(status).take(16 << 10).read_to_string(&mut text)?;
    Ok(match text.split_at_checked(1) {
        None => Reply::Started,
        Some((program::NOT_FOUND, _)) => Reply::NotFound,
        Some((_, message)) => Reply::CannotRun(message.to_owned()),
    })
}

/// Takes the exit code. A process that nobody waits for would keep the container's process namespace alive.
fn reap(child: Pid) -> anyhow::Result<i32> {
    loop {
        match process::waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(error.into()),
            Ok(Some((_, status))) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).unwrap_or(255));
            }
        }
    }
}

/// Waits until a descriptor can be read. When the program outside goes away before, nobody wants the one inside.
fn wait_for(control: &UnixStream, wanted: BorrowedFd<'_>, child: Pid) -> anyhow::Result<()> {
    loop {
        let mut waiting = [PollFd::new(&wanted, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        if !waiting[0].revents().is_empty() {
            return Ok(());
        }
        // Nothing is said after the request: whatever comes is the end.
        if !waiting[1].revents().is_empty() {
            let _ = process::kill_process_group(child, Signal::KILL);
            let _ = process::kill_process(child, Signal::KILL);
            reap(child)?;
            anyhow::bail!("nobody waits for the program");
        }
    }
}
