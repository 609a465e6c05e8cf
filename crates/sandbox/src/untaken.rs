//! What was made for somebody who may have lost interest: it is removed when nobody takes it.
//!
//! Making a pod or a container takes steps that must not be left halfway, so it runs as a task of its own; a caller
//! whose future is dropped never sees the outcome.

use crate::{Container, Pod};
use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// Something that holds a part of this machine.
pub(crate) trait Removable: Sized + Send + 'static {
    /// Removes it.
    fn discard(self) -> BoxFuture<'static, ()>;
}

/// Holds it until it is taken.
pub(crate) struct Untaken<T: Removable> {
    made: Option<T>,
    runtime: Handle,
}

impl<T: Removable> Untaken<T> {
    /// Must be called on a runtime.
    pub(crate) fn new(made: T) -> Self {
        Self { made: Some(made), runtime: Handle::current() }
    }

    /// Hands it over.
    #[expect(clippy::unwrap_used, reason = "only this empties it, and it consumes")]
    pub(crate) fn take(mut self) -> T {
        self.made.take().unwrap()
    }
}

impl<T: Removable> Drop for Untaken<T> {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            self.runtime.spawn(made.discard());
        }
    }
}

impl Removable for Pod {
    fn discard(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = self.remove().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a pod that nobody waited for was not removed");
            }
        })
    }
}

impl Removable for Container {
    fn discard(self) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.end().await })
    }
}
