//! How a job ended, as the agent leaves it in the helper's termination message.
//!
//! One line of JSON, kept under [`MAX_BYTES`] because Kubernetes cuts a termination message at 4,096 bytes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest verdict.
pub const MAX_BYTES: usize = 4000;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `success` or `failed`.
    pub state: String,
    /// Exit code of the script, when it was the script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// GitLab's word for the reason, when failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// What went wrong, one sentence for people; no secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether GitLab accepted the final state.
    pub reported: bool,
    /// Bytes of the trace; 0 where its last line is left to the manager.
    #[serde(default)]
    pub trace_bytes: u64,
    /// What containers used, by name; empty where no report is wanted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, Usage>,
}

/// What a container used, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Most memory at once, in bytes; what the kernel keeps of files counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Time of all processors, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// How long the CPU limit held it back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_ms: Option<u64>,
    /// Bytes written to disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

impl Verdict {
    /// Writes it, cutting the message where it would be too long.
    pub fn to_message(&self) -> String {
        let mut verdict = self.clone();
        loop {
            let text = serde_json::to_string(&verdict).unwrap_or_default();
            if text.len() <= MAX_BYTES || verdict.message.is_empty() {
                return text;
            }
            let mut keep = verdict.message.len() / 2;
            while !verdict.message.is_char_boundary(keep) {
                keep -= 1;
            }
            verdict.message.truncate(keep);
        }
    }

    /// Reads a termination message; `None` when it is not a verdict (the agent died before it wrote one).
    pub fn parse(message: &str) -> Option<Self> {
        serde_json::from_str(message.trim()).ok()
    }

    /// The state in our words.
    pub fn job_state(&self) -> Option<job::JobState> {
        job::JobState::parse(&self.state)
    }

    /// The reason in our words.
    pub fn reason(&self) -> Option<job::FailureReason> {
        self.failure_reason.as_deref().and_then(job::FailureReason::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, Usage, Verdict};
    use std::collections::BTreeMap;

    #[test]
    fn a_long_message_is_cut_and_the_rest_survives() {
        let verdict = Verdict {
            state: "failed".into(),
            exit_code: Some(3),
            failure_reason: Some("script_failure".into()),
            message: "é\"".repeat(5000),
            reported: true,
            trace_bytes: 9,
            resources: BTreeMap::from([("build".to_owned(), Usage { memory_peak: Some(u64::MAX), ..Usage::default() })]),
        };
        let text = verdict.to_message();
        assert!(text.len() <= MAX_BYTES);
        let read = Verdict::parse(&text).unwrap();
        assert_eq!((read.exit_code, read.reported, &read.resources), (Some(3), true, &verdict.resources));
        assert_eq!(Verdict::parse("killed"), None);
    }
}
