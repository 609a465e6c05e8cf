//! This process on this machine, and what processes before it left.
//!
//! Each live process holds a lock on a directory of its own below `/run/gantry`. A directory whose lock is free
//! belongs to a process that was killed: its control groups, interfaces and directories are found by the same name.

use crate::cgroup::Cgroups;
use crate::network::Network;
use crate::{Error, IdRange, Pod, PodOptions, Swept};
use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file whose lock says that its process lives.
const LOCK: &str = "lock";

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
        let inner = Inner { instance, ids, cgroups, network, pods, directory, swept, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What dead processes had left.
    pub fn swept(&self) -> Swept {
        self.inner.swept
    }

    /// Address of this machine as pods see it.
    pub fn gateway(&self) -> IpAddr {
        self.inner.network.gateway()
    }

    /// Lets pods reach a TCP port of the gateway. Must be called on a runtime.
    pub fn allow_port(&self, port: u16) {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.network.allow_port(port).await });
    }

    /// Makes the namespaces of a pod.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub async fn create_pod(&self, options: PodOptions) -> Result<Pod, Error> {
        let id = options.id.clone();
        let pod = Pod::create(self.inner.clone(), options).await?;
        self.pods().insert(id, pod.clone());
        Ok(pod)
    }

    /// Ends and removes everything of this process.
    pub async fn close(&self) {
        let pods: Vec<Pod> = self.pods().drain().map(|(_, pod)| pod).collect();
        for pod in pods {
            if let Err(error) = pod.remove().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a pod was not removed");
            }
        }
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
    let fresh = directory.with_extension("new");
    std::fs::create_dir_all(&fresh).map_err(Error::path("make", &fresh))?;
    let path = fresh.join(LOCK);
    let file = File::create(&path).map_err(Error::path("make", &path))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(Error::errno(format!("lock {}", path.display())))?;
    std::fs::rename(&fresh, directory).map_err(Error::path("make", directory))?;
    Ok(file)
}

/// Removes what belongs to nobody.
async fn sweep(run: &Path, cgroups: &Cgroups) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let mut dead = Vec::new();
    for entry in std::fs::read_dir(run).map_err(Error::path("read", run))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains('.') || !entry.path().is_dir() {
            continue;
        }
        match File::open(entry.path().join(LOCK)) {
            Ok(file) if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() => {}
            // Held until its directory is gone, so that two starting processes do not both sweep it.
            Ok(file) => dead.push((name, Some(file))),
            Err(_) => dead.push((name, None)),
        }
    }
    for (name, lock) in dead {
        let (groups, path) = (cgroups.clone(), Cgroups::path(&[&name]));
        let removed = tokio::task::spawn_blocking(move || groups.remove(&path)).await;
        let (processes, groups) = removed.unwrap_or(Ok((0, 0)))?;
        swept.instances += 1;
        swept.processes += processes;
        swept.cgroups += groups;
        swept.interfaces += Network::sweep(&name).await;
        if std::fs::remove_dir_all(run.join(&name)).is_ok() {
            swept.directories += 1;
        }
        drop(lock);
    }
    Ok(swept)
}
