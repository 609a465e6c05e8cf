//! Every reason a job can fail for, and what an older GitLab is told instead.
//!
//! The words and the fallbacks are GitLab Runner's (parity row `failure_reason …` of the runner API): a server lists
//! the reasons it knows in the job payload, and a reason it does not know is mapped down to one that it does.

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureReason {
    /// A script of the job ended with another code than 0.
    ScriptFailure,
    /// The runner or the infrastructure below it had trouble.
    RunnerSystemFailure,
    /// The job or its script ran out of time.
    JobExecutionTimeout,
    /// An image could not be pulled, for no reason that we know better.
    ImagePullFailure,
    /// The job or the runner is configured wrongly.
    RunnerConfigurationError,
    /// A registry or secret store outside failed.
    RunnerExternalDependencyFailure,
    /// The runner was told to stop while the job ran.
    RunnerInterrupted,
    /// Somebody cancelled the job.
    JobCanceled,
    /// None of the above.
    UnknownFailure,
}

impl FailureReason {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::ScriptFailure,
        Self::RunnerSystemFailure,
        Self::JobExecutionTimeout,
        Self::ImagePullFailure,
        Self::RunnerConfigurationError,
        Self::RunnerExternalDependencyFailure,
        Self::RunnerInterrupted,
        Self::JobCanceled,
        Self::UnknownFailure,
    ];

    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScriptFailure => "script_failure",
            Self::RunnerSystemFailure => "runner_system_failure",
            Self::JobExecutionTimeout => "job_execution_timeout",
            Self::ImagePullFailure => "image_pull_failure",
            Self::RunnerConfigurationError => "runner_configuration_error",
            Self::RunnerExternalDependencyFailure => "runner_external_dependency_failure",
            Self::RunnerInterrupted => "runner_interrupted",
            Self::JobCanceled => "job_canceled",
            Self::UnknownFailure => "unknown_failure",
        }
    }

    /// Reads GitLab's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// The reason to send to a server that lists `known` reasons.
    ///
    /// Script failure, system failure and timeout are known to every server.
    pub fn for_server(self, known: &[String]) -> Self {
        let listed = known.iter().any(|word| word == self.as_str());
        match self {
            Self::ScriptFailure | Self::RunnerSystemFailure | Self::JobExecutionTimeout => self,
            _ if listed => self,
            Self::ImagePullFailure | Self::RunnerExternalDependencyFailure => Self::RunnerSystemFailure,
            Self::RunnerConfigurationError => Self::ScriptFailure,
            Self::RunnerInterrupted | Self::JobCanceled | Self::UnknownFailure => Self::UnknownFailure,
        }
    }

    /// Whether the job's log calls this a system failure (`Job failed (system failure): …`).
    pub fn is_system(self) -> bool {
        matches!(self, Self::RunnerSystemFailure)
    }
}

#[cfg(test)]
mod tests {
    use super::FailureReason;

    #[test]
    fn every_word_reads_back() {
        for reason in FailureReason::ALL {
            assert_eq!(FailureReason::parse(reason.as_str()), Some(reason));
        }
    }

    #[test]
    fn every_reason_has_its_word_for_servers_that_do_not_know_it() {
        let expected = [
            ("script_failure", "script_failure"),
            ("runner_system_failure", "runner_system_failure"),
            ("job_execution_timeout", "job_execution_timeout"),
            ("image_pull_failure", "runner_system_failure"),
            ("runner_configuration_error", "script_failure"),
            ("runner_external_dependency_failure", "runner_system_failure"),
            ("runner_interrupted", "unknown_failure"),
            ("job_canceled", "unknown_failure"),
            ("unknown_failure", "unknown_failure"),
        ];
        let found = FailureReason::ALL.map(|reason| (reason.as_str(), reason.for_server(&[]).as_str()));
        assert_eq!(found, expected);
        let all: Vec<_> = FailureReason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
        assert!(FailureReason::ALL.iter().all(|reason| reason.for_server(&all) == *reason));
    }

    #[test]
    fn a_reason_the_server_does_not_list_is_mapped_down() {
        let known = vec!["image_pull_failure".to_owned()];
        assert_eq!(FailureReason::ImagePullFailure.for_server(&known), FailureReason::ImagePullFailure);
        assert_eq!(FailureReason::ImagePullFailure.for_server(&[]), FailureReason::RunnerSystemFailure);
        assert_eq!(FailureReason::RunnerConfigurationError.for_server(&[]), FailureReason::ScriptFailure);
        assert_eq!(FailureReason::JobCanceled.for_server(&[]), FailureReason::UnknownFailure);
    }
}
