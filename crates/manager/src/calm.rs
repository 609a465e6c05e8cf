//! When to clean up: a burst of pods is up sooner when nothing is deleted in its midst.
//!
//! A pod that has ended by itself holds no room of the cluster, but deleting it costs its node and the API server about
//! as much as a start. So it is left until no pod is on its way up, and never longer than [`LONGEST`].

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A pod that cannot start must not keep those that have ended for long.
const LONGEST: Duration = Duration::from_secs(30);

/// How many pods are on their way up.
#[derive(Debug, Default)]
pub struct Calm(watch::Sender<usize>);

/// A pod on its way up, until this is dropped.
#[derive(Debug)]
pub struct Starting(Arc<Calm>);

impl Calm {
    /// Counts a pod.
    pub fn starting(self: &Arc<Self>) -> Starting {
        self.0.send_modify(|count| *count += 1);
        Starting(self.clone())
    }

    /// Waits until no pod is on its way up, or long enough.
    pub async fn comes(&self) {
        let mut count = self.0.subscribe();
        // Too late is as good as calm; the sender is ours.
        let _ = tokio::time::timeout(LONGEST, count.wait_for(|count| *count == 0)).await;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
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
