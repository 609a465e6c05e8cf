//! The life of a runner at GitLab: registered, verified, given another token, taken away.
//!
//! `register` sends flags always and words only when there are some, as GitLab Runner does. A runner with a token of the
//! new kind (`glrt-`) has several managers; taking one away leaves the runner.

use crate::Info;
use serde::{Deserialize, Serialize};

/// Path of registration and removal.
pub const PATH: &str = "runners";
/// Path of the question whether a runner is known.
pub const VERIFY: &str = "runners/verify";
/// Path of the removal of one manager.
pub const MANAGERS: &str = "runners/managers";
/// Path of a new token for the old one.
pub const RESET: &str = "runners/reset_authentication_token";

/// Path of a new token for an administrator.
pub fn reset_path(runner: u64) -> String {
    format!("runners/{runner}/reset_authentication_token")
}

/// Body of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Registration token.
    pub token: String,
    /// What a runner without a configuration can do.
    pub info: Info,
    /// Shown in GitLab.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// For its owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub maintenance_note: String,
    /// Separated by commas.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag_list: String,
    /// Takes jobs without tags.
    pub run_untagged: bool,
    /// Stays with its project.
    pub locked: bool,
    /// `not_protected` or `ref_protected`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_level: String,
    /// Seconds; 0 is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub maximum_timeout: u64,
    /// Takes no jobs for now.
    pub paused: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What GitLab answers: the runner, and the token it has from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registered {
    /// Its number; 0 when GitLab did not say.
    pub id: u64,
    /// Its token.
    pub token: String,
    /// When the token ends, as RFC 3339; `None` for never.
    pub token_expires_at: Option<String>,
}
