//! How many requests for jobs of one entry are open at once, by how busy GitLab is with them
//! (`FF_USE_ADAPTIVE_REQUEST_CONCURRENCY`): more while each brings a job, fewer while none does.
//!
//! The figures are GitLab Runner's. `request_concurrency` stays the most.

use crate::room::{Place, Room};
use std::sync::{Arc, Mutex, PoisonError};

/// What one request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// A job.
    Job,
    /// Nothing, or no answer.
    Nothing,
    /// GitLab wants to be asked less.
    Busy,
}

/// Room for requests, which follows what they come to.
pub struct Throttle {
    room: Arc<Room>,
    limit: Mutex<f64>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { room: Room::new(1), limit: Mutex::new(1.0) }
    }
}

impl Throttle {
    /// Waits for the turn of a request.
    pub async fn take(&self) -> Place {
        self.room.take().await
    }

    /// After a request, of which there may be `most` at once.
    pub fn learn(&self, came: Came, most: usize) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let factor = match came {
            Came::Job => 1.1,
            Came::Nothing => 0.95,
            Came::Busy => 0.5,
        };
        *limit = (*limit * factor).min(most as f64).max(1.0);
        // A fraction of a request is one.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a number of requests")]
        self.room.resize(limit.ceil() as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::{Came, Throttle};

    #[test]
    fn jobs_bring_more_requests_and_empty_answers_fewer_within_the_limits() {
        let throttle = Throttle::default();
        let open = |came: Came, times: usize| {
            (0..times).for_each(|_| throttle.learn(came, 4));
            let places: Vec<_> = std::iter::from_fn(|| throttle.room.try_take()).collect();
            places.len()
        };
        assert_eq!(open(Came::Nothing, 3), 1);
        assert_eq!(open(Came::Job, 1), 2);
        assert_eq!(open(Came::Job, 30), 4);
        assert_eq!(open(Came::Nothing, 6), 3);
        assert_eq!(open(Came::Busy, 1), 2);
        assert_eq!(open(Came::Busy, 9), 1);
    }
}
