//! This process on this machine, and what processes before it left.
//!
//! Each live process holds a lock on a directory of its own below `/run/gantry`. A directory whose lock is free
//! belongs to a process that was killed: its control groups, interfaces and directories are found by the same name.

use crate::cgroup::Cgroups;
use crate::gate::Gate;
use crate::network::Network;
use crate::untaken::Untaken;
use crate::{Error, IdRange, Pod, PodOptions, Swept};
use futures::StreamExt as _;
use rustix::fs::FlockOperation;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The file whose lock says that its process lives.
const LOCK: &str = "lock";
/// A directory that is being made ends so; its name is never the name of an instance.
const FRESH: &str = "new";
/// Age at which a directory that is being made never will be.
const STALE: Duration = Duration::from_secs(60);
/// How long the end of this process waits for pods that are being made.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pods that are removed at the same time.
const REMOVED_AT_ONCE: usize = 8;

/// This process on this machine. Clones share it.
#[derive(Clone)]
pub struct Machine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) instance: String,
    pub(crate) ids: IdRange,
    pub(crate) cgroups: Cgroups,
    pub(crate) network: Network,
    pods: Mutex<HashMap<String, Pod>>,
    /// Who makes a pod is inside; the end of this process closes it.
    gate: Gate,
    directory: PathBuf,
    swept: Swept,
    /// Held as long as we live.
    _lock: File,
}

impl Machine {
    /// Sweeps what dead processes left below `run` and makes the network of this one's pods.
    ///
    /// # Errors
    /// When this machine cannot run pods.
    pub async fn open(run: &Path, ids: IdRange) -> Result<Self, Error> {
        let cgroups = Cgroups::find()?;
        std::fs::create_dir_all(run).map_err(Error::path("make", run))?;
        let swept = sweep(run, &cgroups).await?;
        let instance: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
        let directory = run.join(&instance);
        let lock = lock_new(&directory)?;
        let network = Network::create(&instance).await?;
        let pods = Mutex::new(HashMap::new());
        let gate = Gate::default();
        let inner = Inner { instance, ids, cgroups, network, pods, gate, directory, swept, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What dead processes had left.
    pub fn swept(&self) -> Swept {
        self.inner.swept
    }

    /// What everything of this process carries in its name: control groups, interfaces, its directory below `run`.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Address of this machine as pods see it.
    pub fn gateway(&self) -> IpAddr {
        self.inner.network.gateway()
    }

    /// Lets pods reach a TCP port of this machine, at any of its addresses but loopback. Must be called on a runtime.
    pub fn allow_port(&self, port: u16) {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.network.allow_port(port).await });
    }

    /// Makes the namespaces of a pod. When the future is dropped, the pod is removed as soon as it is there.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub async fn create_pod(&self, options: PodOptions) -> Result<Pod, Error> {
        let machine = self.clone();
        let created = tokio::spawn(async move {
            let _inside = machine.inner.gate.enter().await.ok_or_else(crate::pod::gone)?;
            let id = options.id.clone();
            let pod = Pod::create(machine.inner.clone(), options).await?;
            machine.pods().insert(id, pod.clone());
            Ok(Untaken::new(pod))
        });
        created.await.unwrap_or_else(|_| Err(crate::pod::gone())).map(Untaken::take)
    }

    /// Ends and removes everything of this process.
    pub async fn close(&self) {
        if !self.inner.gate.close(PATIENCE).await {
            tracing::warn!("a pod is still being made");
        }
        let pods: Vec<Pod> = self.pods().drain().map(|(_, pod)| pod).collect();
        let removals = futures::stream::iter(pods).for_each_concurrent(REMOVED_AT_ONCE, |pod| async move {
            if let Err(error) = pod.remove().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a pod was not removed");
            }
        });
        removals.await;
        self.inner.network.remove().await;
        let inner = self.inner.clone();
        let removed = tokio::task::spawn_blocking(move || {
            inner.cgroups.remove(&Cgroups::path(&[&inner.instance]))?;
            std::fs::remove_dir_all(&inner.directory).map_err(Error::path("remove", &inner.directory))
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "something was left behind");
        }
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pod>> {
        self.inner.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The pod is gone; `close` need not see to it.
    pub(crate) fn forget(&self, id: &str) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn lock_new(directory: &Path) -> Result<File, Error> {
    // Made and locked under another name, so that nobody takes it for a dead one in between.
    let fresh = directory.with_extension(FRESH);
    std::fs::create_dir_all(&fresh).map_err(Error::path("make", &fresh))?;
    let path = fresh.join(LOCK);
    let file = File::create(&path).map_err(Error::path("make", &path))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(Error::errno(format!("lock {}", path.display())))?;
    std::fs::rename(&fresh, directory).map_err(Error::path("make", directory))?;
    Ok(file)
}

/// Removes what belongs to nobody. What cannot be removed keeps its directory, so that the next program tries again.
///
/// Control groups without a directory here stay: another program may keep its directories elsewhere.
async fn sweep(run: &Path, cgroups: &Cgroups) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let mut dead = Vec::new();
    for entry in std::fs::read_dir(run).map_err(Error::path("read", run))?.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let is_fresh = path.extension().is_some_and(|extension| extension == FRESH);
        if !path.is_dir() || (name.contains('.') && !is_fresh) || (is_fresh && !is_stale(&path)) {
            continue;
        }
        match File::open(path.join(LOCK)) {
            Ok(file) if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() => {}
            // Nothing else was made in its name yet.
            _ if is_fresh => remove_stale(&path),
            // Held until its directory is gone, so that two starting processes do not both sweep it.
            Ok(file) => dead.push((name, Some(file))),
            Err(_) => dead.push((name, None)),
        }
    }
    for (name, lock) in dead {
        if let Err(error) = sweep_one(run, &name, cgroups, &mut swept).await {
            tracing::warn!(
                instance = name,
                error = &error as &dyn std::error::Error,
                "failed to remove what a killed program left"
            );
        }
        drop(lock);
    }
    Ok(swept)
}

async fn sweep_one(run: &Path, name: &str, cgroups: &Cgroups, swept: &mut Swept) -> Result<(), Error> {
    let (groups, path) = (cgroups.clone(), Cgroups::path(&[name]));
    let removed = tokio::task::spawn_blocking(move || groups.remove(&path)).await;
    let (processes, groups) = removed.unwrap_or_else(|_| Err(crate::pod::gone()))?;
    reap(&processes);
    swept.instances += 1;
    swept.processes += processes.len();
    swept.cgroups += groups;
    swept.interfaces += Network::sweep(name).await;
    let directory = run.join(name);
    std::fs::remove_dir_all(&directory).map_err(Error::path("remove", &directory))?;
    swept.directories += 1;
    Ok(())
}

fn is_stale(directory: &Path) -> bool {
    let changed = directory.metadata().and_then(|data| data.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > STALE))
}

fn remove_stale(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(directory = %directory.display(), %error, "failed to remove what a killed program left");
    }
}

/// Takes the exit codes of killed processes that have become our children, so that no zombie stays.
fn reap(processes: &BTreeSet<i32>) {
    for process in processes.iter().filter_map(|number| rustix::process::Pid::from_raw(*number)) {
        let _ = rustix::process::waitpid(Some(process), rustix::process::WaitOptions::NOHANG);
    }
}
