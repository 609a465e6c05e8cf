//! Calls to the Kubernetes API: a time limit for each, and errors by what the caller does about them.

use crate::backoff::Backoff;
use std::time::Duration;
use tokio::time::Instant;

/// No single call takes longer.
const CALL: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server said no.
    #[error("{what}: {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// HTTP status.
        code: u16,
        /// Kubernetes' word.
        reason: String,
        /// Kubernetes' sentence.
        message: String,
    },
    /// Nothing came back in time.
    #[error("{0}: no answer in time")]
    TimedOut(&'static str),
    /// An answer nobody can read; its content is not repeated, because it may be a Secret.
    #[error("{0}: an answer that cannot be read")]
    Unreadable(&'static str),
    /// The connection.
    #[error("{what}: no answer")]
    Transport {
        /// What was asked.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl CallError {
    fn new(what: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::Refused { what, code: status.code, reason: status.reason.clone(), message: status.message.clone() }
            }
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Unreadable(what),
            other => Self::Transport { what, source: Box::new(other) },
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_short_lived(&self) -> bool {
        match self {
            Self::Refused { code, reason, .. } => {
                matches!(code, 408 | 429) || *code >= 500 || (*code == 409 && reason == "Conflict")
            }
            _ => true,
        }
    }

    /// Whether an object of that name is there already.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { code: 409, reason, .. } if reason == "AlreadyExists")
    }

    /// Whether there is no such object.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether a quota of the namespace is used up.
    pub fn is_over_quota(&self) -> bool {
        matches!(self, Self::Refused { code: 403, message, .. } if message.contains("exceeded quota"))
    }

    /// Whether a patch did not fit what is there now.
    pub fn is_unmet(&self) -> bool {
        matches!(self, Self::Refused { code: 422, .. })
    }

    /// Whether the object is not the one any more that was meant.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused { code: 409, reason, .. } if reason == "Conflict")
    }

    /// HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        if let Self::Refused { code, .. } = self { Some(*code) } else { None }
    }
}

/// One call within its time limit; `what` is for the error.
pub async fn call<T>(what: &'static str, future: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, future).await {
        Ok(result) => result.map_err(|error| CallError::new(what, error)),
        Err(_) => Err(CallError::TimedOut(what)),
    }
}

/// The call again until it succeeds, is refused for good, or `budget` is used up.
pub async fn persist<T, F>(budget: Duration, what: &'static str, make: impl Fn() -> F) -> Result<T, CallError>
where
    F: Future<Output = kube::Result<T>>,
{
    persist_unless(budget, what, make, |_| false).await
}

/// The same, but an error that `is_answer` comes back at once.
pub async fn persist_unless<T, F>(
    budget: Duration,
    what: &'static str,
    make: impl Fn() -> F,
    is_answer: impl Fn(&CallError) -> bool,
) -> Result<T, CallError>
where
    F: Future<Output = kube::Result<T>>,
{
    let (begun, mut backoff) = (Instant::now(), Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        match call(what, make()).await {
            Err(error) if error.is_short_lived() && !is_answer(&error) && begun.elapsed() < budget => {
                let pause = backoff.pause().min(budget.saturating_sub(begun.elapsed()));
                tracing::warn!(error = chain(&error), pause_ms = pause.as_millis(), "the Kubernetes API is in trouble");
                tokio::time::sleep(pause).await;
            }
            result => return result,
        }
    }
}

/// An error with its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
