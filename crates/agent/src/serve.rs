//! `gantry-agent serve`: starts the job's scripts in the build container.
//!
//! Threads and blocking calls, no runtime: one script runs at a time, and as PID 1 this process reaps every orphan of
//! the container, which a runtime's own child handling would fight about. One thread reaps (`waitpid(-1)`); whoever
//! waits for a script looks its end up there. The script reaches the shell as an anonymous file, so its size is not
//! bound by argument limits and nothing of it lies on a disk.

mod children;

use agent_contract::serve::{Answer, Frame, MAX_OUTPUT, Request, Start, VERSION};
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use children::Children;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shells in the order of preference (GitLab Runner's: bash, then sh).
const SHELLS: [&str; 6] = ["/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash", "/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh"];
/// Grace for what is left of a script when its helper went away.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// How long output is awaited from background processes that outlive the script.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);
/// Background processes that say nothing for twice as long have nothing more to say.
const OUTPUT_QUIET: Duration = Duration::from_millis(250);

type Writer = Arc<Mutex<UnixStream>>;

/// Listens below `shared` until told to leave.
///
/// # Errors
/// When the socket cannot be made.
pub fn main(shared: &Path) -> Result<ExitCode> {
    let set = terminate_set();
    // SAFETY: the set is initialised. Blocked before any thread starts, so that all of them inherit it; scripts get it
    // unblocked.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    let socket = shared.join(file_name(agent_contract::names::SERVE_SOCKET));
    let fresh = socket.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).with_context(|| format!("failed to listen at {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o666))?;
    // Under its name only when it can be used by whatever user the helper runs as.
    std::fs::rename(&fresh, &socket)?;
    let children = Children::start();
    end_on_terminate(children.clone());
    loop {
        let (stream, _) = listener.accept().context("failed to accept the helper")?;
        match connection(stream, &children) {
            Ok(Some(code)) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
            Ok(None) => {}
            Err(error) => eprintln!("gantry-agent: {error:#}"),
        }
    }
}

/// As PID 1 this process would ignore TERM, and the pod's grace would run out: so a thread waits for it, ends the
/// scripts and leaves.
fn end_on_terminate(children: Arc<Children>) {
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both calls get a set that this function initialised and an int on our stack.
        unsafe {
            let set = terminate_set();
            libc::sigwait(&raw const set, &raw mut signal);
        }
        children.end_all(ORPHAN_GRACE);
        std::process::exit(128 + libc::SIGTERM);
    });
}

/// The signal set {TERM}.
fn terminate_set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is read; sigaddset gets a valid signal.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        set
    }
}

/// The shell for scripts: bash, and sh where there is none or the configuration wants it.
pub fn shell(wanted: &str) -> Option<&'static str> {
    let shells = SHELLS.into_iter().chain([agent_contract::names::MOUNTED_SHELL]);
    shells.into_iter().filter(|shell| wanted != "sh" || !shell.ends_with("/bash")).find(|shell| Path::new(shell).exists())
}

/// The last part of a reserved path.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Serves one connection; an exit code means "leave".
fn connection(mut stream: UnixStream, children: &Arc<Children>) -> Result<Option<i32>> {
    let mut input = BytesMut::new();
    match next_request(&mut stream, &mut input)? {
        None => Ok(None),
        Some(Request::Leave { exit_code }) => {
            let writer = Arc::new(Mutex::new(stream));
            let _ = send(&writer, &Frame::Answer(Answer::Leaving));
            Ok(Some(exit_code))
        }
        Some(Request::Measure) => {
            let writer = Arc::new(Mutex::new(stream));
            send(&writer, &Frame::Answer(Answer::Used(crate::resources::measure())))?;
            Ok(None)
        }
        Some(Request::Signal { .. }) => bail!("the helper sent a signal before a script"),
        Some(Request::Start(start)) => {
            let writer = Arc::new(Mutex::new(stream.try_clone()?));
            if let Err(error) = script(&start, stream, input, (&writer, children)) {
                send(&writer, &Frame::Answer(Answer::Failed { message: format!("{error:#}") }))?;
            }
            Ok(None)
        }
    }
}

