//! The trace of the job: masked, spooled, sent to GitLab, and learned from.
//!
//! Writers call [`Trace::write`]; one task sends ([`Trace::send`]). A script has to wait while too much of its output is
//! not sent yet; our own lines never wait, so that nothing of ours stands still because GitLab does. What finds no room
//! at all is counted, and said in the log once there is some.

mod delivery;

pub use delivery::{Final, Owner, Patience, Pauses};

use crate::spool::{self, Spool};
use gitlab_api::log::Stream;
use job::RemoteState;
use job_log::Log;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A script has to wait when this much of its output is not sent yet, so that a job cannot fill the disk.
const BACKLOG: u64 = 512 * 1024 * 1024;
/// Room in memory for our own lines, behind that of scripts.
const OWN: usize = 256 * 1024;
/// How often a full disk is looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// A script that waited for less is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(5);

/// Handle for writers.
#[derive(Clone)]
pub struct Trace {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    grown: Notify,
    sent: Notify,
    urgent: Notify,
    remote: watch::Sender<RemoteState>,
}

struct State {
    log: Log,
    spool: Spool,
    /// Bytes of ours that the server has.
    sent: u64,
    /// Bytes before ours that the manager wrote.
    base: u64,
    /// Where our header ends, which the manager wrote if it wrote anything.
    header: u64,
    /// Bytes of ours that are not sent, because the manager wrote them.
    skipped: u64,
    /// Ends of first patches that were never answered: they may have counted.
    unanswered: Vec<u64>,
    gone: bool,
    /// A manager has written the end: it tells GitLab, and we do not.
    taken: bool,
    /// Bytes that found no room.
    lost: u64,
    /// Since when a script waits for room.
    held: Option<Instant>,
    /// The last answer of the server that was one.
    heard: Option<Instant>,
    /// Whether the server may hold its trace against ours.
    facts: bool,
    /// How much may wait to be sent.
    backlog: u64,
    /// A silent job is told of less often.
    rarely: bool,
}

impl State {
    fn new(spool: Spool, log: Log) -> Self {
        Self {
            log,
            spool,
            sent: 0,
            base: 0,
            header: 0,
            skipped: 0,
            unanswered: Vec::new(),
            gone: false,
            taken: false,
            lost: 0,
            held: None,
            heard: None,
            facts: true,
            backlog: BACKLOG,
            rarely: false,
        }
    }

    /// Where what is spooled at `at` stands in the trace.
    fn position(&self, at: u64) -> u64 {
        self.base + at.saturating_sub(self.skipped)
    }

    /// Where the trace ends once all is sent.
    fn end(&self) -> u64 {
        self.position(self.spool.length())
    }

    /// Once full, only when half of it is sent: not to stop and go with every patch.
    fn is_full(&self) -> bool {
        let (backlog, memory) = match self.held {
            Some(_) => (self.backlog / 2, spool::MEMORY / 2),
            None => (self.backlog, spool::MEMORY),
        };
        !self.gone && (self.spool.length() - self.sent > backlog || self.spool.in_memory() >= memory)
    }

    /// Spools; what finds no room is counted.
    fn append(&mut self, text: &[u8], room: usize) {
        if text.is_empty() {
            return;
        }
        if self.spool.in_memory() >= room {
            self.lost += text.len() as u64;
            return;
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.warn(&format!(
                "{lost} bytes of the log are missing here, there was no room to keep them until GitLab took them"
            ));
        }
        self.spool.append(text);
    }

    /// A script that waited for room goes on.
    fn release(&mut self) {
        let waited = self.held.take().map(|since| since.elapsed());
        if let Some(waited) = waited.filter(|waited| *waited >= WORTH_A_LINE) {
            self.warn(&format!("the script had to wait {} s until GitLab took enough of its log", waited.as_secs()));
        }
    }

    fn warn(&mut self, text: &str) {
        let begin = if self.spool.ends_line() { "" } else { "\n" };
        let line = format!("{begin}\x1b[0;33mWARNING: {text}\x1b[0;m\n");
        let line = self.log.push(Stream::RUNNER, line.as_bytes(), now());
        self.spool.append(&line);
    }
}

