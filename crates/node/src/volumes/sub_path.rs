//! A part of a volume, found without being led out of it.
//!
//! What is in a volume belongs to the pod: a container may put a symbolic link where the next one looks for its
//! directory, even between our look and our mount. So the path is opened with the volume as its root, and what was
//! opened is mounted by its descriptor; a path is never looked at twice.

use super::content::is_inside;
use super::{Mounts, Owner};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mode of a directory that is made because it is missing (Kubernetes' own).
const MODE: u32 = 0o750;

/// What was found, mounted where nobody but us can change the way to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether it is a file.
    pub is_file: bool,
}

/// Finds `sub_path` below `volume`, makes directories that are missing, and shows it at `staging`.
///
/// # Errors
/// A path that leads out, or what the kernel says.
pub fn resolve(volume: &Path, sub_path: &str, staging: &Path, owner: Owner, mounts: &Mounts) -> io::Result<Found> {
    if !is_inside(sub_path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("subPath \"{sub_path}\" must stay within the volume")));
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let found = open_or_make(&root, sub_path, owner)?;
    let is_file = match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Directory => false,
        FileType::Symlink => return Err(io::Error::other(format!("subPath \"{sub_path}\" is a symbolic link"))),
        _ => true,
    };
    if let Some(parent) = staging.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if is_file {
        std::fs::write(staging, b"")?;
    } else {
        std::fs::create_dir_all(staging)?;
    }
    mounts.bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), staging)?;
    Ok(Found { path: staging.to_owned(), is_file })
}

fn open_or_make(root: &OwnedFd, sub_path: &str, owner: Owner) -> io::Result<OwnedFd> {
    let open = |path: &str| {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)
    };
    match open(sub_path) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let mut so_far = String::new();
    let mut parent = open(".")?;
    for part in sub_path.split('/') {
        so_far.push_str(part);
        match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(MODE)) {
            Ok(()) => {
                let (user, group) = (rustix::fs::Uid::from_raw(owner.base), rustix::fs::Gid::from_raw(owner.group()));
                rustix::fs::chownat(&parent, part, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = open(&so_far)?;
        so_far.push('/');
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::{Owner, open_or_make};
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    fn found(volume: &std::path::Path, sub_path: &str) -> std::io::Result<PathBuf> {
        let root = rustix::fs::open(volume, OFlags::PATH, Mode::empty()).unwrap();
        let me = Owner { base: rustix::process::getuid().as_raw(), fs_group: None };
        let file = open_or_make(&root, sub_path, me)?;
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    #[test]
    fn missing_directories_are_made_and_links_stay_inside_of_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().canonicalize().unwrap().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        assert_eq!(found(&volume, "a/b").unwrap(), volume.join("a/b"));
        std::os::unix::fs::symlink("/a", volume.join("absolute")).unwrap();
        assert_eq!(found(&volume, "absolute/b").unwrap(), volume.join("a/b"), "the volume is the root of its links");
        std::os::unix::fs::symlink("../outside", volume.join("up")).unwrap();
        assert!(
            !found(&volume, "up").is_ok_and(|path| path.ends_with("v/../outside") || path == directory.path().join("outside"))
        );
        std::os::unix::fs::symlink("/proc/self/root", volume.join("magic")).unwrap();
        assert!(found(&volume, "magic/etc").is_err());
    }
}
