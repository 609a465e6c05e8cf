//! `POST jobs/request`: 201 with a [`crate::JobResponse`], 204 without a job, 403 for an unknown runner.

use crate::Info;
use serde::{Deserialize, Serialize};

/// Path of the call.
pub const PATH: &str = "jobs/request";

/// Body of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRequest {
    /// What the runner can do.
    pub info: Info,
    /// Runner token.
    pub token: String,
    /// Which of several managers asks.
    pub system_id: String,
    /// Last `X-GitLab-Last-Update` seen; equal to the server's means "wait for news".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_update: String,
}
