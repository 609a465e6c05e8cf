//! A pod: namespaces, shared files and an address, for containers that belong together.

use crate::cgroup::Cgroups;
use crate::container::Container;
use crate::machine::Inner as Machine;
use crate::namespaces::Namespaces;
use crate::network::Link;
use crate::{ContainerSpec, Error, PodOptions, StartError, bundle, files, mounts};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Size of `/dev/shm`, Kubernetes' own.
const SHM: &str = "mode=1777,size=64m";

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
    containers: Mutex<Vec<Container>>,
}

impl Pod {
    pub(crate) async fn create(machine: Arc<Machine>, options: PodOptions) -> Result<Self, Error> {
        let directory = options.run_dir.clone();
        let namespaces = {
            let (machine, options) = (machine.clone(), options.clone());
            blocking(move || {
                std::fs::create_dir_all(&options.run_dir).map_err(Error::path("make", &options.run_dir))?;
                // Processes of the pod pass through to what is theirs; they cannot list it.
                let passable = std::fs::Permissions::from_mode(0o711);
                std::fs::set_permissions(&options.run_dir, passable).map_err(Error::path("open", &options.run_dir))?;
                let place = options.run_dir.join("ns");
                Namespaces::create(&place, &options.hostname, options.host_network, machine.ids)
            })
            .await?
        };
        let link = if options.host_network {
            None
        } else {
            let connected = machine.network.connect(&namespaces.file("net")).await;
            Some(connected.inspect_err(|_| namespaces.remove())?)
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
            containers: Mutex::new(Vec::new()),
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

    /// Starts a container.
    ///
    /// # Errors
    /// When its program is missing or the machine refuses.
    pub async fn start(&self, spec: ContainerSpec) -> Result<Container, StartError> {
        let inner = self.inner.clone();
        let prepared = tokio::task::spawn_blocking(move || bundle::start(&inner, spec)).await;
        let prepared = prepared.map_err(|_| gone())??;
        let container = Container::watch(prepared, self.inner.machine.clone())?;
        self.containers().push(container.clone());
        Ok(container)
    }

    /// Kills what is left and removes everything of the pod but its directory.
    ///
    /// # Errors
    /// When a control group cannot be removed.
    pub async fn remove(&self) -> Result<(), Error> {
        let containers: Vec<Container> = self.containers().drain(..).collect();
        for container in containers {
            container.kill(libc::SIGKILL);
            container.wait().await;
            container.remove().await;
        }
        let link = self.inner.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(link) = link {
            self.inner.machine.network.disconnect(link).await;
        }
        let inner = self.inner.clone();
        blocking(move || {
            let removed = inner.machine.cgroups.remove(&Cgroups::path(&[&inner.machine.instance, &inner.id]));
            inner.namespaces.remove();
            mounts::detach_below(&inner.directory)?;
            inner.machine.forget(&inner.id);
            removed.map(|_| ())
        })
        .await
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, Vec<Container>> {
        self.inner.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runtime is going down.
fn gone() -> Error {
    Error::Reexec { what: "work on a pod", message: "the program is ending".to_owned() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(gone()))
}
