//! A container: prepared in a bundle directory, started by the runtime, watched by its process descriptor.

use crate::bundle::{self, Bundle};
use crate::machine::Inner as Machine;
use crate::pod::Inner as Pod;
use crate::{Error, Exec, ExecSpec, Exit, StartError, exec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OnceCell, watch};

/// How long a killed process may take to end; one that waits for a dead disk takes forever.
const KILLED: Duration = Duration::from_secs(10);

/// A container that runs or has run. Clones share it.
#[derive(Clone)]
pub struct Container {
    inner: Arc<Inner>,
}

struct Inner {
    bundle: Bundle,
    machine: Arc<Machine>,
    pod: Weak<Pod>,
    name: String,
    /// Set once: after that its name is free for another.
    removed: OnceCell<()>,
    process: Arc<AsyncFd<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Container {
    /// Takes over a started container and waits for its end in the background.
    pub(crate) fn watch((bundle, process): (Bundle, OwnedFd), name: String, pod: &Arc<Pod>) -> Result<Self, Error> {
        let machine = pod.machine.clone();
        // SAFETY: the descriptor is owned, moved in, and never replaced, so it stays the one that was registered.
        let registered = unsafe { AsyncFd::register(process) };
        let process = match registered {
            Ok(process) => Arc::new(process),
            Err(error) => {
                bundle::remove(&bundle, &machine);
                return Err(Error::system("watch a process")(error.into()));
            }
        };
        let (sender, exit) = watch::channel(None);
        let (waited, cgroup, owner) = (process.clone(), bundle.cgroup.clone(), machine.clone());
        tokio::spawn(async move {
            let ended = end_of(&waited).await;
            // The counter goes with the group, so it is read before anybody knows of the end.
            let oom_killed = owner.cgroups.oom_kills(&cgroup) > 0;
            sender.send_replace(Some(Exit { oom_killed, ..ended }));
        });
        Ok(Self {
            inner: Arc::new(Inner { bundle, machine, pod: Arc::downgrade(pod), name, removed: OnceCell::new(), process, exit }),
        })
    }

    /// Number of its first process on this machine.
    pub fn pid(&self) -> i32 {
        self.inner.bundle.target.pid
    }

    /// Waits for the end of its first process; as often as one likes.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.inner.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        // The watching task ends only with an exit, or with the program.
        ended.unwrap_or(Exit { code: 255, signal: None, oom_killed: false })
    }

    /// Signals its first process.
    pub fn kill(&self, signal: i32) {
        if self.inner.exit.borrow().is_some() {
            return;
        }
        let process = self.inner.process.get_ref().as_raw_fd();
        let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: the descriptor is open for the call, and no information is passed. By number, because real-time
        // signals have no fixed names.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, signal, info, flags) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            // It ended just now.
            if error.raw_os_error() != Some(libc::ESRCH) {
                tracing::warn!(container = self.inner.name, signal, %error, "failed to signal a container");
            }
        }
    }

    /// Runs a further program in it.
    ///
    /// # Errors
    /// When the container has ended or has no such program.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, StartError> {
        if self.inner.exit.borrow().is_some() {
            return Err(StartError::CannotRun("the container has ended".to_owned()));
        }
        exec::start(self.inner.bundle.target.clone(), spec).await
    }

    /// Removes its group, mounts and written files; the container must have ended. Goes on when the future is dropped.
    pub async fn remove(&self) {
        let inner = self.inner.clone();
        let removal = async move {
            inner.removed.get_or_init(|| inner.remove()).await;
        };
        let _ = tokio::spawn(removal).await;
    }

    /// Kills and removes it.
    pub(crate) async fn end(&self) {
        self.kill(libc::SIGKILL);
        if tokio::time::timeout(KILLED, self.wait()).await.is_err() {
            tracing::warn!(cgroup = self.inner.bundle.cgroup, "a killed container does not end");
        }
        self.remove().await;
    }
}

impl Inner {
    async fn remove(self: &Arc<Self>) {
        let inner = self.clone();
        let _ = tokio::task::spawn_blocking(move || bundle::remove(&inner.bundle, &inner.machine)).await;
        if let Some(pod) = self.pod.upgrade() {
            pod.forget(&self.name);
        }
    }
}

async fn end_of(process: &AsyncFd<OwnedFd>) -> Exit {
    loop {
        let Ok(mut ready) = process.readable().await else {
            return Exit { code: 255, signal: None, oom_killed: false };
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(process.get_ref().as_fd()), options) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal();
                let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(255);
                return Exit { code, signal, oom_killed: false };
            }
            Ok(None) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
            Err(error) => {
                tracing::error!(%error, "a container's process was waited for by somebody else");
                return Exit { code: 255, signal: None, oom_killed: false };
            }
        }
    }
}
