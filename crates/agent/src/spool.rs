//! The trace on its way: everything written, in a file, with its checksum.
//!
//! A file and not memory, because GitLab may be away for an hour while a job prints 100 MB. The file has no name, so
//! nothing is left when the agent is killed.

use crc32fast::Hasher;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The notice when the limit is reached (row "framing 11").
fn notice(limit: u64) -> String {
    format!(
        "\n\x1b[33;1mJob's log exceeded limit of {limit} bytes.\nJob execution will continue but no more output will be collected.\x1b[0;m\n"
    )
}

/// The bytes of a trace.
pub struct Spool {
    file: File,
    length: u64,
    hasher: Hasher,
    limit: u64,
    full: bool,
}

impl Spool {
    /// A new one that keeps `limit` bytes and a notice.
    ///
    /// # Errors
    /// When there is no place for temporary files.
    pub fn new(limit: u64) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, length: 0, hasher: Hasher::new(), limit, full: false })
    }

    /// Appends; bytes over the limit are dropped after a notice.
    ///
    /// # Errors
    /// When the disk is full; nothing of `bytes` counts then.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.full {
            return Ok(());
        }
        let room = usize::try_from(self.limit.saturating_sub(self.length)).unwrap_or(usize::MAX);
        if bytes.len() <= room {
            return self.write(bytes);
        }
        self.write(&bytes[..room])?;
        self.write(notice(self.limit).as_bytes())?;
        self.full = true;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Up to `most` bytes from `start`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, start: u64, most: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.length.saturating_sub(start)).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
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
}

#[cfg(test)]
mod tests {
    use super::Spool;

    #[test]
    fn the_limit_is_exact_and_said_once() {
        let mut spool = Spool::new(10).unwrap();
        for _ in 0..3 {
            spool.append(b"1234567").unwrap();
        }
        let all = String::from_utf8(spool.read(0, 10_000).unwrap()).unwrap();
        assert!(all.starts_with("1234567123\n"), "{all}");
        assert_eq!(all.matches("exceeded limit of 10 bytes").count(), 1);
        assert_eq!(spool.crc32(), crc32fast::hash(all.as_bytes()));
        assert_eq!(spool.length(), all.len() as u64);
    }
}
