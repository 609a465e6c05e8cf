//! Images in registries.
//!
//! Each pull gets a client of its own: the client keeps tokens by repository and not by user, and one user's must not serve
//! another's pull.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::{Client, Reference, secrets};
use tokio::io::AsyncWriteExt;

use super::error::ImageError;
use super::layers::{self, Blob, Source};
use super::manifest::{self, Descriptor};
use super::store::Store;
use super::{Image, PullPolicy, RegistryAuth, StoreOptions};

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONNECT: Duration = Duration::from_secs(15);
/// A registry that says nothing for so long has gone away.
const SILENCE: Duration = Duration::from_secs(60);
/// A document is small; one that takes longer than this is not sent in good faith.
const DOCUMENT: Duration = Duration::from_secs(120);
/// Pauses between tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];

/// One registry, as one pull sees it.
pub(super) struct Remote {
    client: Client,
    image: Reference,
    auth: secrets::RegistryAuth,
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
    let remote = Remote::new(options, image, reference, auth);
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
    let image: Reference = reference.parse().map_err(|error: oci_client::ParseError| invalid(&error.to_string()))?;
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
    fn new(options: &StoreOptions, image: Reference, reference: &str, auth: Option<&RegistryAuth>) -> Remote {
        // without it there is no TLS at all; somebody else may have chosen one before, which is as good
        drop(rustls::crypto::ring::default_provider().install_default());
        let registry = image.resolve_registry();
        let insecure =
            options.insecure_registries.iter().any(|it| it == registry || it == image.registry()) || is_loopback(registry);
        let config = ClientConfig {
            protocol: if insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: options
                .ca_pem
                .iter()
                .map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone().into_bytes() })
                .collect(),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            platform_resolver: None,
            user_agent: "gantry",
            ..ClientConfig::default()
        };
        let auth = auth.map_or(secrets::RegistryAuth::Anonymous, |auth| {
            secrets::RegistryAuth::Basic(auth.username.clone(), auth.password.clone())
        });
        Remote { client: Client::new(config), image, auth, reference: reference.to_owned() }
    }

    /// What the name leads to.
    async fn manifest(&self) -> Result<Vec<u8>, ImageError> {
        let content = self.manifest_of(&self.image).await?;
        match self.image.digest().and_then(|digest| digest.strip_prefix("sha256:")) {
            Some(hex) if hex != manifest::sha256(&content) => {
                Err(self.damaged("content of its manifest does not match its digest"))
            }
            _ => Ok(content),
        }
    }

    async fn manifest_of(&self, image: &Reference) -> Result<Vec<u8>, ImageError> {
        self.repeatedly(|| async {
            let pull = self.client.pull_manifest_raw(image, &self.auth, ACCEPTED);
            let (content, _) = self.in_time(pull).await?;
            Ok(content.to_vec())
        })
        .await
    }

    /// A configuration, or a manifest that an index leads to. Not checked yet.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if ACCEPTED.contains(&descriptor.media_type.as_str()) {
            return self.manifest_of(&self.image.clone_with_digest(descriptor.digest.clone())).await;
        }
        self.repeatedly(|| async {
            let mut stream = self.stream(descriptor).await?;
            let mut content = Vec::new();
            let read = async {
                while let Some(part) = stream.next().await {
                    content.extend_from_slice(&part?);
                    if content.len() as u64 > descriptor.size {
                        return Err(OciDistributionError::SpecViolationError("a blob is longer than promised".to_owned()));
                    }
                }
                Ok(())
            };
            self.in_time(read).await?;
            Ok(content)
        })
        .await
    }

    /// Fetches a layer into the store's own directory; it is checked against its digest on the way.
    pub(super) async fn layer(&self, store: &Store, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        descriptor.hex(&self.reference)?;
        self.repeatedly(|| async {
            let blob = Blob { path: store.fresh(), temporary: true };
            self.fetch(descriptor, &blob.path).await.map(|()| blob)
        })
        .await
    }

    async fn fetch(&self, descriptor: &Descriptor, path: &Path) -> Result<(), ImageError> {
        let mut stream = self.stream(descriptor).await?;
        let mut file = tokio::fs::File::create(path).await.map_err(ImageError::disk("make", path))?;
        let mut length = 0;
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| self.error(error.into()))?;
            length += part.len() as u64;
            if length > descriptor.size {
                return Err(self.damaged("a layer is longer than promised"));
            }
            file.write_all(&part).await.map_err(ImageError::disk("write", path))?;
        }
        file.flush().await.map_err(ImageError::disk("write", path))?;
        if length < descriptor.size {
            return Err(self.network(format!("the registry sent {length} of {} bytes of a layer", descriptor.size)));
        }
        Ok(())
    }

    /// The content of a blob; its last part is an error when it is not what its digest promises.
    async fn stream(
        &self,
        descriptor: &Descriptor,
    ) -> Result<impl Stream<Item = Result<bytes::Bytes, std::io::Error>> + Unpin, ImageError> {
        self.in_time(self.client.pull_blob_stream(&self.image, descriptor.digest.as_str())).await
    }

    /// Three times, when trying again may help; what a broken connection cut short may look damaged.
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

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, OciDistributionError>>) -> Result<T, ImageError> {
        match tokio::time::timeout(DOCUMENT, work).await {
            Ok(result) => result.map_err(|error| self.error(error)),
            Err(_) => Err(self.network(format!("the registry took longer than {} s", DOCUMENT.as_secs()))),
        }
    }

    fn error(&self, error: OciDistributionError) -> ImageError {
        let reference = self.reference.clone();
        let not_found = || ImageError::NotFound { reference: self.reference.clone(), reason: self.image.whole() };
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                ImageError::Unauthorized { reference }
            }
            OciDistributionError::ImageManifestNotFoundError(_) => not_found(),
            OciDistributionError::RegistryError { envelope, .. } => {
                let codes: Vec<&OciErrorCode> = envelope.errors.iter().map(|error| &error.code).collect();
                if codes.iter().any(|code| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied)) {
                    ImageError::Unauthorized { reference }
                } else if codes.iter().any(|code| {
                    matches!(
                        code,
                        OciErrorCode::ManifestUnknown
                            | OciErrorCode::NameUnknown
                            | OciErrorCode::NotFound
                            | OciErrorCode::BlobUnknown
                    )
                }) {
                    not_found()
                } else {
                    self.network(format!("the registry says: {}", short(&envelope.to_string())))
                }
            }
            OciDistributionError::ServerError { code: 401 | 403, .. } => ImageError::Unauthorized { reference },
            OciDistributionError::ServerError { code: 404, .. } => not_found(),
            OciDistributionError::ServerError { code, .. } => self.network(format!("the registry answers with status {code}")),
            OciDistributionError::RequestError(error) => match error.status().map(|status| status.as_u16()) {
                Some(401 | 403) => ImageError::Unauthorized { reference },
                Some(404) => not_found(),
                _ => self.network(chain(&error)),
            },
            OciDistributionError::IoError(error) if error.get_ref().is_some_and(|inner| inner.is::<DigestError>()) => {
                self.damaged(&chain(&error))
            }
            OciDistributionError::IoError(error) => self.network(chain(&error)),
            other => self.damaged(&short(&other.to_string())),
        }
    }

    fn network(&self, reason: String) -> ImageError {
        ImageError::Network { reference: self.reference.clone(), reason }
    }

    fn damaged(&self, reason: &str) -> ImageError {
        ImageError::Damaged { reference: self.reference.clone(), reason: reason.to_owned() }
    }
}

/// Whether a registry is on this machine, so that nobody listens in between.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with its causes: the outermost of these says only that a request failed.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    short(&text)
}

/// Bounded, and without the queries of addresses: registries sign those they redirect to.
fn short(text: &str) -> String {
    let mut in_query = false;
    let keep = |it: &char| {
        in_query = (in_query || *it == '?') && !matches!(it, ')' | ' ' | '"');
        !in_query
    };
    text.chars().filter(keep).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_redirects_are_not_told() {
        let text = "error sending request for url (https://bucket/blob?X-Signature=abc&y=1): connection reset";
        assert_eq!(short(text), "error sending request for url (https://bucket/blob): connection reset");
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear_unasked() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "127.9.9.9"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["example.org", "localhost.example.org:5000", "10.0.0.1:5000", "[fd00::1]:5000"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
