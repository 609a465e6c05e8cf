//! The statuses of jobs and pipelines, in GitLab's words, and how the second follows from the first.
//!
//! Pure, so that the rules can be tested without a database or a clock.

/// Status of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// Waits for earlier jobs.
    Created,
    /// Waits for a runner.
    Pending,
    /// A runner confirmed it.
    Running,
    /// Ended well.
    Success,
    /// Ended badly.
    Failed,
    /// Was cancelled while it ran; the runner has not reported yet.
    Canceling,
    /// Cancelled.
    Canceled,
    /// Its condition did not hold.
    Skipped,
    /// Waits for a person.
    Manual,
}

impl JobStatus {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Pending,
        Self::Running,
        Self::Success,
        Self::Failed,
        Self::Canceling,
        Self::Canceled,
        Self::Skipped,
        Self::Manual,
    ];

    /// GitLab's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::Skipped => "skipped",
            Self::Manual => "manual",
        }
    }

    /// Reads GitLab's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the job will not change any more by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Canceled | Self::Skipped)
    }
}

/// Status of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PipelineStatus {
    /// Nothing has begun.
    Created,
    /// Something waits or runs.
    Running,
    /// All that counts ended well.
    Success,
    /// Something that counts failed.
    Failed,
    /// Cancelled.
    Canceled,
    /// Blocked by a manual job that may not be left out.
    Manual,
    /// Every job was skipped.
    Skipped,
}

impl PipelineStatus {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Running, Self::Success, Self::Failed, Self::Canceled, Self::Manual, Self::Skipped];

    /// GitLab's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Manual => "manual",
            Self::Skipped => "skipped",
        }
    }

    /// Reads GitLab's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing will change any more by itself; a blocked pipeline is over too, until somebody starts the job.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Created | Self::Running)
    }
}

/// The status of a pipeline whose jobs have these statuses; the flag is `allow_failure`.
///
/// A blocked pipeline is one in which nothing moves any more and a manual job without `allow_failure` is left.
pub fn pipeline_status(jobs: &[(JobStatus, bool)]) -> PipelineStatus {
    use JobStatus::{Canceled, Canceling, Created, Failed, Manual, Pending, Running, Skipped, Success};
    let any = |wanted: &[JobStatus]| jobs.iter().any(|(status, _)| wanted.contains(status));
    let counts = |wanted: JobStatus| jobs.iter().any(|(status, allowed)| *status == wanted && !allowed);
    if any(&[Pending, Running, Canceling]) {
        PipelineStatus::Running
    } else if counts(Manual) {
        PipelineStatus::Manual
    } else if any(&[Created]) {
        if any(&[Success, Failed]) { PipelineStatus::Running } else { PipelineStatus::Created }
    } else if counts(Canceled) {
        PipelineStatus::Canceled
    } else if counts(Failed) {
        PipelineStatus::Failed
    } else if jobs.iter().all(|(status, _)| matches!(status, Skipped | Manual)) {
        PipelineStatus::Skipped
    } else {
        PipelineStatus::Success
    }
}

#[cfg(test)]
mod tests {
    use super::{JobStatus as J, PipelineStatus as P, pipeline_status};

    #[test]
    fn every_word_reads_back() {
        for status in J::ALL {
            assert_eq!(J::parse(status.as_str()), Some(status));
        }
        for status in P::ALL {
            assert_eq!(P::parse(status.as_str()), Some(status));
        }
    }

    #[test]
    fn a_pipeline_has_the_status_that_its_jobs_give_it() {
        for (jobs, expected) in [
            (vec![(J::Success, false), (J::Pending, false)], P::Running),
            (vec![(J::Success, false), (J::Failed, true)], P::Success),
            (vec![(J::Failed, false), (J::Skipped, false)], P::Failed),
            (vec![(J::Success, false), (J::Manual, false), (J::Created, false)], P::Manual),
            (vec![(J::Success, false), (J::Manual, true)], P::Success),
            (vec![(J::Canceled, false), (J::Failed, false)], P::Canceled),
            (vec![(J::Skipped, false)], P::Skipped),
            (vec![(J::Created, false)], P::Created),
        ] {
            assert_eq!(pipeline_status(&jobs), expected, "{jobs:?}");
        }
    }
}
