//! The trace on its way: everything written, in a file, with its checksum.
//!
//! A file and not memory, because GitLab may be away for an hour while a job prints 100 MB. The file has no name, so
//! nothing is left when the agent is killed. It is never longer than the limit of the log: all of it is kept to the end,
//! because GitLab may ask for all of it again.
//!
//! A job may fill the disk that the file is on, and then says so in the very log. So what the disk does not take stays
//! in memory, a few MiB of it, and leaves from there; only then the beginning cannot be sent again.

use bytes::{Buf, BytesMut};
use crc32fast::Hasher;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is kept in memory when the disk is full.
pub const MEMORY: usize = 4 * 1024 * 1024;
/// What moves from memory to the disk at once.
const MOVE: usize = 64 * 1024;

/// The notice when the limit is reached (row "framing 11").
fn notice(limit: u64) -> String {
    format!(
        "\n\x1b[33;1mJob's log exceeded limit of {limit} bytes.\nJob execution will continue but no more output will be collected.\x1b[0;m\n"
    )
}

/// The bytes of a trace.
pub struct Spool {
    /// None where there is no place for files.
    file: Option<File>,
    /// The end of the trace, as far as the disk has not taken it.
    memory: BytesMut,
    length: u64,
    hasher: Hasher,
    limit: u64,
    full: bool,
    /// Bytes before this are gone.
    kept_from: u64,
    ends_line: bool,
}

impl Spool {
    /// A new one that keeps `limit` bytes and a notice; in memory alone when there is no place for temporary files.
    pub fn new(limit: u64) -> Self {
        let file = tempfile::tempfile();
        if let Err(error) = &file {
            eprintln!("gantry-agent: no place for the trace but memory: {error}");
        }
        Self::over(file.ok(), limit)
    }

    /// One that is kept in `file`.
    pub fn over(file: Option<File>, limit: u64) -> Self {
        let (memory, hasher) = (BytesMut::new(), Hasher::new());
        Self { file, memory, length: 0, hasher, limit, full: false, kept_from: 0, ends_line: true }
    }

    /// Appends; bytes over the limit are dropped after a notice.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.full {
            return;
        }
        let room = usize::try_from(self.limit.saturating_sub(self.length)).unwrap_or(usize::MAX);
        if bytes.len() <= room {
            return self.write(bytes);
        }
        self.write(&bytes[..room]);
        self.write(notice(self.limit).as_bytes());
        self.full = true;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.settle();
        let to_disk = |file: &File| self.memory.is_empty() && file.write_all_at(bytes, self.length).is_ok();
        if !self.file.as_ref().is_some_and(to_disk) {
            self.memory.extend_from_slice(bytes);
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.ends_line = bytes.last().map_or(self.ends_line, |last| *last == b'\n');
    }

    /// Moves to the disk what it takes by now.
    pub fn settle(&mut self) {
        let Some(file) = &self.file else { return };
        while !self.memory.is_empty() {
            let piece = self.memory.len().min(MOVE);
            if file.write_all_at(&self.memory[..piece], self.length - self.memory.len() as u64).is_err() {
                return;
            }
            self.memory.advance(piece);
        }
        self.memory = BytesMut::new();
    }

    /// Bytes that only memory has.
    pub fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// Lets memory go of what was delivered, where the disk still does not take it.
    pub fn delivered(&mut self, until: u64) {
        self.settle();
        let begin = self.length - self.memory.len() as u64;
        if until > begin {
            self.memory.advance(usize::try_from(until.min(self.length) - begin).unwrap_or(self.memory.len()));
            self.kept_from = until.min(self.length);
        }
    }

    /// Up to `most` bytes from `start`.
    ///
    /// # Errors
    /// When the file cannot be read, or the bytes are gone.
    pub fn read(&self, start: u64, most: usize) -> io::Result<Vec<u8>> {
        if start < self.kept_from {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the disk was full, and what memory had was let go"));
        }
        let begin = self.length - self.memory.len() as u64;
        if let Some(skip) = start.checked_sub(begin) {
            let rest = self.memory.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
            return Ok(rest[..rest.len().min(most)].to_vec());
        }
        let length = usize::try_from(begin - start).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; length];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut bytes, start)?;
        }
        Ok(bytes)
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// CRC-32 so far.
    pub fn crc32(&self) -> u32 {
        self.hasher.clone().finalize()
    }

    /// Whether all of it can be sent again.
    pub fn is_whole(&self) -> bool {
        self.kept_from == 0
    }

    /// Whether the last line has its end.
    pub fn ends_line(&self) -> bool {
        self.ends_line
    }
}

#[cfg(test)]
mod tests {
    use super::Spool;

    #[test]
    fn the_limit_is_exact_and_said_once() {
        let mut spool = Spool::new(10);
        for _ in 0..3 {
            spool.append(b"1234567");
        }
        let all = String::from_utf8(spool.read(0, 10_000).unwrap()).unwrap();
        assert!(all.starts_with("1234567123\n"), "{all}");
        assert_eq!(all.matches("exceeded limit of 10 bytes").count(), 1);
        assert_eq!(spool.crc32(), crc32fast::hash(all.as_bytes()));
        assert_eq!(spool.length(), all.len() as u64);
    }

    #[test]
    fn what_the_disk_does_not_take_leaves_from_memory() {
        // Every write to it fails for want of room.
        let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut spool = Spool::over(Some(full), 1000);
        spool.append(b"one\n");
        spool.append(b"two\n");
        assert_eq!((spool.in_memory(), spool.is_whole()), (8, true));
        assert_eq!(spool.read(0, 5).unwrap(), b"one\nt");
        spool.delivered(5);
        assert_eq!((spool.read(5, 100).unwrap(), spool.in_memory(), spool.is_whole()), (b"wo\n".to_vec(), 3, false));
        assert!(spool.read(0, 1).is_err(), "what is gone is not made up");
        assert_eq!((spool.length(), spool.crc32()), (8, crc32fast::hash(b"one\ntwo\n")));
    }

    #[test]
    fn memory_moves_to_the_disk_as_soon_as_there_is_room() {
        let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut spool = Spool::over(Some(full), 1000);
        spool.append(b"before ");
        spool.file = Some(tempfile::tempfile().unwrap());
        spool.append(b"behind");
        assert_eq!((spool.in_memory(), spool.is_whole()), (0, true));
        assert_eq!(spool.read(0, 100).unwrap(), b"before behind");
    }
}
