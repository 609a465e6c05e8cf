//! What can go wrong with a call, by what the caller does about it.

use std::time::Duration;

/// A call that did not give an answer the caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address in the configuration makes no sense.
    #[error("GitLab address \"{0}\" must begin with http:// or https://")]
    Address(String),
    /// The trust anchors or the pool could not be set up.
    #[error("failed to set up the connection to GitLab")]
    SetUp(#[source] reqwest::Error),
    /// The certificate that was to be shown to the server.
    #[error("the client certificate for GitLab cannot be used")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// 403: the token is not (or no longer) valid.
    #[error("{call}: the token is not accepted")]
    Forbidden {
        /// Method and path.
        call: String,
    },
    /// A status that the call does not allow.
    #[error("{call}: status {status}{message}")]
    Status {
        /// Method and path.
        call: String,
        /// HTTP status.
        status: u16,
        /// What the server said, cut, with a leading blank and parentheses, or empty.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No or no whole answer.
    #[error("{call}: no answer")]
    Transport {
        /// Method and path.
        call: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that breaks off or makes no sense; what a parser repeats of it may be a token, so it is not the source.
    #[error("{call}: an answer that cannot be read")]
    Unreadable {
        /// Method and path.
        call: String,
    },
}

impl ClientError {
    /// How long the server wants to be left alone, when it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }
}
