//! Images in registries.

use std::fs;
use std::path::Path;
use std::time::Duration;

use oci_spec::distribution::Reference;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::error::ImageError;
use super::layers::{self, Blob, Source};
use super::manifest::{self, DOCUMENT_BYTES, Descriptor};
use super::store::Store;
use super::transport::{self, Transport, Trouble};
use super::{Image, PullPolicy, RegistryAuth, StoreOptions};

const MANIFESTS: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// A document is small; one that takes longer than this is not sent in good faith.
const DOCUMENT: Duration = Duration::from_secs(120);
/// Pauses between tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];

/// One repository of a registry, as one pull sees it.
pub(super) struct Remote {
    transport: Transport,
    image: Reference,
    /// As it was given, for errors.
    reference: String,
}

/// The image a registry has under `reference`, fetched as far as `policy` says.
pub(super) async fn get(
    store: &Store,
    options: &StoreOptions,
    reference: &str,
    policy: PullPolicy,
    auth: Option<&RegistryAuth>,
) -> Result<Image, ImageError> {
    let image = parse(reference)?;
    let name = manifest::sha256(image.whole().as_bytes());
    if policy != PullPolicy::Always
        && let Some(image) = present(store, reference, &name)?
    {
        return Ok(image);
    }
    if policy == PullPolicy::Never {
        return Err(ImageError::NeverPull { reference: reference.to_owned() });
    }
    // who asks for the same while it is fetched finds it here afterwards
    let _one_at_a_time = store.lock(&format!("name-{name}")).await?;
    if policy == PullPolicy::IfNotPresent
        && let Some(image) = present(store, reference, &name)?
    {
        return Ok(image);
    }
    let remote = Remote::new(options, image, reference, auth)?;
    let content = remote.manifest().await?;
    let source = Source::Registry(Box::new(remote));
    let (image, digest) = layers::assemble(store, &source, reference, content).await?;
    store.write_name(&name, digest.as_bytes())?;
    Ok(image)
}

fn parse(reference: &str) -> Result<Reference, ImageError> {
    let invalid =
        |reason: &str| ImageError::InvalidName { reference: reference.chars().take(300).collect(), reason: reason.to_owned() };
    if reference.is_empty() {
        return Err(invalid("it is empty"));
    }
    let image: Reference = reference.parse().map_err(|error: oci_spec::distribution::ParseError| invalid(&error.to_string()))?;
    if !is_repository(image.repository()) {
        return Err(invalid("a repository is made of lower case letters, digits and single separators"));
    }
    match image.digest() {
        Some(digest) if !digest.starts_with("sha256:") => Err(invalid("only sha256 digests are taken")),
        _ => Ok(image),
    }
}

/// The grammar of registries, which the parser takes less strictly.
fn is_repository(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 255
        && name.split('/').all(|part| {
            let ends = part.bytes().next().is_some_and(word) && part.bytes().last().is_some_and(word);
            ends && !part.contains("..") && part.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'))
        })
}

/// The image under this name, when it was pulled before and is whole.
fn present(store: &Store, reference: &str, name: &str) -> Result<Option<Image>, ImageError> {
    let Some(digest) = store.read_name(name)? else { return Ok(None) };
    layers::kept(store, reference, &String::from_utf8_lossy(&digest))
}

impl Remote {
    fn new(options: &StoreOptions, image: Reference, reference: &str, auth: Option<&RegistryAuth>) -> Result<Remote, ImageError> {
        let transport =
            Transport::new(image.resolve_registry(), options, auth).map_err(|trouble| error(trouble, &image, reference))?;
        Ok(Remote { transport, image, reference: reference.to_owned() })
    }

    /// What the name leads to.
    async fn manifest(&self) -> Result<Vec<u8>, ImageError> {
        let wanted = self.image.digest().or(self.image.tag()).unwrap_or("latest");
        let content = self.repeatedly(|| self.document_at(format!("manifests/{wanted}"), DOCUMENT_BYTES)).await?;
        match self.image.digest().and_then(|digest| digest.strip_prefix("sha256:")) {
            Some(hex) if hex != manifest::sha256(&content) => {
                Err(self.damaged("content of its manifest does not match its digest".to_owned()))
            }
            _ => Ok(content),
        }
    }

