//! Puts images into the cluster's containerd, as there is no registry to pull them from.

use super::paths::Paths;
use super::process::quietly;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Imports an OCI layout unless containerd has that very digest under its name.
pub fn import(paths: &Paths, name: &str, layout: &Path) -> Result<()> {
    let digest = digest(layout)?;
    if imported(&quietly(ctr(paths).args(["images", "list"]))?, name, &digest) {
        eprintln!("image {name}: is there");
        return Ok(());
    }
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(layout)
        .args(["-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start tar")?;
    let content = tar.stdout.take().context("tar has no output")?;
    let output = ctr(paths).args(["images", "import", "-"]).stdin(content).output().context("failed to start ctr")?;
    let packed = tar.wait()?;
    if !output.status.success() || !packed.success() {
        bail!("failed to import {}: {}", layout.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    if !imported(&quietly(ctr(paths).args(["images", "list"]))?, name, &digest) {
        bail!("{} was imported, but not as {name}: its annotations have another name", layout.display());
    }
    eprintln!("image {name}: imported");
    Ok(())
}

pub fn ctr(paths: &Paths) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(paths.socket()).args(["--namespace", "k8s.io"]);
    command
}

/// The digest of the layout's one manifest.
fn digest(layout: &Path) -> Result<String> {
    let path = layout.join("index.json");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let index: Value = serde_json::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))?;
    let digest = index["manifests"][0]["digest"].as_str().with_context(|| format!("{} has no manifest", path.display()))?;
    Ok(digest.to_owned())
}

/// Whether `ctr images list` has the name with the digest. Its columns are name, media type, digest, size and more.
fn imported(list: &str, name: &str, digest: &str) -> bool {
    list.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|words| words.first() == Some(&name) && words.get(2) == Some(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_another_digest_is_not_the_same() {
        let list = "REF TYPE DIGEST SIZE PLATFORMS LABELS\ndocker.io/library/busybox:latest application/vnd.oci.image.manifest.v1+json sha256:aa 2.3 MiB linux/amd64 -\n";
        assert!(imported(list, "docker.io/library/busybox:latest", "sha256:aa"));
        assert!(!imported(list, "docker.io/library/busybox:latest", "sha256:bb"));
        assert!(!imported(list, "docker.io/library/busybox", "sha256:aa"));
    }
}
