//! Which jobs are in somebody's hands in this process.
//!
//! The looks that repeat what the start does must not begin a second time with a job that a task of ours has. Who
//! follows which pod does not tell that: between two pods of a job nobody follows any.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Key = (String, String);

/// Jobs by namespace and name of their first pod.
#[derive(Debug, Default)]
pub struct Hands(Mutex<HashSet<Key>>);

/// One job's; let go when dropped.
#[derive(Debug)]
pub struct Hand {
    hands: Arc<Hands>,
    key: Key,
}

impl Hands {
    /// Takes a job; `None` when somebody has it.
    pub fn take(self: &Arc<Self>, namespace: &str, first: &str) -> Option<Hand> {
        let key = (namespace.to_owned(), first.to_owned());
        self.lock().insert(key.clone()).then(|| Hand { hands: self.clone(), key })
    }

    /// Whether somebody has it.
    pub fn have(&self, namespace: &str, first: &str) -> bool {
        self.lock().contains(&(namespace.to_owned(), first.to_owned()))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.hands.lock().remove(&self.key);
    }
}
