//! The file of `gantry run`: read at the start, and again whenever it or a file it names has changed.
//!
//! As GitLab Runner does, the file is looked at every 3 s, and on SIGHUP it is read again in any case. What a look sees
//! is time, size and number of the files, not their content: a ConfigMap is another file after each change. A file that
//! cannot be used is told once, until it changes again, and the configuration before stays.

use crate::connection::Connections;
use crate::rotate::Rotation;
use anyhow::{Context, Result};
use jiff::Timestamp;
use runner_config::Config;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Sender;

/// GitLab Runner's interval (row "run --config" of the parity inventory).
const LOOK: Duration = Duration::from_secs(3);

/// What is seen of a file without reading it; nothing when it is not there.
type Stamp = Option<(i64, i64, u64, u64)>;

/// The file and those that it names.
pub struct Watched {
    path: PathBuf,
    files: Vec<(PathBuf, Stamp)>,
    config: Config,
}

impl Watched {
    /// Reads the file for the first time; its warnings are to be told once there is a log.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn open(path: &Path) -> Result<(Self, Vec<runner_config::Problem>)> {
        let files = vec![(path.to_owned(), stamp(path))];
        let parsed = read(path)?;
        let mut watched = Self { path: path.to_owned(), files, config: parsed.config };
        watched.add_named_files();
        Ok((watched, parsed.warnings))
    }

    /// What it says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads it again; `None` when it says what it said before and no file that it names has changed.
    fn read_again(&mut self) -> Result<Option<Config>> {
        let named = self.files.split_off(1);
        // Before the content: what is written meanwhile is seen at the next look.
        self.files = vec![(self.path.clone(), stamp(&self.path))];
        let parsed = match read(&self.path) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.add_named_files();
                return Err(error);
            }
        };
        let said = std::mem::replace(&mut self.config, parsed.config);
        self.add_named_files();
        if said == self.config && named == self.files[1..] {
            return Ok(None);
        }
        tell(&self.path, &parsed.warnings);
        for (key, differs) in
            [("log_level", said.log_level != self.config.log_level), ("log_format", said.log_format != self.config.log_format)]
        {
            if differs {
                tracing::warn!(file = %self.path.display(), "{key} takes effect at the next start");
            }
        }
        Ok(Some(self.config.clone()))
    }

    fn add_named_files(&mut self) {
        let files = |runner: &runner_config::Runner| {
            let patches = runner.kubernetes.pod_spec.iter().map(|patch| &patch.patch_path);
            [&runner.tls_ca_file, &runner.tls_cert_file, &runner.tls_key_file]
                .into_iter()
                .chain(patches)
                .cloned()
                .collect::<Vec<_>>()
        };
        let named = self.config.runners.iter().flat_map(files).filter(|file| !file.is_empty());
        self.files.extend(named.map(|file| (PathBuf::from(&file), stamp(Path::new(&file)))));
    }

    fn has_changed(&self) -> bool {
        self.files.iter().any(|(path, seen)| stamp(path) != *seen)
    }
}

/// Tells what of a file has no effect.
pub fn tell(path: &Path, warnings: &[runner_config::Problem]) {
    for warning in warnings {
        tracing::warn!(file = %path.display(), line = warning.line, "{}", warning.message);
    }
}

fn read(path: &Path) -> Result<runner_config::Parsed> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut parsed = runner_config::parse(&text).map_err(|problems| anyhow::anyhow!("{}: {problems}", path.display()))?;
    let patches = parsed.config.runners.iter_mut().flat_map(|runner| &mut runner.kubernetes.pod_spec);
    for patch in patches.filter(|patch| !patch.patch_path.is_empty()) {
        let file = &patch.patch_path;
        patch.patch = std::fs::read_to_string(file).with_context(|| format!("failed to read patch_path {file}"))?;
    }
    Ok(parsed)
}

fn stamp(path: &Path) -> Stamp {
    let of = |data: Metadata| (data.mtime(), data.mtime_nsec(), data.size(), data.ino());
    std::fs::metadata(path).ok().map(of)
}

/// Sends each configuration that takes the place of the one before, for as long as somebody receives; a token that is due
/// is replaced first.
pub async fn watch(
    mut watched: Watched,
    mut connections: Connections,
    mut hangups: Hangups,
    mut rotation: Rotation,
    changes: Sender<manager::Change>,
) {
    loop {
        tokio::select! {
            () = hangups.next() => tracing::info!("SIGHUP: the configuration is read again"),
            () = tokio::time::sleep(LOOK) => {
                // Nobody stops this half way: the new token would be lost.
                rotation.turn(watched.config(), Timestamp::now()).await;
                if !watched.has_changed() {
                    continue;
                }
            }
            () = changes.closed() => return,
        }
        let change = match watched.read_again() {
            Ok(None) => continue,
            Ok(Some(config)) => connections.of(&config).await.map(|clusters| manager::Change { config, clusters }),
            Err(error) => Err(error),
        };
        match change {
            Ok(change) => {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the changed configuration cannot be used, the one before stays");
            }
        }
    }
}

/// SIGHUP, which ends a program that does not listen to it.
pub struct Hangups(Signal);

impl Hangups {
    /// From now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::Watched;
    use std::path::Path;

    fn write(path: &Path, token: &str, rest: &str) {
        let entry = "[[runners]]\nname = \"one\"\nurl = \"http://g\"\nexecutor = \"kubernetes\"\n";
        std::fs::write(path, format!("{entry}token = \"{token}\"\n{rest}")).unwrap();
    }

    #[test]
    fn a_file_that_says_the_same_is_no_change_and_a_broken_one_is_told_until_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        write(&path, "first", "");
        let (mut watched, _) = Watched::open(&path).unwrap();
        assert!(!watched.has_changed() && watched.read_again().unwrap().is_none());
        write(&path, "another", "");
        assert!(watched.has_changed());
        assert_eq!(watched.read_again().unwrap().unwrap().runners[0].token, "another");
        std::fs::write(&path, "concurrent = ").unwrap();
        assert!(watched.has_changed() && watched.read_again().is_err());
        assert!(!watched.has_changed(), "it is told once");
        assert_eq!(watched.config().runners[0].token, "another");
        write(&path, "another", "");
        assert!(watched.has_changed() && watched.read_again().unwrap().is_none(), "it says what it said before");
        std::fs::remove_file(&path).unwrap();
        assert!(watched.has_changed() && watched.read_again().is_err() && !watched.has_changed());
    }

    #[test]
    fn other_certificates_in_a_file_that_is_named_are_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (path, authority) = (directory.path().join("config.toml"), directory.path().join("ca.pem"));
        std::fs::write(&authority, "one").unwrap();
        write(&path, "first", &format!("tls-ca-file = {authority:?}\n"));
        let (mut watched, _) = Watched::open(&path).unwrap();
        assert!(!watched.has_changed());
        // Another file under the same name, as a mounted Secret changes.
        std::fs::write(directory.path().join("next"), "two").unwrap();
        std::fs::rename(directory.path().join("next"), &authority).unwrap();
        assert!(watched.has_changed() && watched.read_again().unwrap().is_some());
        assert!(!watched.has_changed() && watched.read_again().unwrap().is_none());
    }
}
