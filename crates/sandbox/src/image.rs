//! Images: root filesystems for containers, kept in a store on this machine.
//!
//! Whatever an image comes from (this machine itself, a layout directory, a registry), what a container gets is a list of
//! read-only directories in overlay format, owned by the id range of pods. They are unpacked once and shared by all pods.

mod credentials;
mod error;
mod etc;
mod host;
mod layers;
mod layout;
mod manifest;
mod paths;
mod registry;
mod store;
mod tarball;
mod transport;
mod unpack;
mod users;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OnceCell};

pub use error::ImageError;
pub use paths::{HostPaths, choose as choose_host_paths, host_paths};
pub use users::resolve_user;

use crate::{IdRange, Rootfs};
use host::HostImage;
use store::Store;

/// Name of the image that shows this machine.
pub const HOST: &str = "host";
const LAYOUT: &str = "oci:";

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Each time; layers that are here already are not fetched again.
    Always,
    /// Only when the image is not here.
    #[default]
    IfNotPresent,
    /// Not at all.
    Never,
}

/// A user of a registry. Its debug output does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What of this machine the `host` image shows, besides `/usr` and a filtered `/etc`.
#[derive(Debug, Clone, Default)]
pub struct HostOptions {
    /// Directories (or files) shown read-only at their own place; see [`host_paths`].
    pub paths: Vec<PathBuf>,
    /// Absolute paths inside those that are hidden, besides the files that look like credentials.
    pub mask: Vec<PathBuf>,
    /// `PATH` of the user; that of this process when not given. What of it can be seen becomes `PATH` of the image.
    pub path: Option<String>,
}

/// The host image under another name, with files of this machine laid in.
#[derive(Debug, Clone)]
pub struct BuiltinImage {
    /// What pods call it.
    pub name: String,
    /// Each file: where it is here, and its absolute path in the image.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// What a store is opened with.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// For the `host` image and the builtin ones.
    pub host: HostOptions,
    /// Images made of the host image.
    pub builtin: Vec<BuiltinImage>,
    /// Registries (`host` or `host:port`) spoken to without TLS. Those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// Further certificate authorities to trust, in PEM.
    pub ca_pem: Option<String>,
}

/// An image, ready to be mounted.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:` and the digest of the image's configuration; for the host image, of what it is made of.
    pub id: String,
    /// What to mount.
    pub root: Rootfs,
    /// What to run when nothing else is asked for.
    pub config: ImageConfig,
}

/// The part of an image's configuration that matters to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Start of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, when the container gives none.
    pub cmd: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// User as [`resolve_user`] takes it; empty for root.
    pub user: String,
    /// Signal that asks the command to end, by name or number.
    pub stop_signal: Option<String>,
}

/// Images on this machine. Several processes may use one directory at the same time.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    options: StoreOptions,
    host: OnceCell<HostImage>,
    /// Files are laid in once: containers that run have them mounted.
    builtin: Mutex<HashMap<String, Image>>,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if need be, and removes what processes that died left half done.
    pub fn open(dir: &Path, ids: IdRange, options: StoreOptions) -> Result<ImageStore, ImageError> {
        let store = Store::open(dir, ids)?;
        Ok(ImageStore { inner: Arc::new(Inner { store, options, host: OnceCell::new(), builtin: Mutex::default() }) })
    }

    /// The image `reference` names: `host`, a builtin image, `oci:DIRECTORY[:TAG]`, or an image in a registry.
    pub async fn get(&self, reference: &str, policy: PullPolicy, auth: Option<&RegistryAuth>) -> Result<Image, ImageError> {
        let inner = &self.inner;
        if reference == HOST {
            return Ok(self.host().await?.image());
        }
        if let Some(builtin) = inner.options.builtin.iter().find(|builtin| builtin.name == reference) {
            return self.builtin(builtin.clone()).await;
        }
        if let Some(place) = reference.strip_prefix(LAYOUT) {
            return layout::get(&inner.store, reference, place).await;
        }
        registry::get(&inner.store, &inner.options, reference, policy, auth).await
    }

    /// The host paths that the `host` image shows.
    pub fn host_paths(&self) -> &[PathBuf] {
        &self.inner.options.host.paths
    }

    async fn host(&self) -> Result<&HostImage, ImageError> {
        let inner = &self.inner;
        inner
            .host
            .get_or_try_init(|| async {
                let (directory, ids, options) = (inner.store.own().join("host"), inner.store.ids(), inner.options.host.clone());
                store::blocking(move || {
                    // an attempt that failed may have left a part
                    store::remove_tree(&directory)?;
                    HostImage::build(&directory, ids, &options)
                })
                .await
            })
            .await
    }

    async fn builtin(&self, builtin: BuiltinImage) -> Result<Image, ImageError> {
        let mut made = self.inner.builtin.lock().await;
        if let Some(image) = made.get(&builtin.name) {
            return Ok(image.clone());
        }
        self.host().await?;
        let (inner, name) = (Arc::clone(&self.inner), builtin.name.clone());
        let image = store::blocking(move || {
            let host = inner.host.get().ok_or_else(|| ImageError::Host { reason: "it is not made yet".to_owned() })?;
            host.with_files(&builtin)
        })
        .await?;
        made.insert(name, image.clone());
        Ok(image)
    }
}
