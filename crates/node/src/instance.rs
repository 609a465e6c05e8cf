//! The directory of this process' pods, and the end of those that dead processes left.
//!
//! A directory belongs to whoever holds the lock on the file in it; the kernel lets go of it when the process dies,
//! however it dies. Making and sweeping happen under one more lock, so that nobody sweeps a directory that is just
//! being made. The machine is swept before, so nothing runs in a directory that is removed here.

use crate::removal::remove_directory;
use rustix::fs::FlockOperation;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lock of one instance, in its directory.
const LOCK: &str = "lock";
/// Lock of making and sweeping.
const SWEEP_LOCK: &str = ".lock";

/// A directory that is ours.
#[derive(Debug)]
pub struct Instance {
    directory: PathBuf,
    /// Held, never read.
    _lock: File,
}

impl Instance {
    /// Removes what dead processes left below `parent` and makes a directory of our own. Processes of `group`, which is
    /// root's inside pods, may pass through it; no other user of the machine gets to the volumes below.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(parent: &Path, group: u32) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, Permissions::from_mode(0o711))?;
        let sweeping = File::create(parent.join(SWEEP_LOCK))?;
        rustix::fs::flock(&sweeping, FlockOperation::LockExclusive)?;
        sweep(parent)?;
        let directory = parent.join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&directory)?;
        std::os::unix::fs::chown(&directory, None, Some(group))?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o710))?;
        let lock = File::create(directory.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes it.
    pub fn remove(&self) {
        if let Err(error) = remove_directory(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "failed to remove the directory of pods");
        }
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let is_dead = match File::open(path.join(LOCK)) {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // Nobody makes a directory while we hold the sweep lock, so one without a lock is half removed.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_dead && let Err(error) = remove_directory(&path) {
            tracing::warn!(path = %path.display(), %error, "failed to remove what a dead process left");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Instance;

    #[test]
    fn directories_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let first = Instance::open(parent.path(), rustix::process::getgid().as_raw()).unwrap();
        let dead = Instance::open(parent.path(), rustix::process::getgid().as_raw()).unwrap();
        let dead_directory = dead.directory().to_owned();
        std::fs::write(dead_directory.join("file"), b"x").unwrap();
        drop(dead);
        let third = Instance::open(parent.path(), rustix::process::getgid().as_raw()).unwrap();
        assert!(first.directory().exists() && third.directory().exists());
        assert!(!dead_directory.exists());
    }
}
