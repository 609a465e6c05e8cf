//! What passed through GitLab's door, one JSON object per line, in a file that outlives its writer.
//!
//! The coordinator under test cannot be asked what it forgot at a kill; this file can. Each line is one write at the end
//! of the file, so a kill leaves no half of one behind another.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Something that GitLab answered, or was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Entry {
    /// A job went to a runner.
    Handed {
        /// The job.
        job: u64,
    },
    /// It was confirmed, or said to be alive.
    Running {
        /// The job.
        job: u64,
    },
    /// An end was told and accepted.
    Ended {
        /// The job.
        job: u64,
        /// What was told: state, reason, exit code.
        told: String,
        /// By whom: the address.
        from: String,
    },
    /// A request met a fault.
    Fault {
        /// Which.
        kind: String,
    },
    /// The script of a job began.
    Began {
        /// The job.
        job: u64,
    },
}

/// The writer's side.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Appends to `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("failed to open {}", path.display()))?))
    }

    /// Writes one entry.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let line = serde_json::to_string(entry)? + "\n";
        (&self.0).write_all(line.as_bytes()).context("failed to write the journal")
    }
}

/// The reader's side: what is new since the last look.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    at: u64,
}

impl Reader {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), at: 0 }
    }

    /// All whole lines that came since.
    pub fn news(&mut self) -> Result<Vec<Entry>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.at += whole as u64;
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("the journal has a line that is none")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Reader, Writer};

    #[test]
    fn what_is_written_is_read_once_and_half_a_line_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let mut reader = Reader::new(&path);
        assert!(reader.news().unwrap().is_empty());
        let writer = Writer::open(&path).unwrap();
        let entry = Entry::Ended { job: 3, told: "success".to_owned(), from: "10.0.0.1".to_owned() };
        writer.write(&entry).unwrap();
        std::io::Write::write_all(&mut &writer.0, br#"{"what":"began","#).unwrap();
        assert_eq!(reader.news().unwrap(), [entry]);
        std::io::Write::write_all(&mut &writer.0, b"\"job\":4}\n").unwrap();
        assert_eq!(reader.news().unwrap(), [Entry::Began { job: 4 }]);
    }
}