impl Trace {
    /// A trace that keeps `limit` bytes of a log.
    pub fn new(limit: u64, log: Log) -> Self {
        Self::over(State::new(Spool::new(limit), log))
    }

    fn over(state: State) -> Self {
        let (remote, _) = watch::channel(RemoteState::Running);
        let (grown, sent, urgent) = (Notify::new(), Notify::new(), Notify::new());
        Self { shared: Arc::new(Shared { state: Mutex::new(state), grown, sent, urgent, remote }) }
    }

    /// From now on a silent job is told of as seldom as GitLab Runner does with its flag for that.
    pub fn touch_rarely(&self) {
        self.lock().rarely = true;
    }

    /// Appends what the job's work says; waits while too much is not sent yet.
    pub async fn write(&self, bytes: &[u8]) {
        self.room().await;
        self.put(Stream::WORK, bytes);
    }

    /// Waits until there is room for more output; safe to drop and call again.
    pub async fn room(&self) {
        loop {
            // Made before the look, so that a notice in between is not missed.
            let sent = self.shared.sent.notified();
            {
                let mut state = self.lock();
                if state.spool.in_memory() > 0 {
                    state.spool.settle();
                }
                if !state.is_full() {
                    state.release();
                    return;
                }
                state.held.get_or_insert_with(Instant::now);
            }
            tokio::select! { () = sent => {}, () = tokio::time::sleep(LOOK) => {} }
        }
    }

    /// Appends bytes without waiting; those that find no room are lost, and said to be.
    pub fn put(&self, stream: Stream, bytes: &[u8]) {
        self.append(stream, bytes, spool::MEMORY);
    }

    /// Appends bytes of our own, which are few: they never wait.
    pub fn own(&self, stream: Stream, bytes: &[u8]) {
        self.append(stream, bytes, spool::MEMORY + OWN);
    }

    fn append(&self, stream: Stream, bytes: &[u8], room: usize) {
        let mut state = self.lock();
        let text = state.log.push(stream, bytes, now());
        state.append(&text, room);
        drop(state);
        self.shared.grown.notify_one();
    }

    /// Appends a message of the runner: text in a colour, reset, newline (row "framing 4").
    pub async fn line(&self, text: &str) {
        self.own(Stream::RUNNER, format!("{text}\x1b[0;m\n").as_bytes());
    }

    /// Appends a line that belongs to the job's work, where GitLab Runner has it from a script (row "framing 8").
    pub async fn work_line(&self, text: &str) {
        self.own(Stream::WORK, format!("{text}\x1b[0;m\n").as_bytes());
    }

    /// What was written so far is not sent if somebody has written before us.
    pub fn end_header(&self) {
        self.flush();
        let mut state = self.lock();
        state.header = state.spool.length();
    }

    /// Has what is there sent without waiting for the server's interval: a person waits for a script's first words.
    pub fn urge(&self) {
        self.shared.urgent.notify_one();
    }

    /// Lets go what is held back, because a script or the job has ended.
    pub fn flush(&self) {
        let mut state = self.lock();
        let rest = state.log.finish(now());
        state.append(&rest, spool::MEMORY + OWN);
        drop(state);
        self.shared.grown.notify_one();
    }

    /// The job's state at GitLab, as it changes.
    pub fn remote(&self) -> watch::Receiver<RemoteState> {
        self.shared.remote.subscribe()
    }

    /// Whether GitLab has given an answer since then.
    pub fn was_heard_since(&self, then: Instant) -> bool {
        self.lock().heard.is_some_and(|heard| heard > then)
    }

    /// Bytes on the server's side once all is sent.
    pub fn length(&self) -> u64 {
        self.lock().end()
    }

    fn unsent(&self) -> bool {
        self.backlog() > 0
    }

    fn backlog(&self) -> u64 {
        let state = self.lock();
        if state.gone { 0 } else { state.spool.length() - state.sent }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds after 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
