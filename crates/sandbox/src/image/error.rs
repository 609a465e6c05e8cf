//! Why an image could not be had.
//!
//! The display text is the sentence a kubelet would write into the container's waiting message: whoever diagnoses a pod
//! reads it in a cluster and on this machine alike, so the reason stands in the text and not only in a source.

use std::io;
use std::path::Path;

/// Why [`super::ImageStore::get`] gave no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot name an image. Found before anything is asked of a network.
    #[error("couldn't parse image name \"{reference}\": invalid reference format: {reason}")]
    InvalidName {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Policy `Never`, and the image is not in the store.
    #[error("container image \"{reference}\" is not present with pull policy of Never")]
    NeverPull {
        /// As it was given.
        reference: String,
    },
    /// The registry or the layout directory has no such image, or none for this machine's platform.
    #[error("failed to pull image \"{reference}\": {reason}: not found")]
    NotFound {
        /// As it was given.
        reference: String,
        /// What was looked for in vain.
        reason: String,
    },
    /// The registry asks for (other) credentials.
    #[error("failed to pull image \"{reference}\": pull access denied, repository does not exist or may require authorization")]
    Unauthorized {
        /// As it was given.
        reference: String,
    },
    /// The registry could not be reached, or failed, each time it was tried.
    #[error("failed to pull image \"{reference}\": {reason}")]
    Network {
        /// As it was given.
        reference: String,
        /// What the last try ended with.
        reason: String,
    },
    /// What was fetched is not what was promised, or cannot be unpacked safely.
    #[error("failed to unpack image \"{reference}\": {reason}")]
    Damaged {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store could not be read or written.
    #[error("failed to keep image data: {action}: {source}")]
    Disk {
        /// What was being done, with its path.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// This machine's own files cannot be shown as an image.
    #[error("failed to make the host image: {reason}")]
    Host {
        /// What is in the way.
        reason: String,
    },
    /// The image has no such user or group.
    #[error("unable to find user \"{user}\": {reason}")]
    User {
        /// As it was given.
        user: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ImageError {
    /// A disk error: what was done to which path.
    pub(super) fn disk(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
        let action = format!("{action} {}", path.display());
        move |source| ImageError::Disk { action, source }
    }
}
