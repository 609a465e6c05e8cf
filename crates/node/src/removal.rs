//! Removes directories of pods, and nothing else.
//!
//! A container's root shows directories of this machine. Were such a mount still there when the directory around it is
//! removed, the machine's own files would go. So mounts are looked for first, and a directory that has one after all
//! stays.

use rustix::mount::UnmountFlags;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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
    for mount in mounts_below(&path)?.iter().rev() {
        tracing::warn!(path = %mount.display(), "a mount of a pod was left, and is removed");
        rustix::mount::unmount(mount, UnmountFlags::DETACH)?;
    }
    if let Some(mount) = mounts_below(&path)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(below(&std::fs::read("/proc/self/mountinfo")?, path))
}

/// Mount points at or below a path, in the order they were made.
fn below(mountinfo: &[u8], path: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    points.filter(|point| point.starts_with(path)).collect()
}

/// The kernel writes space, tab, line end and backslash as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::{below, remove_directory};
    use std::path::{Path, PathBuf};

    #[test]
    fn mounts_at_and_below_a_path_are_found() {
        let table = b"1 0 0:1 / /data rw - tmpfs tmpfs rw\n2 1 0:2 / /data/a\\040b/c rw - tmpfs tmpfs rw\n\
            3 1 0:3 / /data/a\\040bc rw - tmpfs tmpfs rw\n4 1 0:4 / /data/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(below(table, Path::new("/data/a b")), [PathBuf::from("/data/a b/c"), PathBuf::from("/data/a b")]);
        assert_eq!(below(table, Path::new("/other")), Vec::<PathBuf>::new());
    }

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
