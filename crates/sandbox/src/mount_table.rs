//! What is mounted, as the kernel lists it in `/proc/self/mountinfo` (proc(5)).
//!
//! Read as bytes: a mount of somebody else's may lie at a path that is no UTF-8, and must not be in the way.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Mount points of this process' namespace at or below a path, in the order they were made.
///
/// # Errors
/// When the list cannot be read.
pub fn mounts_at_or_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(below(&std::fs::read("/proc/self/mountinfo")?, path))
}

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
    use super::below;
    use std::path::{Path, PathBuf};

    #[test]
    fn mounts_at_and_below_a_path_are_found() {
        let table = b"1 0 0:1 / /data rw - tmpfs tmpfs rw\n2 1 0:2 / /data/a\\040b/c rw - tmpfs tmpfs rw\n\
            3 1 0:3 / /data/a\\040bc rw - tmpfs tmpfs rw\n4 1 0:4 / /data/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(below(table, Path::new("/data/a b")), [PathBuf::from("/data/a b/c"), PathBuf::from("/data/a b")]);
        assert_eq!(below(table, Path::new("/other")), Vec::<PathBuf>::new());
    }
}
