//! Numbers of jobs that run: the lowest free one of an entry and of a project in it (`CI_CONCURRENT_ID` and
//! `CI_CONCURRENT_PROJECT_ID`), which scripts name things by that two jobs must not share.
//!
//! Each manager counts for itself, as GitLab Runner does, and not for the jobs it took over: their numbers are in plans
//! that nobody reads again for this.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

type Taken = Arc<Mutex<BTreeSet<(Option<u64>, u32)>>>;

/// Those of one entry.
#[derive(Clone, Default)]
pub struct Numbers(Taken);

/// One of them, as long as it is held.
pub struct Number {
    taken: (Option<u64>, u32),
    all: Taken,
}

impl Numbers {
    /// The lowest that is free in a project, or in the whole entry.
    pub fn take(&self, project: Option<u64>) -> Number {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..u32::MAX).find(|number| !all.contains(&(project, *number))).unwrap_or(u32::MAX);
        all.insert((project, free));
        Number { taken: (project, free), all: self.0.clone() }
    }
}

impl Number {
    /// Which it is.
    pub fn value(&self) -> u32 {
        self.taken.1
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn the_lowest_free_number_is_taken_for_each_project() {
        let numbers = Numbers::default();
        let (first, second, other) = (numbers.take(Some(1)), numbers.take(Some(1)), numbers.take(Some(2)));
        assert_eq!((first.value(), second.value(), other.value(), numbers.take(None).value()), (0, 1, 0, 0));
        drop(first);
        let (third, fourth) = (numbers.take(Some(1)), numbers.take(Some(1)));
        assert_eq!((third.value(), fourth.value()), (0, 2));
    }
}
