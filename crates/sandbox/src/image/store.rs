//! The store's directory: what is where, who may touch it, and what survives a crash.
//!
//! ```text
//! blobs/HEX          manifests and configurations, named by their sha256
//! layers/BASE-SIZE/  unpacked layers for one range of ids, each named by the sha256 of its tar stream
//! names/HEX          which manifest a reference named when it was last pulled
//! locks/             one file for each thing being made, locked while it is made
//! own/UUID/          what one process is making or has for itself; UUID.lock is locked as long as the process lives
//! ```
//!
//! Everything appears under its name by a rename, whole or not at all. Locks are those of the kernel, so a process that is
//! killed holds none.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::FlockOperation;

use super::error::ImageError;
use crate::IdRange;

type Key = Arc<tokio::sync::Mutex<()>>;

/// An open store.
#[derive(Debug, Clone)]
pub(super) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    ids: IdRange,
    own: PathBuf,
    _alive: File,
    keys: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Held while one thing is made. Dropping it lets the next one go on.
#[derive(Debug)]
pub(super) struct Guard {
    _file: File,
    _key: tokio::sync::OwnedMutexGuard<()>,
}

impl Store {
    /// Makes what is missing of the store's directories and removes what dead processes left in `own`.
    pub(super) fn open(directory: &Path, ids: IdRange) -> Result<Store, ImageError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        let layers = directory.join("layers").join(format!("{}-{}", ids.base, ids.size));
        for path in [directory.join("blobs"), layers, directory.join("names"), directory.join("locks"), directory.join("own")] {
            builder.create(&path).map_err(ImageError::disk("make", &path))?;
        }
        // others may pass, as a pod's root must to what is mounted for it, and not look around
        for private in ["blobs", "layers", "names", "locks", "own"] {
            let path = directory.join(private);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            fs::set_permissions(&path, mode).map_err(ImageError::disk("set the mode of", &path))?;
        }
        sweep(&directory.join("own"))?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let alive = lock_file(&directory.join("own").join(format!("{name}.lock")), FlockOperation::NonBlockingLockExclusive)?;
        let own = directory.join("own").join(&name);
        builder.create(&own).map_err(ImageError::disk("make", &own))?;
        let inner = Inner { directory: directory.to_owned(), ids, own, _alive: alive, keys: Mutex::default() };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The range that layers are unpacked for.
    pub(super) fn ids(&self) -> IdRange {
        self.inner.ids
    }

    /// A directory of this process alone, removed with the store.
    pub(super) fn own(&self) -> &Path {
        &self.inner.own
    }

    /// A name in [`Store::own`] that nothing has yet.
    pub(super) fn fresh(&self) -> PathBuf {
        self.inner.own.join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Where the layer with this diff id (hex) is or will be.
    pub(super) fn layer(&self, hex: &str) -> PathBuf {
        let ids = self.inner.ids;
        self.inner.directory.join("layers").join(format!("{}-{}", ids.base, ids.size)).join(hex)
    }

    /// Content of the blob with this digest (hex), when it is here.
    pub(super) fn read_blob(&self, hex: &str) -> Result<Option<Vec<u8>>, ImageError> {
        read_if_there(&self.inner.directory.join("blobs").join(hex))
    }

    /// Keeps a small blob under its digest (hex), which the caller has checked.
    pub(super) fn write_blob(&self, hex: &str, content: &[u8]) -> Result<(), ImageError> {
        self.write(&self.inner.directory.join("blobs").join(hex), content)
    }

    /// What [`Store::write_name`] kept under this key (hex).
    pub(super) fn read_name(&self, hex: &str) -> Result<Option<Vec<u8>>, ImageError> {
        read_if_there(&self.inner.directory.join("names").join(hex))
    }

    /// Remembers what a reference names.
    pub(super) fn write_name(&self, hex: &str, content: &[u8]) -> Result<(), ImageError> {
        self.write(&self.inner.directory.join("names").join(hex), content)
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let part = self.fresh();
        let write = || {
            fs::write(&part, content)?;
            File::open(&part)?.sync_all()?;
            fs::rename(&part, path)
        };
        write().map_err(ImageError::disk("write", path))
    }

    /// Waits until nobody else, in this process or another, is making `key` (letters, digits, `-`, `_`, `.`).
    pub(super) async fn lock(&self, key: &str) -> Result<Guard, ImageError> {
        // first among ourselves: a thousand tasks must not fill the threads that block on the kernel's lock
        let turn = Arc::clone(&self.turn(key)).lock_owned().await;
        let path = self.inner.directory.join("locks").join(key.replace('/', "_"));
        let file = blocking(move || lock_file(&path, FlockOperation::LockExclusive)).await?;
        Ok(Guard { _file: file, _key: turn })
    }

    fn turn(&self, key: &str) -> Key {
        let mut keys = self.inner.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = keys.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Key::default();
        keys.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.own) {
            tracing::debug!(path = %self.own.display(), %error, "left for the next start");
            return;
        }
        let lock = self.own.with_extension("lock");
        if fs::remove_file(&lock).is_err() {
            tracing::debug!(path = %lock.display(), "left for the next start");
        }
    }
}

/// Runs what touches the disk on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Disk { action: "finish".to_owned(), source: io::Error::other(error) }),
    }
}

/// Removes a directory and all below it; one that is not there is fine.
pub(super) fn remove_tree(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::disk("remove", path)(error)),
        _ => Ok(()),
    }
}

fn lock_file(path: &Path, operation: FlockOperation) -> Result<File, ImageError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(ImageError::disk("open", path))?;
    rustix::fs::flock(&file, operation).map_err(|error| ImageError::disk("lock", path)(error.into()))?;
    Ok(file)
}

/// Removes what belongs to processes that live no more.
fn sweep(own: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(own).map_err(ImageError::disk("read", own))?.flatten() {
        let lock = entry.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        // somebody else may sweep too, or hold it: both are fine
        let Ok(_held) = lock_file(&lock, FlockOperation::NonBlockingLockExclusive) else { continue };
        remove_tree(&lock.with_extension(""))?;
        drop(fs::remove_file(&lock));
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::disk("read", path)(error)),
    }
}
