//! A way in that can be closed: who is inside finishes first, and nobody comes after.
//!
//! So a pod is not removed while a container is started in it, and a program does not end while it makes a pod.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard};

/// Open when made.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    inside: RwLock<()>,
}

impl Gate {
    /// Lets in, as long as the answer is held, unless it is closed.
    pub(crate) async fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let inside = self.inside.read().await;
        if self.is_closed() { None } else { Some(inside) }
    }

    /// Whether it is closed, which who is inside can ask before it leaves.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Closes and waits until nobody is inside; answers whether that came in time.
    pub(crate) async fn close(&self, patience: Duration) -> bool {
        self.closed.store(true, Ordering::Release);
        tokio::time::timeout(patience, self.inside.write()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use std::time::Duration;

    #[tokio::test]
    async fn a_closed_gate_lets_nobody_in_and_waits_for_who_is_inside() {
        let gate = Gate::default();
        let inside = gate.enter().await.unwrap();
        assert!(!gate.close(Duration::from_millis(5)).await && gate.is_closed());
        drop(inside);
        assert!(gate.close(Duration::from_secs(5)).await);
        assert!(gate.enter().await.is_none());
    }
}
