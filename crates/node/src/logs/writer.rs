//! A container's output, from two pipes into files.
//!
//! One thread per container, because writing to a disk blocks. It drains the pipes whatever happens: a full disk
//! costs lines of the log, never the container. Files are cut into segments of which the last two are kept.

use super::record::{self, Stream};
use super::{Log, Position};
use crate::clock;
use rustix::event::{PollFd, PollFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// Size at which a new segment begins.
pub const SEGMENT: u64 = 64 * 1024 * 1024;
/// Segments that are kept.
const KEPT: u64 = 2;
/// The thread needs little more than one block.
const STACK: usize = 256 * 1024;

/// Starts to write what comes out of the pipes; the log ends when both are closed.
///
/// # Errors
/// When the first file or the thread cannot be made.
pub fn start(log: Arc<Log>, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<()> {
    let mut writer = Writer { file: None, lost: 0, segment_size: log.segment_size, log };
    writer.file = Some(writer.create(0)?);
    std::thread::Builder::new().name("container-log".to_owned()).stack_size(STACK).spawn(move || {
        writer.copy([(Stream::Stdout, Some(stdout)), (Stream::Stderr, Some(stderr))]);
        writer.log.position.send_modify(|position| position.ended = true);
    })?;
    Ok(())
}

struct Writer {
    log: Arc<Log>,
    file: Option<File>,
    lost: u64,
    segment_size: u64,
}

impl Writer {
    fn create(&self, segment: u64) -> io::Result<File> {
        File::options().create(true).append(true).open(self.log.path(segment))
    }

    fn copy(&mut self, mut pipes: [(Stream, Option<OwnedFd>); 2]) {
        let mut block = vec![0; BLOCK];
        let mut out = Vec::with_capacity(2 * BLOCK);
        while pipes.iter().any(|(_, pipe)| pipe.is_some()) {
            let ready = match wait(&pipes) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::warn!(%error, "failed to wait for the output of a container");
                    return;
                }
            };
            out.clear();
            for ((stream, pipe), _) in pipes.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                let Some(source) = pipe else { continue };
                match rustix::io::read(&*source, &mut block) {
                    Ok(0) => *pipe = None,
                    Ok(read) => record::encode(&record::time(clock::now()), *stream, &block[..read], &mut out),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => *pipe = None,
                }
            }
            if !out.is_empty() {
                self.write(&out);
            }
        }
    }

    fn write(&mut self, records: &[u8]) {
        if let Err(error) = self.try_write(records) {
            if self.lost == 0 {
                tracing::warn!(path = %self.log.directory.display(), %error, "failed to write the log of a container");
            }
            self.lost += records.len() as u64;
            // A torn record would be read as part of the next one.
            let written = self.log.position.borrow().bytes;
            if let Some(file) = &self.file {
                let _ = file.set_len(written);
            }
        }
    }

    fn try_write(&mut self, records: &[u8]) -> io::Result<()> {
        let position = *self.log.position.borrow();
        if position.bytes >= self.segment_size {
            self.next_segment(position)?;
        }
        let mut note = Vec::new();
        if self.lost > 0 {
            let text = format!("[{} bytes of this log were lost, because they could not be written]\n", self.lost);
            record::encode(&record::time(clock::now()), Stream::Stderr, text.as_bytes(), &mut note);
        }
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the log has no file"))?;
        file.write_all(&note)?;
        file.write_all(records)?;
        self.lost = 0;
        let more = (note.len() + records.len()) as u64;
        self.log.position.send_modify(|position| position.bytes += more);
        Ok(())
    }

    fn next_segment(&mut self, position: Position) -> io::Result<()> {
        let segment = position.segment + 1;
        self.file = Some(self.create(segment)?);
        let first = position.first.max((segment + 1).saturating_sub(KEPT));
        for old in position.first..first {
            // Gone is as good.
            let _ = std::fs::remove_file(self.log.path(old));
        }
        self.log.position.send_modify(|position| *position = Position { first, segment, bytes: 0, ended: false });
        Ok(())
    }
}

/// Waits until something can be read, or a pipe is closed.
fn wait(pipes: &[(Stream, Option<OwnedFd>); 2]) -> io::Result<[bool; 2]> {
    let mut polled: Vec<_> = pipes
        .iter()
        .enumerate()
        .filter_map(|(index, (_, pipe))| pipe.as_ref().map(|pipe| (index, PollFd::new(pipe, PollFlags::IN))))
        .collect();
    let mut fds: Vec<_> = polled.iter_mut().map(|(_, fd)| fd.clone()).collect();
    loop {
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let mut ready = [false; 2];
    for ((index, _), fd) in polled.iter().zip(&fds) {
        ready[*index] = !fd.revents().is_empty();
    }
    Ok(ready)
}