    /// A configuration, or a manifest that an index leads to, checked.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        descriptor.hex(&self.reference)?;
        let kind = if MANIFESTS.contains(&descriptor.media_type.as_str()) { "manifests" } else { "blobs" };
        self.repeatedly(|| async {
            let content = self.document_at(format!("{kind}/{}", descriptor.digest), descriptor.size).await?;
            manifest::check(&content, descriptor, &self.reference)?;
            Ok(content)
        })
        .await
    }

    async fn document_at(&self, place: String, most: u64) -> Result<Vec<u8>, ImageError> {
        let path = format!("{}/{place}", self.image.repository());
        let fetch = async { transport::body(self.transport.get(&path, &MANIFESTS.join(", ")).await?, most).await };
        match tokio::time::timeout(DOCUMENT, fetch).await {
            Ok(result) => result.map_err(|trouble| self.error(trouble)),
            Err(_) => Err(self.error(Trouble::Broken(format!("the registry took longer than {} s", DOCUMENT.as_secs())))),
        }
    }

    /// Fetches a layer into the store's own directory, checking it on the way.
    pub(super) async fn layer(&self, store: &Store, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        descriptor.hex(&self.reference)?;
        self.repeatedly(|| async {
            let blob = Blob { path: store.fresh(), temporary: true };
            self.fetch(descriptor, &blob.path).await.map(|()| blob)
        })
        .await
    }

    async fn fetch(&self, descriptor: &Descriptor, path: &Path) -> Result<(), ImageError> {
        let file = fs::File::create(path).map_err(ImageError::disk("make", path))?;
        let mut file = tokio::fs::File::from_std(file);
        let place = format!("{}/blobs/{}", self.image.repository(), descriptor.digest);
        let mut response = self.transport.get(&place, "*/*").await.map_err(|trouble| self.error(trouble))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        while let Some(part) = response.chunk().await.map_err(|error| self.error(transport::broken(error)))? {
            length += part.len() as u64;
            if length > descriptor.size {
                return Err(self.damaged(format!("layer {} is longer than promised", descriptor.digest)));
            }
            hash.update(&part);
            file.write_all(&part).await.map_err(ImageError::disk("write", path))?;
        }
        file.flush().await.map_err(ImageError::disk("write", path))?;
        if length < descriptor.size {
            return Err(
                self.error(Trouble::Broken(format!("the registry sent {length} of {} bytes of a layer", descriptor.size)))
            );
        }
        if hex::encode(hash.finalize()) != descriptor.hex(&self.reference)? {
            return Err(self.damaged(format!("content of layer {} does not match its digest", descriptor.digest)));
        }
        Ok(())
    }

    /// Three times, when trying again may help; what a cache on the way spoiled may look damaged.
    async fn repeatedly<T, F: Future<Output = Result<T, ImageError>>>(
        &self,
        mut once: impl FnMut() -> F,
    ) -> Result<T, ImageError> {
        for pause in PAUSES {
            match once().await {
                Err(error @ (ImageError::Network { .. } | ImageError::Damaged { .. })) => {
                    tracing::debug!(reference = self.reference, %error, "trying again");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
        once().await
    }

    fn error(&self, trouble: Trouble) -> ImageError {
        error(trouble, &self.image, &self.reference)
    }

    fn damaged(&self, reason: String) -> ImageError {
        ImageError::Damaged { reference: self.reference.clone(), reason }
    }
}

fn error(trouble: Trouble, image: &Reference, reference: &str) -> ImageError {
    let reference = reference.to_owned();
    match trouble {
        Trouble::Unauthorized => ImageError::Unauthorized { reference },
        Trouble::NotFound => ImageError::NotFound { reference, reason: image.whole() },
        Trouble::Broken(reason) => ImageError::Network { reference, reason },
        Trouble::Nonsense(reason) => ImageError::Damaged { reference, reason },
    }
}
