//! Removes directories of pods, and nothing else.
//!
//! A container's root shows directories of this machine. Were such a mount still there when the directory around it is
//! removed, the machine's own files would go. So mounts are looked for first, and a directory that has one after all
//! stays.

use rustix::mount::UnmountFlags;
use std::io;
use std::path::Path;

/// Removes a directory with all that is below it; one that is gone is no error.
///
/// # Errors
/// When something below is mounted and stays so, or what the kernel says.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for mount in sandbox::mounts_at_or_below(&path)?.iter().rev() {
        tracing::warn!(path = %mount.display(), "a mount of a pod was left, and is removed");
        rustix::mount::unmount(mount, UnmountFlags::DETACH)?;
    }
    if let Some(mount) = sandbox::mounts_at_or_below(&path)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::remove_directory;

    #[test]
    fn a_directory_goes_once_and_twice() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("d");
        std::fs::create_dir_all(directory.join("e")).unwrap();
        remove_directory(&directory).unwrap();
        remove_directory(&directory).unwrap();
        assert!(!directory.exists());
    }
}
