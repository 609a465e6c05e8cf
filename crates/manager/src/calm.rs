//! When to clean up: a burst of pods is up sooner when nothing is deleted in its midst.
//!
//! A pod that has ended by itself holds no room of the cluster, but deleting it costs its node and the API server about
//! as much as a start. So it is left until no pod is on its way up, and never longer than [`LONGEST`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A pod that cannot start must not keep those that have ended for long.
const LONGEST: Duration = Duration::from_secs(30);

/// How many pods are on their way up.
#[derive(Debug, Default)]
pub struct Calm {
    starting: AtomicUsize,
    /// Wakes those that wait in the order in which they came.
    calm: Notify,
}

/// A pod on its way up, until this is dropped.
#[derive(Debug)]
pub struct Starting(Arc<Calm>);

impl Calm {
    /// Counts a pod.
    pub fn starting(self: &Arc<Self>) -> Starting {
        self.starting.fetch_add(1, Ordering::SeqCst);
        Starting(self.clone())
    }

    /// Waits until no pod is on its way up, or long enough.
    pub async fn comes(&self) {
        let calm = async {
            loop {
                let mut notice = std::pin::pin!(self.calm.notified());
                // Listens from here on, so that a pod that comes up during the look is not missed.
                notice.as_mut().enable();
                if self.starting.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notice.await;
            }
        };
        // Too late is as good as calm.
        let _ = tokio::time::timeout(LONGEST, calm).await;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.0.starting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.calm.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Calm;
    use futures::FutureExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn it_is_calm_when_the_last_pod_is_up() {
        let calm = Arc::new(Calm::default());
        assert!(calm.comes().now_or_never().is_some());
        let (one, other) = (calm.starting(), calm.starting());
        drop(one);
        assert!(calm.comes().now_or_never().is_none());
        let waiting = calm.comes();
        drop(other);
        waiting.await;
    }
}
