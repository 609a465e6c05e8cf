//! The states of a job: what we tell GitLab, and what GitLab tells us.

/// What the runner reports of a job (`state` of `PUT /jobs/:id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// The job was taken and goes on.
    Running,
    /// All that counts ended well.
    Success,
    /// Something failed; a [`crate::FailureReason`] goes with it.
    Failed,
}

impl JobState {
    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// Reads GitLab's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Success, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

/// What GitLab says of a job in the `Job-Status` header of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoteState {
    /// Go on. Unknown words mean this too, so that a newer server does not stop jobs.
    Running,
    /// Stop the script, run `after_script`, report.
    Canceling,
    /// Stop everything at once; nothing more is wanted.
    Canceled,
    /// GitLab has given the job up (dropped, timed out there): stop everything at once.
    Failed,
}

impl RemoteState {
    /// Reads the header's value.
    pub fn parse(text: &str) -> Self {
        match text {
            "canceling" => Self::Canceling,
            "canceled" => Self::Canceled,
            "failed" => Self::Failed,
            _ => Self::Running,
        }
    }

    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
        }
    }

    /// Whether everything has to stop at once.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::Failed)
    }
}
