//! A further program in a running container.
//!
//! A re-executed, single-threaded copy of this program joins the container ([`inside`]), starts the program and waits
//! for it; both ends hold one socket. When either goes away, the program is killed: nobody is left to hear of it.
//!
//! We decided against the runtime library's own way: it does not join the container's user namespace, and the program
//! would be root of the machine.

mod inside;
mod program;
mod terminal;
mod wire;

pub(crate) use inside::main;

use crate::spec::{ExecSpec, User};
use crate::{Error, StartError};
use futures::future::BoxFuture;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use terminal::Terminal;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use wire::{Reply, Request};

/// The hidden subcommand.
pub(crate) const NAME: &str = "gantry-exec";
/// How long joining the container and starting the program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The search path when the environment has none, as container runtimes have it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// 128 + SIGKILL: what a program ends with whose end nobody saw.
const KILLED: i32 = 137;

/// A program that was started by [`crate::Container::exec`].
pub struct Exec {
    /// What it reads; dropping it is the end of its input, except on a terminal.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What it prints; everything on a terminal.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it prints to standard error; `None` on a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Columns and rows of its window; `None` without a terminal.
    pub resize: Option<mpsc::UnboundedSender<(u16, u16)>>,
    /// Its exit code, 128 + signal when a signal ended it. Dropping this kills it and its process group.
    pub exit: BoxFuture<'static, i32>,
}

/// The container and how programs run in it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its first process, as the machine counts.
    pub(crate) pid: i32,
    /// `cgroup.procs` files to join.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// Who runs programs unless told otherwise.
    pub(crate) user: User,
    /// The container's environment.
    pub(crate) env: Vec<(String, String)>,
    /// The container's working directory.
    pub(crate) cwd: String,
    /// Bounding set, as names with or without `CAP_`.
    pub(crate) capabilities: Vec<String>,
    /// setuid programs gain nothing.
    pub(crate) no_new_privileges: bool,
}

/// Starts a program in a container.
pub(crate) async fn start(target: Target, spec: ExecSpec) -> Result<Exec, StartError> {
    let name = spec.args.first().cloned().unwrap_or_default();
    let request = request(target, spec)?;
    let (control, theirs) = UnixStream::pair().map_err(Error::system("make a socket"))?;
    let streams = if request.tty { None } else { Some(streams()?) };
    let (ours, passed) = streams.unzip();
    let (ended, end) = oneshot::channel();
    tokio::spawn(reap(helper(theirs)?, end));
    let asked = tokio::task::spawn_blocking(move || ask(control, &request, passed.as_ref(), ended));
    let asked = asked.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    let (control, reply, mut descriptors) = asked.map_err(Error::system(format!("run {name:?} in a container")))?;
    match reply {
        Reply::Started => {}
        Reply::NotFound => return Err(StartError::CommandNotFound(name)),
        Reply::CannotRun(message) => return Err(StartError::CannotRun(message)),
        Reply::Forked => return Err(StartError::CannotRun("the program was announced twice".to_owned())),
    }
    let exit: BoxFuture<'static, i32> = Box::pin(exit(control));
    match (ours, descriptors.pop()) {
        (Some([stdin, stdout, stderr]), None) => piped(stdin, stdout, stderr, exit),
        (None, Some(master)) => on_terminal(master, exit),
        _ => Err(StartError::CannotRun("the terminal of a program was lost".to_owned())),
    }
}

/// Runs this program again; its standard input is the socket.
fn helper(socket: UnixStream) -> Result<Child, Error> {
    tokio::process::Command::new("/proc/self/exe")
        .arg(NAME)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(Error::system("run this program again"))
}

/// The ends of one stream each, ours first.
type Streams = ([OwnedFd; 3], [OwnedFd; 3]);

fn streams() -> Result<Streams, Error> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(Error::errno("make a pipe"));
    let ((input, stdin), (stdout, output), (stderr, errors)) = (pipe()?, pipe()?, pipe()?);
    Ok(([stdin, stdout, stderr], [input, output, errors]))
}

/// Sends the request and waits for the answer; tells the program's process as soon as there is one.
fn ask(
    control: UnixStream,
    request: &Request,
    passed: Option<&[OwnedFd; 3]>,
    process: oneshot::Sender<OwnedFd>,
) -> std::io::Result<(tokio::net::UnixStream, Reply, Vec<OwnedFd>)> {
    control.set_read_timeout(Some(PATIENCE))?;
    control.set_write_timeout(Some(PATIENCE))?;
    let passed: Vec<_> = passed.into_iter().flatten().map(|descriptor| descriptor.as_fd()).collect();
    wire::send(&control, request, &passed)?;
    let (mut reply, mut descriptors) = wire::receive(&control)?;
    if let (Reply::Forked, Some(forked)) = (&reply, descriptors.pop()) {
        let _ = process.send(forked);
        (reply, descriptors) = wire::receive(&control)?;
    }
    control.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(control)?, reply, descriptors))
}

/// The code comes over the socket, whose end without one means that the copy was killed, and the program with it.
async fn exit(mut control: tokio::net::UnixStream) -> i32 {
    control.read_i32_le().await.unwrap_or(KILLED)
}

