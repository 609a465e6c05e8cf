//! Room for jobs, of which there may be more or less from one moment to the next.
//!
//! A semaphore whose size can change while jobs hold it: where there is less room than jobs that run, these end in peace
//! and the room they leave is not given out again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for a number of jobs.
#[derive(Debug)]
pub struct Room {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    most: usize,
    /// How many places that are taken are to vanish when they are given back.
    too_many: usize,
}

/// A place in it, until this is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for `most` jobs.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(most)), size: Mutex::new(Size { most, too_many: 0 }) })
    }

    /// From now on there is room for `most`.
    pub fn resize(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let mut size = self.lock();
        if most < size.most {
            let fewer = size.most - most;
            size.too_many += fewer - self.free.forget_permits(fewer);
        } else {
            let more = most - size.most;
            let kept = more.min(size.too_many);
            size.too_many -= kept;
            self.free.add_permits(more - kept);
        }
        size.most = most;
    }

    /// Waits for a place; whoever waits longest is next.
    pub async fn take(self: &Arc<Self>) -> Place {
        let permit = self.free.clone().acquire_owned().await.ok();
        Place { room: self.clone(), permit }
    }

    /// A place if there is one.
    pub fn try_take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Place { room: self.clone(), permit: Some(permit) })
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut size = self.room.lock();
        if size.too_many > 0 {
            size.too_many -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Room;
    use futures::FutureExt;

    #[tokio::test]
    async fn less_room_than_jobs_is_not_given_out_again() {
        let room = Room::new(3);
        let mut held = vec![room.take().await, room.take().await, room.take().await];
        room.resize(1);
        held.pop();
        assert!(room.try_take().is_none(), "two jobs where there is room for one");
        held.pop();
        assert!(room.try_take().is_none(), "one job where there is room for one");
        held.pop();
        let one = room.take().await;
        assert!(room.try_take().is_none());
        drop(one);
        room.resize(2);
        assert!(room.try_take().is_some());
    }

    #[tokio::test]
    async fn more_room_lets_those_in_who_wait() {
        let room = Room::new(1);
        let held = room.take().await;
        let mut waiting = Box::pin(room.take());
        assert!(waiting.as_mut().now_or_never().is_none());
        // Less and more again: the place that was to vanish stays.
        room.resize(0);
        room.resize(2);
        waiting.await;
        drop(held);
        let all = [room.try_take(), room.try_take()];
        assert!(all.iter().all(Option::is_some) && room.try_take().is_none());
    }
}
