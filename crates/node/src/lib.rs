//! kube-server's pods in sandboxes on one machine: scheduler and kubelet in one.
//!
//! The node stands behind the API server in memory: what it does to pods, it does through the store, with the reasons
//! and words of a real kubelet, so that whoever watches cannot tell the difference. Pure parts (what a pod's fields
//! mean, what its status says, whether it fits) are apart from those that touch the machine. Knows no jobs and no
//! GitLab.

pub mod logs;
pub mod quantity;
pub mod spec;
pub mod status;
pub mod volumes;

mod backend;
mod clock;
mod instance;
mod kubelet;
mod pod;
mod removal;

pub use sandbox::image::host_paths;
pub use sandbox::image::{HostPaths, choose_host_paths};
pub use sandbox::{Swept, enter, reexec};

use backend::Backend;
use futures::future::OptionFuture;
use instance::Instance;
use kube_server::{Kind, Store};
use kubelet::{Facts, Kubelet, Shared};
use sandbox::image::{BuiltinImage, HOST, HostOptions, ImageStore, PullPolicy, StoreOptions};
use sandbox::{IdRange, Machine};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Image that is the `host` image with the agent in it. It has the name of the released helper image of this version, so
/// that a manager asks every cluster for the same; with a tag, since Kubernetes would pull one without a tag each time.
pub const HELPER_IMAGE: &str = concat!("gantry-helper:", env!("CARGO_PKG_VERSION"));
/// Where the agent lies in it.
const HELPER_AGENT: &str = "/usr/bin/gantry-agent";

/// How a node is made.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// What lives as long as this process: locks, namespaces. `/run/gantry`.
    pub run_dir: PathBuf,
    /// What is large or stays: images, volumes, logs. `/var/lib/gantry`.
    pub data_dir: PathBuf,
    /// The agent for the built-in image [`HELPER_IMAGE`]; without it, there is no such image.
    pub agent: Option<PathBuf>,
    /// Directories of this machine that the image `host` shows besides `/usr`.
    pub host_paths: Vec<PathBuf>,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
}

/// Why a node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine cannot run pods.
    #[error(transparent)]
    Machine(#[from] sandbox::Error),
    /// The images cannot be kept.
    #[error("failed to open the image store {path}")]
    Images {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: sandbox::image::ImageError,
    },
    /// The directory of this process' pods cannot be made.
    #[error("failed to make the directory of pods below {path}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node cannot be shown in the API.
    #[error("failed to register the node")]
    Register(#[source] kube_server::ApiError),
}

/// A running node.
pub struct Node {
    kubelet: Arc<Kubelet>,
    machine: Machine,
    store: Store,
    mounted: Vec<PathBuf>,
    stop: CancellationToken,
    /// The kubelet's loop, until somebody waits for its end.
    follows: Mutex<Option<JoinHandle<()>>>,
    instance: Instance,
}

impl Node {
    /// Starts a node with an empty store; sweeps what dead processes left first.
    ///
    /// # Errors
    /// When this machine cannot run pods.
    pub async fn start(options: NodeOptions) -> Result<Self, Error> {
        let ids = IdRange::default();
        let machine = Machine::open(&options.run_dir, ids).await?;
        let instance = Instance::open(&options.data_dir.join("pods"), ids.base)
            .map_err(|source| Error::Directory { path: options.data_dir.clone(), source })?;
        let images = open_images(&options, ids)?;
        warm(&images, options.agent.is_some());
        let facts = Facts::read(&options.data_dir);
        let host_ip = machine.gateway().to_string();
        let store = Store::new();
        let now = clock::text();
        store.create(Kind::Node, "", facts.node(&host_ip, &now)).map_err(Error::Register)?;
        let directory = instance.directory().to_owned();
        let shared = Shared { store: store.clone(), machine: machine.clone(), images, ids, facts, host_ip, directory };
        let kubelet = Kubelet::new(shared);
        let stop = CancellationToken::new();
        let follows = Mutex::new(Some(tokio::spawn(kubelet.clone().run(stop.clone()))));
        Ok(Self { kubelet, machine, store, mounted: options.host_paths, stop, follows, instance })
    }

    /// The Kubernetes API of the node. It asks for no proof of who calls: only this process may reach it as it is.
    pub fn router(&self) -> axum::Router {
        kube_server::router(self.store.clone(), Arc::new(Backend(self.kubelet.clone())))
    }

    /// Address of this machine as pods see it.
    pub fn gateway(&self) -> IpAddr {
        self.machine.gateway()
    }

    /// Lets pods reach a TCP port of this machine, at any of its addresses but loopback.
    pub fn allow_port(&self, port: u16) {
        self.machine.allow_port(port);
    }

    /// What dead processes had left.
    pub fn swept(&self) -> Swept {
        self.machine.swept()
    }

    /// Directories of this machine that the image `host` shows besides `/usr`.
    pub fn mounted(&self) -> Vec<PathBuf> {
        self.mounted.clone()
    }

    /// Whether there is a pod that nobody has deleted yet, of whatever phase.
    pub fn has_pods(&self) -> bool {
        let (pods, _) = self.store.list(Kind::Pod, None, &kube_server::Selectors::default());
        pods.iter().any(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
    }

    /// Ends all pods and removes everything of them.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = OptionFuture::from(follows).await {
            tracing::error!(%error, "the loop of the node ended badly");
        }
        self.kubelet.end_all().await;
        self.machine.close().await;
        self.instance.remove();
    }
}

/// Makes the images of this machine before the first pod asks for them: that pod starts a tenth of a second sooner.
fn warm(images: &ImageStore, with_helper: bool) {
    let images = images.clone();
    tokio::spawn(async move {
        let names = [Some(HOST), with_helper.then_some(HELPER_IMAGE)];
        for name in names.into_iter().flatten() {
            if let Err(error) = images.get(name, PullPolicy::Never, None).await {
                tracing::warn!(image = name, %error, "failed to make an image of this machine; pods that need it will say so");
            }
        }
    });
}

fn open_images(options: &NodeOptions, ids: IdRange) -> Result<ImageStore, Error> {
    let path = options.data_dir.join("images");
    let helper = options
        .agent
        .iter()
        .map(|agent| BuiltinImage { name: HELPER_IMAGE.to_owned(), files: vec![(agent.clone(), PathBuf::from(HELPER_AGENT))] });
    let store = StoreOptions {
        host: HostOptions { paths: options.host_paths.clone(), ..HostOptions::default() },
        builtin: helper.collect(),
        insecure_registries: options.insecure_registries.clone(),
        ca_pem: None,
    };
    ImageStore::open(&path, ids, store).map_err(|source| Error::Images { path, source })
}
