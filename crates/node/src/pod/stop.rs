//! When a pod has to end: never yet, or at the latest at some moment.
//!
//! One value that only becomes more urgent. Whoever waits for something in a pod also waits for this, so a pod that
//! is deleted while it pulls an image ends at once.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The moment at which what still runs is killed; `None` while the pod may run.
pub type Deadline = Option<Instant>;

/// The giving side.
#[derive(Debug)]
pub struct Stop(watch::Sender<Deadline>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Stop {
    /// Asks for an end within `grace`; a later deadline than the one known changes nothing.
    pub fn within(&self, grace: Duration) {
        // A grace of years is none that can be added to a clock.
        let now = Instant::now();
        let at = now.checked_add(grace).unwrap_or(now + Duration::from_secs(86_400 * 365));
        self.at(at);
    }

    /// Asks for an end at a moment.
    pub fn at(&self, at: Instant) {
        self.0.send_if_modified(|known| {
            let sooner = known.is_none_or(|known| at < known);
            if sooner {
                *known = Some(at);
            }
            sooner
        });
    }

    /// The waiting side.
    pub fn watch(&self) -> Stopped {
        Stopped(self.0.subscribe())
    }
}

/// The waiting side.
#[derive(Clone, Debug)]
pub struct Stopped(watch::Receiver<Deadline>);

impl Stopped {
    /// The deadline, if there is one.
    pub fn deadline(&self) -> Deadline {
        *self.0.borrow()
    }

    /// Waits until an end is asked for.
    pub async fn asked(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            // Nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the deadline has passed, whatever becomes of it meanwhile.
    pub async fn expired(&mut self) {
        loop {
            self.asked().await;
            let deadline = self.deadline().unwrap_or_else(Instant::now);
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                changed = self.0.changed() => if changed.is_err() {
                    tokio::time::sleep_until(deadline).await;
                    return;
                },
            }
        }
    }

    /// Sleeps, unless an end is asked for: then `false` at once.
    pub async fn sleep(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = self.asked() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

/// Waiting times that double up to a limit.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// From `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The time to wait now.
    pub fn take(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.most);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Stop};
    use std::time::Duration;

    #[tokio::test]
    async fn a_deadline_only_comes_closer() {
        let stop = Stop::default();
        let mut stopped = stop.watch();
        assert!(stopped.sleep(Duration::from_millis(1)).await, "nobody has asked yet");
        stop.within(Duration::from_secs(3000));
        let first = stopped.deadline();
        stop.within(Duration::from_secs(6000));
        assert_eq!(stopped.deadline(), first);
        assert!(!stopped.sleep(Duration::from_secs(3000)).await, "a sleep ends when an end is asked for");
        let waiting = tokio::spawn(async move { stopped.expired().await });
        stop.within(Duration::from_millis(20));
        let expired = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        expired.expect("the nearer deadline counts").unwrap();
    }

    #[test]
    fn waiting_times_double_up_to_their_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(30));
        assert_eq!([backoff.take(), backoff.take(), backoff.take()].map(|time| time.as_secs()), [10, 20, 30]);
    }
}
