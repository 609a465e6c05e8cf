//! Archives of jobs: files below `artifacts/<job>/`, written aside and put in place whole.

use crate::Error;
use crate::engine::Inner;
use crate::store::rows;
use job::JobId;
use rusqlite::params;
use std::path::{Path, PathBuf};

/// An archive that has come in whole.
#[derive(Clone, Debug)]
pub struct Received {
    /// `archive`, `junit`, …
    pub kind: String,
    /// `zip`, `gzip`, `raw`.
    pub format: String,
    /// As the runner called it.
    pub filename: String,
    /// In GitLab's words.
    pub expire_in: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Makes the directories, and removes what was being received when a process died.
pub fn prepare(directory: &Path) -> Result<(), Error> {
    let incoming = incoming(directory);
    match std::fs::remove_dir_all(&incoming) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(&incoming)(error)),
        _ => {}
    }
    std::fs::create_dir_all(&incoming).map_err(Error::file(&incoming))
}

/// Where archives lie while they come in.
pub fn incoming(directory: &Path) -> PathBuf {
    directory.join("artifacts/incoming")
}

/// Where the archive of a job lies.
pub fn path(directory: &Path, job: JobId, stored: &str) -> PathBuf {
    directory.join("artifacts").join(job.to_string()).join(stored)
}

/// Puts the file at `from` in place; one of the same type that is there goes.
pub fn keep(inner: &Inner, job: JobId, from: &Path, received: &Received) -> Result<(), Error> {
    let stored = format!("{}.{}", uuid::Uuid::new_v4().simple(), received.format);
    let target = path(&inner.directory, job, &stored);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(Error::file(parent))?;
    }
    std::fs::rename(from, &target).map_err(Error::file(&target))?;
    let written = inner.write(|writer| {
        let earlier = rows::artifact(writer.db(), job, &received.kind)?;
        let upsert = "INSERT OR REPLACE INTO artifacts (job, type, format, filename, size, sha256, expire_in, stored) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let Received { kind, format, filename, expire_in, size, sha256 } = received;
        writer
            .db()
            .execute(upsert, params![job, kind, format, filename, size, sha256, expire_in, stored])
            .map_err(Error::store("write an archive"))?;
        Ok(earlier)
    });
    match written {
        Ok(earlier) => {
            if let Some(earlier) = earlier {
                // One that stays takes room and does no harm.
                let _ = std::fs::remove_file(path(&inner.directory, job, &earlier.stored));
            }
            Ok(())
        }
        Err(error) => {
            let _ = std::fs::remove_file(&target);
            Err(error)
        }
    }
}
