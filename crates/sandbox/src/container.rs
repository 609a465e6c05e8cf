//! A container: prepared in a bundle directory, started by the runtime, watched by its process descriptor.

use crate::bundle::{self, Bundle};
use crate::machine::Inner as Machine;
use crate::{Error, Exec, ExecSpec, Exit, StartError, exec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// A container that runs or has run. Clones share it.
#[derive(Clone)]
pub struct Container {
    inner: Arc<Inner>,
}

struct Inner {
    bundle: Bundle,
    machine: Arc<Machine>,
    process: Arc<AsyncFd<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Container {
    /// Takes over a started container and waits for its end in the background.
    pub(crate) fn watch((bundle, process): (Bundle, OwnedFd), machine: Arc<Machine>) -> Result<Self, Error> {
        let process = Arc::new(AsyncFd::register(process).map_err(|error| Error::system("watch a process")(error.into()))?);
        let (sender, exit) = watch::channel(None);
        let (waited, cgroup, owner) = (process.clone(), bundle.cgroup.clone(), machine.clone());
        tokio::spawn(async move {
            let ended = end_of(&waited).await;
            // The counter goes with the group, so it is read before anybody knows of the end.
            let oom_killed = owner.cgroups.oom_kills(&cgroup) > 0;
            sender.send_replace(Some(Exit { oom_killed, ..ended }));
        });
        Ok(Self { inner: Arc::new(Inner { bundle, machine, process, exit }) })
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
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = rustix::process::pidfd_send_signal(self.inner.process.get_ref(), signal);
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

    /// Removes its group, mounts and written files; the container must have ended.
    pub async fn remove(&self) {
        let inner = self.inner.clone();
        let removed = tokio::task::spawn_blocking(move || bundle::remove(&inner.bundle, &inner.machine));
        let _ = removed.await;
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
