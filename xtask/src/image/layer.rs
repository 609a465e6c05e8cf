//! Layers as compressed files, kept by what they were made from.
//!
//! gzip, since every registry and every containerd unpacks it (zstd needs 1.5 and a registry that knows it). The `gzip`
//! of the system does the work: its output has not changed in many releases, `-n` leaves names and times out, and the
//! 150 MB of a Debian take it 9 s, where a development build of this program needs minutes.

use super::tree::Tree;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A layer that lies on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layer {
    /// What made it, for the image's history.
    pub what: String,
    /// Where its compressed content lies.
    #[serde(skip)]
    pub path: PathBuf,
    /// Of the compressed content.
    pub digest: String,
    /// Of the tar in it.
    pub diff_id: String,
    /// Of the compressed content, in bytes.
    pub size: u64,
}

/// Where layers are kept.
#[derive(Clone, Debug)]
pub struct Layers(PathBuf);

impl Layers {
    /// Keeps layers below a directory.
    pub fn at(directory: &Path) -> Self {
        Self(directory.join("layers"))
    }

    /// Where they lie.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The layer of that key, made if it is not there. The key must change with the content.
    pub fn get(&self, key: &str, what: &str, make: impl FnOnce() -> Result<Tree>) -> Result<Layer> {
        let path = self.0.join(format!("{key}.tar.gz"));
        let about = self.0.join(format!("{key}.json"));
        if let Ok(text) = fs::read(&about)
            && let Ok(layer) = serde_json::from_slice::<Layer>(&text)
            && fs::metadata(&path).is_ok_and(|found| found.len() == layer.size)
        {
            return Ok(Layer { path, ..layer });
        }
        fs::create_dir_all(&self.0).with_context(|| format!("failed to make {}", self.0.display()))?;
        let tree = make()?;
        let fresh = tempfile::NamedTempFile::new_in(&self.0)?;
        let (diff_id, digest, size) = compress(&tree, fresh.path())?;
        let layer = Layer { what: what.to_owned(), path: path.clone(), digest, diff_id, size };
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        fresh.persist(&path).with_context(|| format!("failed to keep {}", path.display()))?;
        replace(&about, &serde_json::to_vec(&layer)?)?;
        Ok(layer)
    }
}

/// Writes a file at once, so that nobody sees half of it.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut fresh =
        tempfile::NamedTempFile::new_in(directory).with_context(|| format!("failed to write in {}", directory.display()))?;
    fresh.write_all(content)?;
    fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    fresh.persist(path).with_context(|| format!("failed to keep {}", path.display()))?;
    Ok(())
}

/// `sha256:` and the hexadecimal digest.
pub fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

/// Compresses a tree's tar into a file: the digest of the tar, that of the file, and its size.
fn compress(tree: &Tree, to: &Path) -> Result<(String, String, u64)> {
    let mut gzip = Command::new("gzip")
        .args(["-n", "-6"])
        .env_remove("GZIP")
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .spawn()
        .context("failed to start gzip")?;
    let input = gzip.stdin.take().context("gzip has no input")?;
    let mut digesting = Digesting { inner: BufWriter::with_capacity(1 << 20, input), sum: Sha256::new() };
    tree.write(&mut digesting)?;
    let Digesting { inner, sum } = digesting;
    drop(inner.into_inner().context("failed to write to gzip")?);
    let status = gzip.wait()?;
    if !status.success() {
        bail!("gzip: {status}");
    }
    let (compressed, size) = file_digest(to)?;
    Ok((format!("sha256:{}", hex::encode(sum.finalize())), compressed, size))
}

/// A file's digest and size.
pub fn file_digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    let (mut sum, mut buffer, mut size) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("failed to read {}", path.display()))?;
        if count == 0 {
            return Ok((format!("sha256:{}", hex::encode(sum.finalize())), size));
        }
        sum.update(&buffer[..count]);
        size += count as u64;
    }
}

struct Digesting<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
