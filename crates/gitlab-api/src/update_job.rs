//! `PUT jobs/:id`: confirms a job, keeps it alive, reports how it ended.
//!
//! 200 done; 202 the server still checks the trace, ask again; 412 the trace does not match, send it again from 0;
//! 403 and 404 the job is gone.

use crate::Info;
use serde::{Deserialize, Serialize};

/// Path of the call.
pub fn path(id: job::JobId) -> String {
    format!("jobs/{id}")
}

/// Body of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateJob {
    /// What the runner can do.
    pub info: Info,
    /// Job token.
    pub token: String,
    /// `running`, `success` or `failed`.
    pub state: String,
    /// Why, when failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// Checksum of the trace again, for old servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Facts of the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// Exit code of the script; 0 is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Facts of the whole trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// `crc32:` and eight lower hex digits (CRC-32 IEEE); left out by a writer that did not write all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Bytes.
    pub bytesize: u64,
}

/// Spells a CRC-32 as the API wants it.
pub fn checksum_text(crc32: u32) -> String {
    format!("crc32:{crc32:08x}")
}
