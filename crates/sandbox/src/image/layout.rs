//! Images in a directory of this machine, in the layout that `skopeo copy … oci:DIRECTORY:TAG` and `buildah push` write.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Image;
use super::error::ImageError;
use super::layers::{self, Blob, Digesting, Source, open_regular};
use super::manifest::{self, DOCUMENT_BYTES, Descriptor, Document};
use super::store::{self, Store};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The image `place` (`/DIRECTORY[:TAG]`) names. Nothing is asked of a network, so the pull policy makes no difference.
pub(super) async fn get(store: &Store, reference: &str, place: &str) -> Result<Image, ImageError> {
    let (directory, tag) = split(place);
    if !directory.is_absolute() {
        let reason = "a layout directory is named by an absolute path, as in oci:/DIRECTORY:TAG".to_owned();
        return Err(ImageError::InvalidName { reference: reference.to_owned(), reason });
    }
    let index_path = directory.join("index.json");
    let content = match read_document(index_path.clone(), DOCUMENT_BYTES).await {
        Err(ImageError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let reason = format!("{} is no layout directory", directory.display());
            return Err(ImageError::NotFound { reference: reference.to_owned(), reason });
        }
        other => other?,
    };
    let Document::Index(index) = manifest::document(&content, reference)? else {
        let reason = format!("{} is no index", index_path.display());
        return Err(ImageError::Damaged { reference: reference.to_owned(), reason });
    };
    let descriptor = named(&index, tag, reference)?;
    let content = document(&directory, &descriptor, reference).await?;
    let source = Source::Layout(directory);
    Ok(layers::assemble(store, &source, reference, content).await?.0)
}

fn split(place: &str) -> (PathBuf, Option<&str>) {
    match place.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (PathBuf::from(directory), Some(tag)),
        _ => (PathBuf::from(place), None),
    }
}

fn named(index: &[Descriptor], tag: Option<&str>, reference: &str) -> Result<Descriptor, ImageError> {
    let Some(tag) = tag else {
        return match index {
            [only] => Ok(only.clone()),
            _ => manifest::choose(index, reference),
        };
    };
    let tagged: Vec<Descriptor> =
        index.iter().filter(|it| it.annotations.get(REF_NAME).is_some_and(|name| name == tag)).cloned().collect();
    match tagged.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ImageError::NotFound { reference: reference.to_owned(), reason: format!("tag \"{tag}\" of the layout") }),
        several => manifest::choose(several, reference),
    }
}

/// A document of the layout, checked.
pub(super) async fn document(directory: &Path, descriptor: &Descriptor, reference: &str) -> Result<Vec<u8>, ImageError> {
    let path = blob_path(directory, descriptor, reference)?;
    let content = read_document(path, DOCUMENT_BYTES).await.map_err(missing(descriptor, reference))?;
    manifest::check(&content, descriptor, reference)?;
    Ok(content)
}

/// A layer's blob where it lies, checked.
pub(super) async fn layer(directory: &Path, descriptor: &Descriptor, reference: &str) -> Result<Blob, ImageError> {
    let path = blob_path(directory, descriptor, reference)?;
    let (blob, promised, size) = (path.clone(), descriptor.hex(reference)?.to_owned(), descriptor.size);
    let matches = store::blocking(move || {
        let mut content = open_regular(&path)
            .map(|file| Digesting::new(file.take(size.saturating_add(1)), u64::MAX))
            .map_err(ImageError::disk("read", &path))?;
        let length = io::copy(&mut content, &mut io::sink()).map_err(ImageError::disk("read", &path))?;
        Ok(length == size && content.finish() == promised)
    })
    .await
    .map_err(missing(descriptor, reference))?;
    if matches {
        return Ok(Blob { path: blob, temporary: false });
    }
    let reason = format!("content of layer {} does not match its digest", descriptor.digest);
    Err(ImageError::Damaged { reference: reference.to_owned(), reason })
}

fn blob_path(directory: &Path, descriptor: &Descriptor, reference: &str) -> Result<PathBuf, ImageError> {
    Ok(directory.join("blobs/sha256").join(descriptor.hex(reference)?))
}

async fn read_document(path: PathBuf, most: u64) -> Result<Vec<u8>, ImageError> {
    store::blocking(move || {
        let mut content = Vec::new();
        open_regular(&path)
            .and_then(|file| file.take(most).read_to_end(&mut content))
            .map_err(ImageError::disk("read", &path))?;
        Ok(content)
    })
    .await
}

fn missing(descriptor: &Descriptor, reference: &str) -> impl FnOnce(ImageError) -> ImageError {
    let (digest, reference) = (descriptor.digest.clone(), reference.to_owned());
    move |error| match error {
        ImageError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ImageError::Damaged { reference, reason: format!("its layout directory lacks the blob {digest}") }
        }
        other => other,
    }
}
