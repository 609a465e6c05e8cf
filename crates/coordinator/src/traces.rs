//! Traces: one append-only file per job, with its length and checksum kept in memory.
//!
//! What is counted stands in the file before it is promised to the runner, so that a killed process promises nothing
//! that it does not have. After a restart the checksum is computed from the file once.

use crate::Error;
use job::JobId;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const BUFFER: usize = 256 * 1024;

/// All traces.
pub struct Traces {
    directory: PathBuf,
    open: Mutex<HashMap<JobId, Arc<Mutex<Trace>>>>,
}

/// One trace, open for appending.
pub struct Trace {
    path: PathBuf,
    file: File,
    length: u64,
    checksum: crc32fast::Hasher,
    /// The runner was told that its trace and ours differ: it may begin again at 0.
    may_restart: bool,
}

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The trace has this many bytes now.
    Length(u64),
    /// It has this many bytes, and the append began elsewhere.
    Elsewhere(u64),
    /// It would be longer than allowed.
    TooLong,
}

impl Traces {
    /// The traces below `directory`.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let directory = directory.join("traces");
        std::fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
        Ok(Self { directory, open: Mutex::default() })
    }

    /// The trace of a job, made when there is none.
    pub fn get(&self, job: JobId) -> Result<Arc<Mutex<Trace>>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = open.get(&job) {
            return Ok(trace.clone());
        }
        let trace = Arc::new(Mutex::new(Trace::open(self.path(job))?));
        open.insert(job, trace.clone());
        Ok(trace)
    }

    /// Closes the file of a job that is over.
    pub fn close(&self, job: JobId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }

    /// Forgets the trace of a job.
    pub fn discard(&self, job: JobId) -> Result<(), Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&job);
        match std::fs::remove_file(self.path(job)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(&self.path(job))(error)),
            _ => Ok(()),
        }
    }

    /// Up to `most` bytes from `offset`; none behind the end.
    pub fn read(&self, job: JobId, offset: u64, most: usize) -> Result<Vec<u8>, Error> {
        let path = self.path(job);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file(&path)(error)),
        };
        let there = file.metadata().map_err(Error::file(&path))?.len().saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(there).unwrap_or(usize::MAX).min(most)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64).map_err(Error::file(&path))? {
                0 => break,
                length => filled += length,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Length and checksum of a trace.
    pub fn facts(&self, job: JobId) -> Result<(u64, u32), Error> {
        if let Some(trace) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned() {
            return Ok(lock(&trace).facts());
        }
        match File::open(self.path(job)) {
            Ok(mut file) => measure(&mut file).map(|(length, hasher)| (length, hasher.finalize())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, 0)),
            Err(error) => Err(error),
        }
        .map_err(Error::file(&self.path(job)))
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.directory.join(format!("{job}.log"))
    }
}

/// A trace, whoever panicked with it.
pub fn lock(trace: &Mutex<Trace>) -> MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

fn measure(file: &mut File) -> std::io::Result<(u64, crc32fast::Hasher)> {
    let (mut length, mut checksum, mut buffer) = (0, crc32fast::Hasher::new(), vec![0; BUFFER]);
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, checksum));
        }
        checksum.update(&buffer[..read]);
        length += read as u64;
    }
}

impl Trace {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let mut file = File::options().read(true).append(true).create(true).open(&path).map_err(Error::file(&path))?;
        let (length, checksum) = measure(&mut file).map_err(Error::file(&path))?;
        Ok(Self { path, file, length, checksum, may_restart: false })
    }

    /// Length and checksum.
    pub fn facts(&self) -> (u64, u32) {
        (self.length, self.checksum.clone().finalize())
    }

    /// The next append may begin at 0 again.
    pub fn allow_restart(&mut self) {
        self.may_restart = true;
    }

    /// Appends `bytes` at `start`, up to `limit` altogether.
    pub fn append(&mut self, start: u64, bytes: &[u8], limit: u64) -> Result<Appended, Error> {
        if start == 0 && self.length > 0 && std::mem::take(&mut self.may_restart) {
            self.file.set_len(0).map_err(Error::file(&self.path))?;
            (self.length, self.checksum) = (0, crc32fast::Hasher::new());
        }
        if start != self.length {
            return Ok(Appended::Elsewhere(self.length));
        }
        if self.length + bytes.len() as u64 > limit {
            return Ok(Appended::TooLong);
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Half of it may stand there (a full disk): it does not count.
            let _ = self.file.set_len(self.length);
            return Err(Error::file(&self.path)(error));
        }
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        Ok(Appended::Length(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::{Appended, Traces, lock};

    #[test]
    fn a_trace_grows_at_its_end_only_and_survives_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let traces = Traces::open(place.path()).unwrap();
        let trace = traces.get(7).unwrap();
        assert_eq!(lock(&trace).append(0, b"hello ", 100).unwrap(), Appended::Length(6));
        assert_eq!(lock(&trace).append(3, b"xx", 100).unwrap(), Appended::Elsewhere(6));
        assert_eq!(lock(&trace).append(0, b"xx", 100).unwrap(), Appended::Elsewhere(6));
        assert_eq!(lock(&trace).append(6, b"x", 6).unwrap(), Appended::TooLong);
        drop((trace, traces));
        let traces = Traces::open(place.path()).unwrap();
        let trace = traces.get(7).unwrap();
        assert_eq!(lock(&trace).append(6, b"world", 100).unwrap(), Appended::Length(11));
        let facts = (11, crc32fast::hash(b"hello world"));
        assert_eq!(lock(&trace).facts(), facts);
        traces.close(7);
        assert_eq!(traces.facts(7).unwrap(), facts);
        assert_eq!(traces.read(7, 6, 3).unwrap(), b"wor");
        assert_eq!(traces.read(7, 60, 3).unwrap(), b"");
    }

    #[test]
    fn a_trace_begins_again_once_when_it_was_allowed_to() {
        let place = tempfile::tempdir().unwrap();
        let traces = Traces::open(place.path()).unwrap();
        let trace = traces.get(1).unwrap();
        let mut trace = lock(&trace);
        trace.append(0, b"wrong", 100).unwrap();
        trace.allow_restart();
        assert_eq!(trace.append(0, b"right!", 100).unwrap(), Appended::Length(6));
        assert_eq!(trace.append(0, b"again", 100).unwrap(), Appended::Elsewhere(6));
        assert_eq!(traces.read(1, 0, 100).unwrap(), b"right!");
    }
}
