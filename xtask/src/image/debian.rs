//! The Debian that the helper image and the test image with git stand on: `mmdebstrap`, less what no job needs.
//!
//! Debian and not something smaller, because jobs' hooks and git's helpers expect glibc, bash and a full git. Made once
//! for a recipe and kept, since it takes more than a minute; `--fresh` makes it again, with the updates of the day.

use super::layer::{Layer, Layers, digest, replace};
use super::platform::Platform;
use super::tree::{EPOCH, Tree};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";
const PACKAGES: &str = "git,git-lfs,ca-certificates,busybox-static";
/// Raised when what is kept of the tree changes.
const RECIPE: u32 = 1;

/// A Debian that lies on the disk.
#[derive(Clone, Debug)]
pub struct Debian {
    pub layer: Layer,
    /// What dpkg says is installed.
    pub status: PathBuf,
    /// The certificates of authorities, in one file.
    pub certificates: PathBuf,
}

impl Debian {
    /// The Debian of a platform, made if it is not there.
    pub fn get(layers: &Layers, platform: Platform) -> Result<Self> {
        let key = key(platform);
        let (status, certificates) = (layers.beside(&key, "dpkg-status"), layers.beside(&key, "ca-certificates.crt"));
        if !status.exists() || !certificates.exists() {
            layers.forget(&key)?;
        }
        let layer = layers.get(&key, &format!("Debian {SUITE} with {PACKAGES}"), || {
            let tree = make(platform)?;
            for (path, kept) in [("var/lib/dpkg/status", &status), ("etc/ssl/certs/ca-certificates.crt", &certificates)] {
                replace(kept, tree.content(path).with_context(|| format!("the Debian has no /{path}"))?)?;
            }
            Ok(tree)
        })?;
        Ok(Self { layer, status, certificates })
    }

    /// Makes it again at the next `get`.
    pub fn forget(layers: &Layers, platform: Platform) -> Result<()> {
        layers.forget(&key(platform))
    }
}

fn key(platform: Platform) -> String {
    let recipe = format!("{RECIPE} {SUITE} {PACKAGES} {EPOCH} {}", platform.architecture());
    format!("debian-{}", &digest(recipe.as_bytes())[7..23])
}

fn make(platform: Platform) -> Result<Tree> {
    let place = tempfile::tempdir()?;
    let tar = place.path().join("debian.tar");
    eprintln!("+ mmdebstrap {SUITE} with {PACKAGES} (once; about two minutes)");
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--architectures={}", platform.architecture()))
        .arg(format!("--include={PACKAGES}"))
        .args(["--aptopt=Acquire::Retries \"3\"", "--aptopt=Acquire::http::Timeout \"30\""])
        .arg(SUITE)
        .arg(&tar)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .output()
        .context("failed to start mmdebstrap (apt-get install mmdebstrap)")?;
    if !output.status.success() {
        bail!("mmdebstrap: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Tree::read(std::io::BufReader::new(File::open(&tar)?), is_wanted)
}

/// Whether a file of the Debian belongs into the image. Left out is what differs from machine to machine, what the
/// runtime lays over anyway, and pages that nobody reads in a pod; licences stay.
fn is_wanted(path: &str) -> bool {
    const CONTENT_OF: [&str; 10] = [
        "dev/",
        "proc/",
        "sys/",
        "run/",
        "tmp/",
        "var/cache/",
        "var/log/",
        "usr/share/man/",
        "usr/share/info/",
        "usr/share/locale/",
    ];
    const FILES: [&str; 4] = ["etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id"];
    if path.starts_with("usr/share/doc/") {
        return path.ends_with("/copyright");
    }
    let is_old = path.starts_with("var/lib/dpkg/") && path.ends_with("-old");
    !is_old && !FILES.contains(&path) && !CONTENT_OF.iter().any(|directory| path.starts_with(directory))
}

/// Where layers keep what belongs to them.
impl Layers {
    fn beside(&self, key: &str, name: &str) -> PathBuf {
        self.directory().join(format!("{key}.{name}"))
    }

    fn forget(&self, key: &str) -> Result<()> {
        let about: &Path = &self.beside(key, "json");
        match fs::remove_file(about) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove {}", about.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn what_differs_from_machine_to_machine_is_left_out_and_licences_stay() {
        for path in
            ["etc/resolv.conf", "dev/null", "var/log/apt/history.log", "usr/share/doc/git/README", "var/lib/dpkg/status-old"]
        {
            assert!(!is_wanted(path), "{path}");
        }
        for path in ["dev", "tmp", "var/log", "usr/share/doc/git/copyright", "usr/bin/git", "var/lib/dpkg/status"] {
            assert!(is_wanted(path), "{path}");
        }
    }
}
