//! From a manifest to an image: layers that are not here yet are fetched and unpacked, each once on this machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::{TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::manifest::{self, Configuration, DOCUMENT_BYTES, Descriptor, Document, Manifest};
use super::store::{self, Store};
use super::unpack::{self, Failure, Limits};
use super::{Image, layout, registry};
use crate::{IdRange, Layer, Overlay, Rootfs};

/// How many layers of an image are fetched and unpacked at a time.
const AT_ONCE: usize = 3;

/// Where blobs come from.
pub(super) enum Source {
    /// A layout directory.
    Layout(PathBuf),
    /// A registry.
    Registry(Box<registry::Remote>),
}

/// A layer's blob on this disk, checked.
pub(super) struct Blob {
    pub path: PathBuf,
    /// Fetched for this purpose, and removed with this value.
    pub temporary: bool,
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.temporary && fs::remove_file(&self.path).is_err() {
            tracing::debug!(path = %self.path.display(), "left for the end of this process");
        }
    }
}

impl Source {
    /// A small document, checked against its digest.
    async fn document(&self, descriptor: &Descriptor, reference: &str) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > DOCUMENT_BYTES {
            let reason = format!("{} is said to have {} bytes, too many for a document", descriptor.digest, descriptor.size);
            return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
        }
        match self {
            Source::Layout(directory) => layout::document(directory, descriptor, reference).await,
            Source::Registry(remote) => remote.document(descriptor).await,
        }
    }

    async fn layer(&self, store: &Store, descriptor: &Descriptor, reference: &str) -> Result<Blob, ImageError> {
        match self {
            Source::Layout(directory) => layout::layer(directory, descriptor, reference).await,
            Source::Registry(remote) => remote.layer(store, descriptor).await,
        }
    }
}

/// The image behind a document that was fetched already; an index leads on to the manifest for this machine.
/// Returns the digest (hex) of that manifest, too.
pub(super) async fn assemble(
    store: &Store,
    source: &Source,
    reference: &str,
    content: Vec<u8>,
) -> Result<(Image, String), ImageError> {
    let mut content = content;
    let mut found = manifest::document(&content, reference)?;
    for _ in 0..2 {
        let Document::Index(index) = &found else { break };
        content = source.document(&manifest::choose(index, reference)?, reference).await?;
        found = manifest::document(&content, reference)?;
    }
    let Document::Manifest(manifest) = found else {
        let reason = "its index leads to further indexes".to_owned();
        return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
    };
    let config = source.document(&manifest.config, reference).await?;
    let configuration = manifest::configuration(&config, reference)?;
    let diff_ids = pairs(&manifest, &configuration, reference)?;
    stream::iter(manifest.layers.iter().zip(&diff_ids).map(Ok))
        .try_for_each_concurrent(AT_ONCE, |(descriptor, diff_id)| provide(store, source, reference, descriptor, diff_id))
        .await?;
    let digest = manifest::sha256(&content);
    store.write_blob(manifest.config.hex(reference)?, &config)?;
    store.write_blob(&digest, &content)?;
    Ok((image(store, &manifest, &configuration, &diff_ids), digest))
}

/// The image with this manifest (hex), when all of it is here. What cannot be read is not here.
pub(super) fn kept(store: &Store, reference: &str, digest: &str) -> Result<Option<Image>, ImageError> {
    let Some(content) = store.read_blob(digest)? else { return Ok(None) };
    let Ok(Document::Manifest(manifest)) = manifest::document(&content, reference) else { return Ok(None) };
    let Some(config) = store.read_blob(manifest.config.hex(reference)?)? else { return Ok(None) };
    let Ok(configuration) = manifest::configuration(&config, reference) else { return Ok(None) };
    let diff_ids = pairs(&manifest, &configuration, reference)?;
    let whole = diff_ids.iter().all(|diff_id| store.layer(diff_id).is_dir());
    Ok(whole.then(|| image(store, &manifest, &configuration, &diff_ids)))
}

fn pairs(manifest: &Manifest, configuration: &Configuration, reference: &str) -> Result<Vec<String>, ImageError> {
    let diff_ids = configuration.diff_ids(reference)?;
    if diff_ids.is_empty() || diff_ids.len() != manifest.layers.len() {
        let reason = format!("its manifest has {} layers and its configuration {}", manifest.layers.len(), diff_ids.len());
        return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
    }
    Ok(diff_ids)
}

