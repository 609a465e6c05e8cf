//! The volumes of a pod on disk and in memory.
//!
//! Everything is made with ids of the pods' range, so that a container's root owns it without any mapping at mount
//! time. Files out of Secrets and ConfigMaps live in one memory file system per pod: they never touch the disk, and
//! go with one unmount. Mounts are made in this process's own mount namespace, so they end with it, whatever happens.

pub mod content;
mod sub_path;

pub use content::{Content, ContentError, Files, Question};
pub use sub_path::resolve;

use k8s_openapi::api::core::v1::{Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Room beyond the files themselves in the memory file system of a pod: directories and rounding.
const SLACK: u64 = 1 << 20;

/// Who owns the files of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Host id of the containers' root.
    pub base: u32,
    /// `fsGroup`, as it is inside the pod.
    pub fs_group: Option<u32>,
}

impl Owner {
    fn group(self) -> u32 {
        self.base + self.fs_group.unwrap_or(0)
    }
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where.
    pub path: PathBuf,
    /// Whether containers may only read it.
    pub read_only: bool,
}

/// The mounts this process made for a pod, newest last.
#[derive(Debug, Default)]
pub struct Mounts(Mutex<Vec<PathBuf>>);

impl Mounts {
    /// Mounts a memory file system.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory(&self, at: &Path, size: Option<u64>) -> io::Result<()> {
        let size = size.map_or(String::new(), |size| format!(",size={size}"));
        let options = std::ffi::CString::new(format!("mode=0755{size}")).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
        self.remember(at);
        Ok(())
    }

    /// Shows what a descriptor stands for at another place, however its path changes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(&self, from: &Path, at: &Path) -> io::Result<()> {
        rustix::mount::mount_bind(from, at)?;
        self.remember(at);
        Ok(())
    }

    fn remember(&self, at: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(at.to_owned());
    }

    /// Takes all of them away.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for path in all.iter().rev() {
            if let Err(error) = rustix::mount::unmount(path, UnmountFlags::DETACH) {
                tracing::warn!(path = %path.display(), %error, "failed to unmount a volume");
            }
        }
    }
}

/// The volumes of a pod: those that are there, and those that never will be, with the reason.
#[derive(Debug, Default)]
pub struct Volumes {
    /// By name.
    pub ready: BTreeMap<String, Ready>,
    /// By name.
    pub refused: BTreeMap<String, String>,
}

/// Why the volumes are not there yet; the text is that of a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub struct NotReady {
    /// Which volume.
    pub volume: String,
    /// Why.
    pub why: String,
}

/// Makes all volumes below `directory`. May be called again after an error.
///
/// # Errors
/// The first volume that cannot be made yet.
pub fn prepare(question: &Question<'_>, directory: &Path, owner: Owner, mounts: &Mounts) -> Result<Volumes, NotReady> {
    let mut volumes = Volumes::default();
    let mut files = Vec::new();
    let all: &[Volume] = question.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    for volume in all {
        let not_ready = |why: String| NotReady { volume: volume.name.clone(), why };
        match content::content(question, volume) {
            Err(ContentError::Refused(why)) => {
                volumes.refused.insert(volume.name.clone(), why);
            }
            Err(ContentError::Missing(why)) => return Err(not_ready(why)),
            Ok(Content::Files(content)) => files.push((volume.name.clone(), content)),
            Ok(Content::Empty) => {
                let path = directory.join("empty").join(&volume.name);
                empty(&path, owner).map_err(|error| not_ready(error.to_string()))?;
                volumes.ready.insert(volume.name.clone(), Ready { path, read_only: false });
            }
            Ok(Content::Memory(size)) => {
                let path = directory.join("memory").join(&volume.name);
                memory(&path, size, owner, mounts).map_err(|error| not_ready(error.to_string()))?;
                volumes.ready.insert(volume.name.clone(), Ready { path, read_only: false });
            }
        }
    }
    let place = directory.join("files");
    if let Some((first, _)) = files.first() {
        let size = files.iter().flat_map(|(_, files)| files.values()).map(|file| file.bytes.len() as u64 + 8192).sum::<u64>();
        let made = make_directory(&place).and_then(|()| mounts.memory(&place, Some(size + SLACK)));
        made.map_err(|error| NotReady { volume: first.clone(), why: error.to_string() })?;
    }
    for (name, files) in files {
        let path = place.join(&name);
        write(&path, &files, owner).map_err(|error| NotReady { volume: name.clone(), why: error.to_string() })?;
        volumes.ready.insert(name, Ready { path, read_only: true });
    }
    Ok(volumes)
}

/// Makes a directory that may be there already.
fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Anybody in the pod may write; with `fsGroup`, what they make belongs to the group.
fn empty(path: &Path, owner: Owner) -> io::Result<()> {
    make_directory(path)?;
    chown(path, Some(owner.base), Some(owner.group()))?;
    let mode = if owner.fs_group.is_some() { 0o2777 } else { 0o777 };
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

fn memory(path: &Path, size: Option<u64>, owner: Owner, mounts: &Mounts) -> io::Result<()> {
    make_directory(path)?;
    mounts.memory(path, size)?;
    empty(path, owner)
}

/// Writes files; with `fsGroup` the group may read them, as the kubelet does it for volumes it mounts read-only.
fn write(directory: &Path, files: &Files, owner: Owner) -> io::Result<()> {
    let own = |path: &Path, mode: u32| {
        chown(path, Some(owner.base), Some(owner.group()))?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    };
    let directory_mode = if owner.fs_group.is_some() { 0o2775 } else { 0o755 };
    make_directory(directory)?;
    own(directory, directory_mode)?;
    for (name, file) in files {
        let path = directory.join(name);
        for parent in Path::new(name).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            make_directory(&directory.join(parent))?;
            own(&directory.join(parent), directory_mode)?;
        }
        std::fs::write(&path, &file.bytes)?;
        own(&path, if owner.fs_group.is_some() { file.mode | 0o440 } else { file.mode })?;
    }
    Ok(())
}

/// The size limits on disk that nobody enforces here, for an event that says so.
pub fn unenforced_limits(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let limited = volumes.iter().filter(|volume| {
        volume
            .empty_dir
            .as_ref()
            .is_some_and(|empty| empty.size_limit.is_some() && empty.medium.as_deref().unwrap_or_default().is_empty())
    });
    limited.map(|volume| format!("sizeLimit of volume {}", volume.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Files, Owner, content, write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn files_have_their_mode_and_the_group_may_read_them() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::from([("a/b".to_owned(), content::File { bytes: b"x".to_vec(), mode: 0o400 })]);
        let me = rustix::process::getuid().as_raw();
        let volume = directory.path().join("v");
        write(&volume, &files, Owner { base: me, fs_group: None }).unwrap();
        let file = std::fs::metadata(volume.join("a/b")).unwrap();
        assert_eq!((file.permissions().mode() & 0o7777, file.uid()), (0o400, me));
        write(&volume, &files, Owner { base: me, fs_group: Some(0) }).unwrap();
        assert_eq!(std::fs::metadata(volume.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o440);
        assert_eq!(std::fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777, 0o2775);
    }
}
