//! A pod: namespaces, shared files and an address, for containers that belong together.

use crate::cgroup::Cgroups;
use crate::container::Container;
use crate::gate::Gate;
use crate::machine::Inner as Machine;
use crate::namespaces::Namespaces;
use crate::network::Link;
use crate::untaken::Untaken;
use crate::{ContainerSpec, Error, PodOptions, StartError, bundle, files, mounts, spec};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Size of `/dev/shm`, Kubernetes' own.
const SHM: &str = "mode=1777,size=64m";

/// How long removal waits for a killed container, and for containers that are being started.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod. Clones share it.
#[derive(Clone)]
pub struct Pod {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) machine: Arc<Machine>,
    pub(crate) namespaces: Namespaces,
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    /// Files and directories that every container sees, with their places.
    pub(crate) shared: Vec<(PathBuf, PathBuf)>,
    address: Option<IpAddr>,
    link: Mutex<Option<Link>>,
    /// Those that are not removed, by their names; `None` while one is being started.
    containers: Mutex<BTreeMap<String, Option<Container>>>,
    /// Who starts a container is inside; removal closes it.
    gate: Gate,
}

impl Pod {
    pub(crate) async fn create(machine: Arc<Machine>, options: PodOptions) -> Result<Self, Error> {
        if !spec::is_name(&options.id) {
            return Err(Error::Name { name: options.id });
        }
        let directory = options.run_dir.clone();
        let namespaces = {
            let (machine, options) = (machine.clone(), options.clone());
            blocking(move || {
                files::make_passable(&options.run_dir, machine.ids)?;
                Namespaces::create(&options.hostname, options.host_network, machine.ids)
            })
            .await?
        };
        let link = match namespaces.hold()?.network() {
            Some(network) => Some(machine.network.connect(&network).await?),
            None => None,
        };
        let address = link.as_ref().map(|link| link.address);
        let made = {
            let (machine, options) = (machine.clone(), options.clone());
            blocking(move || {
                let mut shared = files::write(&options.run_dir.join("etc"), &options, address, machine.ids)?;
                let shm = options.run_dir.join("shm");
                std::fs::create_dir_all(&shm).map_err(Error::path("make", &shm))?;
                mounts::tmpfs(&shm, SHM)?;
                shared.push((shm, PathBuf::from("/dev/shm")));
                Ok(shared)
            })
            .await
        };
        let inner = Inner {
            machine,
            namespaces,
            id: options.id,
            directory,
            shared: Vec::new(),
            address,
            link: Mutex::new(link),
            containers: Mutex::new(BTreeMap::new()),
            gate: Gate::default(),
        };
        match made {
            Ok(shared) => Ok(Self { inner: Arc::new(Inner { shared, ..inner }) }),
            Err(error) => {
                let _ = Self { inner: Arc::new(inner) }.remove().await;
                Err(error)
            }
        }
    }

    /// Its address; `None` with the host's network.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inner.address
    }

    /// Starts a container. When the future is dropped, the container is removed as soon as it is there.
    ///
    /// # Errors
    /// When its program is missing or the machine refuses.
    pub async fn start(&self, spec: ContainerSpec) -> Result<Container, StartError> {
        let pod = self.clone();
        let started = tokio::spawn(async move { pod.start_now(spec).await.map(Untaken::new) });
        started.await.map_err(|_| gone())?.map(Untaken::take)
    }

    async fn start_now(&self, spec: ContainerSpec) -> Result<Container, StartError> {
        let removed = || StartError::CannotRun("the pod was removed".to_owned());
        let _inside = self.inner.gate.enter().await.ok_or_else(removed)?;
        let name = spec.name.clone();
        self.inner.reserve(&name)?;
        let inner = self.inner.clone();
        let prepared = tokio::task::spawn_blocking(move || bundle::start(&inner, spec)).await;
        let started = prepared
            .unwrap_or_else(|_| Err(gone().into()))
            .and_then(|prepared| Ok(Container::watch(prepared, name.clone(), &self.inner)?));
        let container = started.inspect_err(|_| self.inner.forget(&name))?;
        if self.inner.gate.is_closed() {
            container.end().await;
            return Err(removed());
        }
        self.inner.containers().insert(name, Some(container.clone()));
        Ok(container)
    }

    /// Kills what is left and removes everything of the pod but its directory. Goes on when the future is dropped.
    ///
    /// # Errors
    /// When a control group cannot be removed.
    pub async fn remove(&self) -> Result<(), Error> {
        let pod = self.clone();
        tokio::spawn(async move { pod.remove_now().await }).await.unwrap_or_else(|_| Err(gone()))
    }

    async fn remove_now(&self) -> Result<(), Error> {
        if !self.inner.gate.close(PATIENCE).await {
            tracing::warn!(pod = self.inner.id, "a container is still being started in a pod that is removed");
        }
        let containers: Vec<Container> = self.inner.containers().values().flatten().cloned().collect();
        futures::future::join_all(containers.iter().map(Container::end)).await;
        let link = self.inner.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(link) = link {
            self.inner.machine.network.disconnect(link).await;
        }
        let inner = self.inner.clone();
        blocking(move || {
            let removed = inner.machine.cgroups.remove(&Cgroups::path(&[&inner.machine.instance, &inner.id]));
            inner.namespaces.release();
            mounts::detach_below(&inner.directory)?;
            inner.machine.forget(&inner.id);
            removed.map(|_| ())
        })
        .await
    }
}

impl Inner {
    /// Two containers of one name would share a directory and a control group.
    fn reserve(&self, name: &str) -> Result<(), Error> {
        match self.containers().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(Error::InUse { name: name.to_owned() }),
            Entry::Vacant(free) => {
                free.insert(None);
                Ok(())
            }
        }
    }

    /// The container is gone; another may have its name.
    pub(crate) fn forget(&self, name: &str) {
        self.containers().remove(name);
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Option<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runtime is going down.
pub(crate) fn gone() -> Error {
    Error::Reexec { what: "work on a pod", message: "the program is ending".to_owned() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(gone()))
}
