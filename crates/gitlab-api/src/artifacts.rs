//! `POST` and `GET jobs/:id/artifacts`.
//!
//! Up: multipart form with one part `file`; 201 stored, 403 and 413 final, 503 try again. Down: 200 with the
//! archive, or a redirect; 401, 403 and 404 final.

use serde::{Deserialize, Serialize};

/// Path of both calls, without the query.
pub fn path(id: job::JobId) -> String {
    format!("jobs/{id}/artifacts")
}

/// Query of an upload; empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadQuery {
    /// `zip`, `gzip`, `raw`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub artifact_format: String,
    /// `archive`, `junit`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// In GitLab's words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expire_in: String,
}
