//! Every child of the build container's first process, and how it ended.
//!
//! One thread reaps them all, orphans included. A script is registered under the lock that the reaper needs to note
//! an end, so that the end of a very short script cannot be missed.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The register of scripts.
#[derive(Default)]
pub struct Children {
    known: Mutex<HashMap<u32, Option<i32>>>,
    changed: Condvar,
    ending: AtomicBool,
}

impl Children {
    /// Starts the reaper.
    pub fn start() -> Arc<Self> {
        let children = Arc::new(Self::default());
        let reaper = children.clone();
        std::thread::spawn(move || reaper.reap());
        children
    }

    /// Starts a script.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut known = self.lock();
        let child = command.spawn()?;
        known.insert(child.id(), None);
        self.changed.notify_all();
        Ok(child)
    }

    /// Waits for a script's end: its exit code, or 128 + signal.
    pub fn wait(&self, id: u32) -> i32 {
        let mut known = self.lock();
        loop {
            match known.get(&id) {
                Some(Some(code)) => {
                    let code = *code;
                    known.remove(&id);
                    return code;
                }
                Some(None) => known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner),
                None => return 0,
            }
        }
    }

    /// Whether a script has not ended yet.
    pub fn is_running(&self, group: i32) -> bool {
        u32::try_from(group).is_ok_and(|id| matches!(self.lock().get(&id), Some(None)))
    }

    /// Kills a script's process group after a grace, unless the script has ended by then.
    pub fn kill_later(&self, group: i32, grace: Duration) {
        let Ok(id) = u32::try_from(group) else { return };
        let known = self.lock();
        let (known, _) = self
            .changed
            .wait_timeout_while(known, grace, |known| matches!(known.get(&id), Some(None)))
            .unwrap_or_else(PoisonError::into_inner);
        if matches!(known.get(&id), Some(None)) {
            // SAFETY: kill only takes numbers; the script is registered as running, so the group is ours.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }

    /// TERM to every running script, KILL after a grace.
    pub fn end_all(&self, grace: Duration) {
        self.ending.store(true, Ordering::SeqCst);
        let running: Vec<i32> =
            self.lock().iter().filter(|(_, end)| end.is_none()).filter_map(|(id, _)| i32::try_from(*id).ok()).collect();
        for group in running {
            // SAFETY: kill only takes numbers; the script is registered as running, so the group is ours.
            unsafe { libc::kill(-group, libc::SIGTERM) };
            self.kill_later(group, grace);
        }
    }

    /// Whether [`Self::end_all`] was called.
    pub fn are_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn reap(&self) {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one int, which lives on our stack.
            let id = unsafe { libc::waitpid(-1, &raw mut status, 0) };
            let mut known = self.lock();
            if id > 0 {
                let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
                if let Some(slot) = u32::try_from(id).ok().and_then(|id| known.get_mut(&id)) {
                    *slot = Some(code);
                    self.changed.notify_all();
                }
            } else if known.values().all(Option::is_some) {
                // No child at all: wait until there is one.
                drop(self.changed.wait(known).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Option<i32>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
