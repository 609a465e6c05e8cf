//! What registries and layout directories say about an image, and which of several platforms is ours.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::ImageConfig;
use super::error::ImageError;

/// Manifests, indexes and configurations are read into memory, up to this.
pub(super) const DOCUMENT_BYTES: u64 = 4 << 20;
/// How many layers an overlay takes.
const LAYERS: usize = 400;

/// Points at content by its digest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What a manifest in an index is for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
}

/// Either kind of document that a name can lead to.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// An image for one platform.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// What an image's configuration says.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

impl Descriptor {
    /// The digest's hex part; only sha256 is taken.
    pub(super) fn hex(&self, reference: &str) -> Result<&str, ImageError> {
        hex(&self.digest, reference)
    }
}

impl Configuration {
    /// Hex digests of the unpacked layers, bottom first.
    pub(super) fn diff_ids(&self, reference: &str) -> Result<Vec<String>, ImageError> {
        self.rootfs.diff_ids.iter().map(|id| hex(id, reference).map(str::to_owned)).collect()
    }

    /// What a container needs of it.
    pub(super) fn image_config(&self) -> ImageConfig {
        let Some(run) = &self.config else { return ImageConfig::default() };
        let pair = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        ImageConfig {
            entrypoint: run.entrypoint.clone().unwrap_or_default(),
            cmd: run.cmd.clone().unwrap_or_default(),
            env: run.env.iter().flatten().filter_map(pair).collect(),
            working_dir: run.working_dir.clone().unwrap_or_default(),
            user: run.user.clone().unwrap_or_default(),
            stop_signal: run.stop_signal.clone().filter(|signal| !signal.is_empty()),
        }
    }
}

/// Reads an index or a manifest.
pub(super) fn document(content: &[u8], reference: &str) -> Result<Document, ImageError> {
    let value: serde_json::Value = serde_json::from_slice(content).map_err(damaged(reference, "its manifest"))?;
    if value.get("manifests").is_some() {
        let index: Index = serde_json::from_value(value).map_err(damaged(reference, "its index"))?;
        return Ok(Document::Index(index.manifests));
    }
    if value.get("fsLayers").is_some() {
        let reason = "its manifest is of schema 1, which registries have given up; push it again".to_owned();
        return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(damaged(reference, "its manifest"))?;
    if manifest.layers.len() > LAYERS {
        let reason = format!("it has {} layers, and {LAYERS} can be mounted", manifest.layers.len());
        return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
    }
    Ok(Document::Manifest(manifest))
}

/// Reads a configuration that must be for this machine.
pub(super) fn configuration(content: &[u8], reference: &str) -> Result<Configuration, ImageError> {
    let configuration: Configuration = serde_json::from_slice(content).map_err(damaged(reference, "its configuration"))?;
    let ours = |given: &str, own: &str| given.is_empty() || given == own;
    if ours(&configuration.os, "linux") && ours(&configuration.architecture, architecture()) {
        return Ok(configuration);
    }
    let reason =
        format!("no match for platform linux/{}; it is for {}/{}", architecture(), configuration.os, configuration.architecture);
    Err(ImageError::NotFound { reference: reference.to_owned(), reason })
}

/// The manifest of an index that is for this machine.
pub(super) fn choose(index: &[Descriptor], reference: &str) -> Result<Descriptor, ImageError> {
    let ours = |it: &&Descriptor| {
        it.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    if let Some(descriptor) = index.iter().find(ours) {
        return Ok(descriptor.clone());
    }
    match index {
        // nothing to choose from: its configuration says whether it fits
        [only] if only.platform.is_none() => Ok(only.clone()),
        _ => {
            let reason = format!("no match for platform linux/{} in its manifest", architecture());
            Err(ImageError::NotFound { reference: reference.to_owned(), reason })
        }
    }
}

/// This machine's architecture, in the words of images.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// sha256 as lower case hex.
pub(super) fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Whether this content is what the descriptor promises.
pub(super) fn check(content: &[u8], descriptor: &Descriptor, reference: &str) -> Result<(), ImageError> {
    if sha256(content) == descriptor.hex(reference)? {
        return Ok(());
    }
    let reason = format!("content of {} does not match its digest", descriptor.digest);
    Err(ImageError::Damaged { reference: reference.to_owned(), reason })
}

fn hex<'a>(digest: &'a str, reference: &str) -> Result<&'a str, ImageError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => Ok(hex),
        _ => {
            let digest: String = digest.chars().take(80).collect();
            let reason = format!("{} is no sha256 digest", digest.escape_debug());
            Err(ImageError::Damaged { reference: reference.to_owned(), reason })
        }
    }
}

fn damaged(reference: &str, what: &str) -> impl FnOnce(serde_json::Error) -> ImageError {
    let (reference, what) = (reference.to_owned(), what.to_owned());
    move |error| ImageError::Damaged { reference, reason: format!("{what} cannot be read: {error}") }
}
