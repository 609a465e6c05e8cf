//! How a job ended, in our words, and the two forms it is told in.

use crate::trace::Final;
use agent_contract::Verdict;
use job::{FailureReason, JobState};

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that counts ended well.
    Success,
    /// Something failed.
    Failed {
        /// Which kind of failure.
        reason: FailureReason,
        /// Of the script, when it was the script.
        exit_code: Option<i32>,
        /// For the last line of the trace.
        message: String,
    },
    /// GitLab wants nothing more of it: cancelled there, or gone.
    Abandoned,
}

impl Ending {
    /// A failure that has no exit code.
    pub fn failed(reason: FailureReason, message: impl Into<String>) -> Self {
        Self::Failed { reason, exit_code: None, message: message.into() }
    }

    /// Whether it is a success so far.
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }

    /// `CI_JOB_STATUS` for `after_script`.
    pub fn status_word(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed { reason: FailureReason::JobCanceled, .. } | Self::Abandoned => "canceled",
            Self::Failed { .. } => "failed",
        }
    }

    /// For GitLab; the reason is one that it `knows`.
    pub fn to_final(&self, knows: &[String]) -> Final {
        match self {
            Self::Success => Final { state: JobState::Success, failure_reason: None, exit_code: None },
            Self::Abandoned => Final { state: JobState::Failed, failure_reason: None, exit_code: None },
            Self::Failed { reason, exit_code, .. } => {
                Final { state: JobState::Failed, failure_reason: Some(reason.for_server(knows).as_str()), exit_code: *exit_code }
            }
        }
    }

    /// For the manager.
    pub fn verdict(&self, reported: bool, trace_bytes: u64) -> Verdict {
        let (state, reason, exit_code, message) = match self {
            Self::Success => (JobState::Success, None, None, String::new()),
            Self::Abandoned => (JobState::Failed, Some(FailureReason::JobCanceled), None, "GitLab gave the job up".to_owned()),
            Self::Failed { reason, exit_code, message } => (JobState::Failed, Some(*reason), *exit_code, message.clone()),
        };
        Verdict {
            state: state.as_str().to_owned(),
            exit_code,
            failure_reason: reason.map(|reason| reason.as_str().to_owned()),
            message,
            reported,
            trace_bytes,
            resources: std::collections::BTreeMap::new(),
        }
    }

    /// Exit code for the build container.
    pub fn build_exit_code(&self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failed { exit_code, .. } => exit_code.unwrap_or(1),
            Self::Abandoned => 1,
        }
    }
}
