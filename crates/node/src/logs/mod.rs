//! The logs of containers: written in the kubelet's format, bounded, followed by any number of readers.
//!
//! Writer and readers meet in a position that only grows: a reader never sees a torn record, and is woken by the
//! write itself instead of looking again and again.

pub mod reader;
mod record;
mod writer;

pub use record::{MOST_TEXT, TIME_FORMAT, time};
pub use writer::{SEGMENT, start};

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// How far a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Oldest segment that is kept.
    pub first: u64,
    /// Segment that is written.
    pub segment: u64,
    /// Bytes of it that are there.
    pub bytes: u64,
    /// Nothing will follow.
    pub ended: bool,
}

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    position: watch::Sender<Position>,
    segment_size: u64,
}

impl Log {
    /// A log whose files will be in `directory`, which is made.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(directory: &Path) -> io::Result<Arc<Self>> {
        Self::with_segments(directory, SEGMENT)
    }

    fn with_segments(directory: &Path, segment_size: u64) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(directory)?;
        Ok(Arc::new(Self { directory: directory.to_owned(), position: watch::Sender::new(Position::default()), segment_size }))
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.directory.join(format!("{segment}.log"))
    }

    /// Removes the files; readers keep what they have open.
    pub fn remove(&self) {
        // What is gone already is what we want, and anything else goes with the pod's directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }

    /// Waits until everything the container said is written.
    pub async fn ended(&self) {
        let mut changes = self.position.subscribe();
        // The writer outlives nobody who waits here: the sender is in `self`.
        let _ = changes.wait_for(|position| position.ended).await;
    }

    /// The last lines, as text of at most `bytes` bytes; what a termination message falls back to.
    pub fn last_lines(&self, lines: usize, bytes: usize) -> String {
        let position = *self.position.borrow();
        let read = || -> io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(self.path(position.segment))?;
            let window = (bytes + lines * record::HEADER + MOST_TEXT) as u64;
            file.seek(SeekFrom::Start(position.bytes.saturating_sub(window)))?;
            let mut block = Vec::new();
            file.take(window).read_to_end(&mut block)?;
            Ok(block)
        };
        let mut text = Vec::new();
        for record in read().unwrap_or_default().split(|byte| *byte == b'\n').filter_map(record::decode) {
            text.extend_from_slice(record.text);
            if record.ends_line {
                text.push(b'\n');
            }
        }
        let starts = text.iter().enumerate().rev().filter(|(at, byte)| **byte == b'\n' && at + 1 < text.len());
        let first = starts.map(|(at, _)| at + 1).nth(lines.saturating_sub(1)).unwrap_or(0);
        let first = first.max(text.len().saturating_sub(bytes));
        String::from_utf8_lossy(&text[first..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::reader::{Selection, read};
    use super::{Log, start};
    use futures::{StreamExt, TryStreamExt};
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Duration;

    fn pipes() -> ((File, File), impl FnOnce(Arc<Log>)) {
        let (out, out_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (err, err_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        ((out_end.into(), err_end.into()), move |log| start(log, out, err).unwrap())
    }

    async fn text(log: &Arc<Log>, selection: Selection) -> String {
        let all = read(log.clone(), selection).try_fold(Vec::new(), |mut all, more| async move {
            all.extend_from_slice(&more);
            Ok(all)
        });
        let all = tokio::time::timeout(Duration::from_secs(20), all).await.expect("the log ends").unwrap();
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_log_comes_back_whole_by_its_last_lines_and_with_times() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new(directory.path()).unwrap();
        let ((mut out, err), go) = pipes();
        go(log.clone());
        drop(err);
        out.write_all(b"one\ntwo\nthree").unwrap();
        drop(out);
        log.ended().await;
        assert_eq!(text(&log, Selection::default()).await, "one\ntwo\nthree");
        assert_eq!(text(&log, Selection { tail_lines: Some(2), ..Selection::default() }).await, "two\nthree");
        assert_eq!(text(&log, Selection { tail_lines: Some(0), ..Selection::default() }).await, "");
        assert_eq!(text(&log, Selection { limit_bytes: Some(5), ..Selection::default() }).await, "one\nt");
        let timed = text(&log, Selection { timestamps: true, ..Selection::default() }).await;
        assert_eq!(timed.lines().map(|line| line.split_once("Z ").unwrap().1).collect::<Vec<_>>(), ["one", "two", "three"]);
        let future = Some("2999-01-01T00:00:00.000000000Z".to_owned());
        assert_eq!(text(&log, Selection { since: future, ..Selection::default() }).await, "");
        assert_eq!(log.last_lines(1, 100), "three");
        assert_eq!(log.last_lines(2, 100), "two\nthree");
        assert_eq!(log.last_lines(80, 7), "o\nthree");
    }

    #[tokio::test]
    async fn a_follower_gets_every_byte_when_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new(directory.path()).unwrap();
        let ((mut out, err), go) = pipes();
        go(log.clone());
        let mut stream = read(log.clone(), Selection { follow: true, ..Selection::default() });
        for word in ["prompt", "> ", "answer\n"] {
            out.write_all(word.as_bytes()).unwrap();
            let mut got = Vec::new();
            while got.len() < word.len() {
                let more = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("bytes come at once");
                got.extend_from_slice(&more.unwrap().unwrap());
            }
            assert_eq!(got, word.as_bytes());
        }
        drop((out, err));
        assert!(tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("the log ends").is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn old_segments_are_dropped_and_the_newest_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::with_segments(directory.path(), 100_000).unwrap();
        let ((mut out, err), go) = pipes();
        go(log.clone());
        for number in 0..20_000 {
            writeln!(out, "line {number}").unwrap();
        }
        drop((out, err));
        log.ended().await;
        let files = std::fs::read_dir(directory.path()).unwrap();
        let kept: u64 = files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(kept < 1_500_000, "{kept} bytes are kept");
        let all = text(&log, Selection { follow: true, ..Selection::default() }).await;
        assert!(all.ends_with("line 19999\n"));
        let last = text(&log, Selection { tail_lines: Some(3), ..Selection::default() }).await;
        assert_eq!(last, "line 19997\nline 19998\nline 19999\n");
    }
}