/// Waits for the copy, whoever has lost interest in the program. When the copy was killed, its child is ours, because
/// we are a subreaper; until it is waited for, the container's process namespace cannot end.
async fn reap(mut helper: Child, process: oneshot::Receiver<OwnedFd>) {
    let _ = helper.wait().await;
    let Ok(process) = process.await else { return };
    // SAFETY: the descriptor is owned, moved in, and never replaced, so it stays the one that was registered.
    let Ok(process) = (unsafe { AsyncFd::register(process) }) else { return };
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(process.get_ref().as_fd()), options) {
            Ok(None) | Err(Errno::INTR | Errno::AGAIN) => {}
            // Waited for now, or by the copy before.
            Ok(Some(_)) | Err(_) => return,
        }
        match process.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return,
        }
    }
}

fn piped(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd, exit: BoxFuture<'static, i32>) -> Result<Exec, StartError> {
    let failed = || Error::system("use a pipe");
    Ok(Exec {
        stdin: Some(Box::new(pipe::Sender::from_owned_fd(stdin).map_err(failed())?)),
        stdout: Box::new(pipe::Receiver::from_owned_fd(stdout).map_err(failed())?),
        stderr: Some(Box::new(pipe::Receiver::from_owned_fd(stderr).map_err(failed())?)),
        resize: None,
        exit,
    })
}

fn on_terminal(master: OwnedFd, exit: BoxFuture<'static, i32>) -> Result<Exec, StartError> {
    let terminal = Terminal::new(master).map_err(Error::system("use a terminal"))?;
    Ok(Exec {
        stdin: Some(Box::new(terminal.clone())),
        resize: Some(terminal.resizer()),
        stdout: Box::new(terminal),
        stderr: None,
        exit,
    })
}

/// Checks what can be checked here, and puts the program's environment together.
fn request(target: Target, spec: ExecSpec) -> Result<Request, StartError> {
    let refused = |message: &str| Err(StartError::CannotRun(message.to_owned()));
    if spec.args.first().is_none_or(String::is_empty) {
        return refused("no program was named");
    }
    let user = spec.user.unwrap_or(target.user);
    let ids = user.groups.iter().chain([&user.uid, &user.gid]);
    if ids.copied().any(|id| id == u32::MAX) {
        return refused("4294967295 is no user or group");
    }
    let env = environment(target.env.into_iter().chain(spec.env), spec.tty);
    let cwd = spec.cwd.filter(|cwd| !cwd.is_empty()).unwrap_or(target.cwd);
    let texts = spec.args.iter().chain([&cwd]).chain(env.iter().flat_map(|(name, value)| [name, value]));
    if texts.into_iter().any(|text| text.contains('\0')) || env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
        return refused("arguments and environment hold no zero bytes, and names of variables no \"=\"");
    }
    Ok(Request {
        pid: target.pid,
        cgroup_procs: target.cgroup_procs,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        args: spec.args,
        env,
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        capabilities: capabilities(&target.capabilities)?.bits(),
        no_new_privileges: target.no_new_privileges,
        tty: spec.tty,
    })
}

/// One value for each name, the last.
fn environment(variables: impl Iterator<Item = (String, String)>, tty: bool) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), PATH.to_owned())];
    if tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let mut known: std::collections::HashMap<String, usize> =
        env.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
    for (name, value) in variables {
        match known.get(&name) {
            Some(index) => env[*index].1 = value,
            None => {
                known.insert(name.clone(), env.len());
                env.push((name, value));
            }
        }
    }
    env
}

fn capabilities(names: &[String]) -> Result<CapabilitySet, StartError> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        set |= CapabilitySet::from_name(short)
            .ok_or_else(|| StartError::CannotRun(format!("{name} is no capability of this kernel")))?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            pid: 7,
            cgroup_procs: Vec::new(),
            user: User { uid: 5, gid: 6, groups: vec![7] },
            env: vec![("A".to_owned(), "1".to_owned()), ("PATH".to_owned(), "/bin".to_owned())],
            cwd: String::new(),
            capabilities: vec!["CAP_CHOWN".to_owned(), "kill".to_owned()],
            no_new_privileges: true,
        }
    }

    fn spec(args: &[&str]) -> ExecSpec {
        ExecSpec { args: args.iter().map(|argument| (*argument).to_owned()).collect(), ..ExecSpec::default() }
    }

    #[test]
    fn what_is_not_said_comes_from_the_container() {
        let made =
            request(target(), ExecSpec { env: vec![("A".to_owned(), "2".to_owned())], tty: true, ..spec(&["sh"]) }).unwrap();
        let env: Vec<_> = made.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["PATH=/bin", "TERM=xterm", "A=2"]);
        assert_eq!((made.uid, made.gid, made.groups, made.cwd.as_str()), (5, 6, vec![7], "/"));
        assert_eq!(made.capabilities, 1 << 0 | 1 << 5);
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused_before_anything_starts() {
        for args in [&[][..], &[""], &["a\0b"]] {
            assert!(matches!(request(target(), spec(args)), Err(StartError::CannotRun(_))), "{args:?}");
        }
        let user = Some(User { uid: u32::MAX, ..User::default() });
        assert!(request(target(), ExecSpec { user, ..spec(&["sh"]) }).is_err());
        let named = Target { capabilities: vec!["CAP_FLY".to_owned()], ..target() };
        assert!(request(named, spec(&["sh"])).is_err());
        let env = vec![("A=B".to_owned(), String::new())];
        assert!(request(target(), ExecSpec { env, ..spec(&["sh"]) }).is_err());
    }
}
