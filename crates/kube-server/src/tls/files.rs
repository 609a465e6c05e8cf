//! Files that only their owner may read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What failed, with the reason as its source.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Failed {
    what: String,
    source: io::Error,
}

/// Puts what failed in front of an error, whose kind it keeps.
pub fn failed(what: String) -> impl FnOnce(io::Error) -> io::Error {
    move |source| io::Error::new(source.kind(), Failed { what, source })
}

/// Makes a directory with mode 0700, or gives that mode to the one that is there.
pub fn private_directory(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(failed(format!("failed to make the private directory {}", path.display())))
}

/// Writes a file with mode 0600 in one step: a reader sees the old content or the new, whatever happens meanwhile.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |temporary| std::fs::rename(temporary, path))
}

/// The same for a file that must not exist: of several processes at once, one wins, and the others get `AlreadyExists`.
pub fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |temporary| {
        let linked = std::fs::hard_link(temporary, path);
        // The other name of the same file; a leftover harms nobody.
        let _ = std::fs::remove_file(temporary);
        linked
    })
}

fn place(path: &Path, content: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = directory.join(format!(".gantry-{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        put(&temporary)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // It may not have come into being.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(failed(format!("failed to write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::{create_private, write_private};
    use std::io::ErrorKind;

    #[test]
    fn files_are_replaced_or_created_and_nothing_is_left_beside_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create_private(&path, b"first").unwrap();
        assert_eq!(create_private(&path, b"second").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_private(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