fn image(store: &Store, manifest: &Manifest, configuration: &Configuration, diff_ids: &[String]) -> Image {
    let mut lower: Vec<Layer> = Vec::new();
    for diff_id in diff_ids.iter().rev() {
        let layer = Layer { path: store.layer(diff_id), idmap: false };
        // the same layer twice is refused by the kernel, and the upper one hides the lower one anyway
        if !lower.contains(&layer) {
            lower.push(layer);
        }
    }
    let root = Rootfs { overlays: vec![Overlay { at: PathBuf::from("/"), lower }], binds: Vec::new() };
    Image { id: manifest.config.digest.clone(), root, config: configuration.image_config() }
}

/// Sees to it that a layer is unpacked. It is fetched before the lock is taken: a registry that dawdles over a layer which it
/// calls by somebody else's digest keeps nobody else waiting.
async fn provide(
    store: &Store,
    source: &Source,
    reference: &str,
    descriptor: &Descriptor,
    diff_id: &str,
) -> Result<(), ImageError> {
    let target = store.layer(diff_id);
    if target.is_dir() {
        return Ok(());
    }
    let blob = source.layer(store, descriptor, reference).await?;
    let _made_once = store.lock(&format!("layer-{diff_id}")).await?;
    let part = store.fresh();
    let (ids, reference, diff_id) = (store.ids(), reference.to_owned(), diff_id.to_owned());
    store::blocking(move || {
        if target.is_dir() {
            return Ok(());
        }
        let made = unpack_blob(&blob.path, &part, ids, &reference, &diff_id).and_then(|()| settle(&part, &target));
        if made.is_err() {
            store::remove_tree(&part)?;
        }
        made
    })
    .await
}

fn unpack_blob(blob: &Path, part: &Path, ids: IdRange, reference: &str, diff_id: &str) -> Result<(), ImageError> {
    fs::create_dir(part).map_err(ImageError::disk("make", part))?;
    let limits = Limits::default();
    let file = open_regular(blob).map_err(ImageError::disk("open", blob))?;
    let damaged = |reason: String| ImageError::Damaged { reference: reference.to_owned(), reason };
    let plain = decompress(file).map_err(|error| damaged(error.to_string()))?;
    let reader = Digesting::new(plain, limits.bytes);
    let unpacked = unpack::unpack(reader, part, ids, limits).map_err(|failure| match failure {
        Failure::Layer(reason) => damaged(reason),
        Failure::Disk(action, source) => ImageError::Disk { action, source },
    });
    let mut rest = unpacked?;
    io::copy(&mut rest, &mut io::sink()).map_err(|error| damaged(error.to_string()))?;
    let found = rest.finish();
    if found == diff_id {
        return Ok(());
    }
    Err(damaged(format!("content of layer sha256:{diff_id} does not match its digest: it is sha256:{found}")))
}

/// Gives a finished layer its name. The disk has it all before: a layer that is half there after a power cut would never be
/// looked at again.
fn settle(part: &Path, target: &Path) -> Result<(), ImageError> {
    let directory = File::open(part).map_err(ImageError::disk("open", part))?;
    rustix::fs::syncfs(&directory).map_err(|error| ImageError::disk("write", part)(error.into()))?;
    match fs::rename(part, target) {
        // a task that was given up finished after all
        Err(_) if target.is_dir() => store::remove_tree(part),
        other => other.map_err(ImageError::disk("rename", part)),
    }
}

/// Opens a file that is one: a pipe would hold us for ever.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")) }
}

/// Compression by the first bytes: media types are wrong more often than magic numbers.
fn decompress(file: File) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(128 << 10, file);
    let head = file.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(file)?));
    }
    Ok(Box::new(file))
}

/// Hashes what passes, and lets only so much pass.
pub(super) struct Digesting<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R> Digesting<R> {
    /// Lets `most` bytes pass.
    pub(super) fn new(inner: R, most: u64) -> Self {
        Digesting { inner, hash: Sha256::new(), left: most }
    }

    /// sha256 of what has passed, in hex.
    pub(super) fn finish(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a layer is larger than any image may be"))?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