fn script(start: &Start, requests: UnixStream, input: BytesMut, (writer, children): (&Writer, &Arc<Children>)) -> Result<()> {
    if start.version > VERSION {
        bail!("the helper speaks version {}, this agent up to {VERSION}", start.version);
    }
    let shell = shell(&start.shell).context("the image has neither bash nor sh")?;
    let file =
        rustix::fs::memfd_create("script", rustix::fs::MemfdFlags::empty()).context("failed to keep the script in memory")?;
    let mut file = std::fs::File::from(file);
    file.write_all(start.script.as_bytes()).context("failed to keep the script in memory")?;
    let mut command = Command::new(shell);
    if shell == agent_contract::names::MOUNTED_SHELL {
        // busybox is whatever it is called by.
        command.arg0("sh");
    }
    command.arg(format!("/proc/self/fd/{}", file.as_raw_fd())).envs(start.env.iter().map(|(name, value)| (name, value)));
    // One pipe for both, as GitLab Runner has one file: a log shows what was written in the order it was written.
    let (output, both) = std::io::pipe().context("failed to make a pipe for the output")?;
    command.stdin(Stdio::null()).stdout(both.try_clone()?).stderr(both).process_group(0);
    if let Some(directory) = &start.cwd {
        command.current_dir(directory);
    }
    unblock_terminate(&mut command);
    let child = children.spawn(&mut command).with_context(|| format!("failed to start {shell}"))?;
    // Our ends of the pipe must go, or it never ends.
    drop(command);
    let group = i32::try_from(child.id()).context("process id out of range")?;
    drop(file);
    send(writer, &Frame::Answer(Answer::Started { shell: shell.to_owned() }))?;
    let output = Output::pump(output, writer.clone());
    let listener = std::thread::spawn({
        let children = children.clone();
        move || obey(requests, input, group, &children)
    });
    let code = children.wait(child.id());
    output.drain(Instant::now() + OUTPUT_GRACE);
    let terminated = children.are_ending();
    send(writer, &Frame::Answer(Answer::Exited { code, oom_killed: oom_killed(), terminated }))?;
    signal_group(group, libc::SIGKILL);
    let closed = writer.lock().unwrap_or_else(PoisonError::into_inner).shutdown(std::net::Shutdown::Both);
    drop(closed);
    let _ = listener.join();
    Ok(())
}

/// Lets TERM reach a script, which would inherit our mask.
fn unblock_terminate(command: &mut Command) {
    let unblock = || {
        // SAFETY: the set is initialised; the call changes the mask of the new process alone.
        let failed = unsafe {
            let set = terminate_set();
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(unblock) };
}

/// Output of a script on its way to the helper.
struct Output {
    /// Closed at the end of the pipe.
    ended: Receiver<()>,
    /// Pieces taken from the pipe and pieces handed to the helper: odd while one is in our hands.
    moves: Arc<AtomicU64>,
}

impl Output {
    /// Copies a pipe into frames; a slow helper stops the script by the pipe being full.
    fn pump(mut pipe: impl Read + Send + 'static, writer: Writer) -> Self {
        let (end, ended) = std::sync::mpsc::channel();
        let output = Self { ended, moves: Arc::default() };
        let moves = output.moves.clone();
        std::thread::spawn(move || {
            let _end = end;
            let mut buffer = vec![0; MAX_OUTPUT];
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        moves.fetch_add(1, Ordering::AcqRel);
                        if send(&writer, &Frame::Stdout(Bytes::copy_from_slice(&buffer[..length]))).is_err() {
                            break;
                        }
                        moves.fetch_add(1, Ordering::AcqRel);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        });
        output
    }

    /// Waits for the end of the pipe when its script has ended. Background processes may hold it for ever, and what
    /// they say later is nobody's: it is given up when nothing comes or at `by`, but never with a piece in our hands,
    /// however slow the helper is.
    fn drain(&self, by: Instant) {
        let mut before = None;
        while self.ended.recv_timeout(OUTPUT_QUIET) == Err(RecvTimeoutError::Timeout) {
            let now = self.moves.load(Ordering::Acquire);
            let in_hand = now % 2 == 1;
            if !in_hand && (before == Some(now) || Instant::now() > by) {
                break;
            }
            before = Some(now);
        }
    }
}

/// Does what the helper asks while the script runs; a helper that is gone means the script has to go too.
fn obey(mut stream: UnixStream, mut input: BytesMut, group: i32, children: &Children) {
    loop {
        match next_request(&mut stream, &mut input) {
            Ok(Some(Request::Signal { signal, kill_after_ms })) => {
                signal_group(group, signal);
                if let Some(grace) = kill_after_ms {
                    children.kill_later(group, Duration::from_millis(grace));
                }
            }
            Ok(Some(Request::Start(_) | Request::Measure | Request::Leave { .. })) => {}
            Ok(None) | Err(_) => {
                if children.is_running(group) {
                    signal_group(group, libc::SIGTERM);
                    children.kill_later(group, ORPHAN_GRACE);
                }
                return;
            }
        }
    }
}

fn next_request(stream: &mut UnixStream, input: &mut BytesMut) -> Result<Option<Request>> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match Frame::decode(input)? {
            Some(Frame::Request(request)) => return Ok(Some(request)),
            Some(_) => bail!("the helper sent a frame that is not a request"),
            None => {}
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(length) => input.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("failed to read from the helper"),
        }
    }
}

fn send(writer: &Writer, frame: &Frame) -> Result<()> {
    let mut out = BytesMut::new();
    frame.encode(&mut out)?;
    let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(&out).context("failed to write to the helper")
}

fn signal_group(group: i32, signal: i32) {
    // SAFETY: kill only takes numbers; a group that is gone answers ESRCH, which is what we want.
    unsafe { libc::kill(-group, signal) };
}

/// Whether the kernel killed something of this container for lack of memory (cgroup v2, then v1), where it shows.
fn oom_killed() -> bool {
    let files = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| {
        let count =
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    })
}
