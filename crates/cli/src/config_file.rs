//! The configuration as a file that is written: as a whole or not at all, and by one program at a time.
//!
//! Whoever wants to write first writes what stands there already. So it is known before anything is asked of GitLab
//! that the file can be written: a token that nobody can write down is lost. A ConfigMap cannot, nor can a file that is
//! a mount of its own.

use anyhow::{Context, Result, bail};
use runner_config::Runner;
use std::fs::{File, Metadata, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Another program asks GitLab at most once while it holds the file.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

/// A file that nobody else writes meanwhile, as long as they keep to this.
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    directory: File,
}

impl ConfigFile {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let by = Instant::now() + PATIENCE;
        loop {
            match Self::try_open(path)? {
                Some(file) => return Ok(file),
                None if Instant::now() > by => bail!("another program is writing {}", path.display()),
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// `None` when it is another program's turn.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn try_open(path: &Path) -> Result<Option<Self>> {
        let failed = || format!("failed to write {}", path.display());
        // A link stays a link to what is written.
        let path = path.canonicalize().with_context(|| format!("failed to read {}", path.display()))?;
        // The directory, because the file is another one after each change.
        let directory = File::open(path.parent().unwrap_or(Path::new("/"))).with_context(failed)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let mut file = Self { path, text, directory };
        file.replace(file.text.clone()).with_context(failed)?;
        Ok(Some(file))
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// From now on it says this; who owns it and who may read it stays.
    ///
    /// # Errors
    /// When it cannot be written; then it says what it said before.
    pub fn replace(&mut self, text: String) -> std::io::Result<()> {
        let old = std::fs::metadata(&self.path)?;
        let mut new =
            tempfile::Builder::new().prefix(".config.toml.").tempfile_in(self.path.parent().unwrap_or(Path::new("/")))?;
        new.write_all(text.as_bytes())?;
        give(new.as_file(), &old)?;
        new.as_file().sync_all()?;
        new.persist(&self.path).map_err(|failed| failed.error)?;
        self.text = text;
        self.directory.sync_all()
    }

    /// Takes entries out; `all` are those that it has.
    ///
    /// # Errors
    /// When it cannot be changed or written.
    pub fn remove(&mut self, all: &[Runner], gone: &[&Runner]) -> Result<()> {
        let is_gone = |runner: &Runner| gone.iter().any(|one| one.is_same(runner));
        let entries: Vec<_> = all.iter().enumerate().filter(|(_, runner)| is_gone(runner)).map(|(index, _)| index).collect();
        if entries.is_empty() {
            return Ok(());
        }
        let text = runner_config::edit::without(&self.text, &entries)?;
        self.replace(text).with_context(|| format!("failed to write {}", self.path.display()))
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // Said, because a program that is being started meanwhile has a copy of the handle for a moment.
        let _ = self.directory.unlock();
    }
}

/// Gives a file to whom another one belongs.
fn give(file: &File, like: &Metadata) -> std::io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(like.permissions())
}

#[cfg(test)]
mod tests {
    use super::ConfigFile;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_file_is_written_as_a_whole_by_one_at_a_time_and_keeps_its_rights_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("config.toml"), directory.path().join("link.toml"));
        std::fs::write(&path, "one").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        let mut file = ConfigFile::open(&link).unwrap();
        assert!(ConfigFile::try_open(&path).unwrap().is_none(), "it is not their turn");
        assert_eq!(file.text(), "one");
        file.replace("two".to_owned()).unwrap();
        drop(file);
        assert_eq!(ConfigFile::try_open(&path).unwrap().unwrap().text(), "two");
        assert!(link.is_symlink());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(directory.path().read_dir().unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_told_before_anything_is_done() {
        // Nobody, root included, makes a file there.
        let error = ConfigFile::open(std::path::Path::new("/proc/self/status")).err().unwrap();
        assert!(format!("{error:#}").starts_with("failed to write /proc/self/status: "), "{error:#}");
    }
}
