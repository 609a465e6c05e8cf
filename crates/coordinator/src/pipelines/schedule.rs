//! What decides when a job runs and whose archives it gets, in the form in which it is stored.

use ci_yaml::pipeline::{AllowFailure, PipelineJob, When};
use serde::{Deserialize, Serialize};

/// The part of a job that is the server's, not the runner's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// `when`, in GitLab's word.
    pub when: String,
    /// Started by name although its `when` is `manual`.
    pub played: bool,
    /// `needs`.
    pub needs: Option<Vec<ScheduledNeed>>,
    /// `dependencies`.
    pub dependencies: Option<Vec<String>>,
    /// `allow_failure:exit_codes`.
    pub exit_codes: Vec<i32>,
}

/// One entry of `needs` that is in the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledNeed {
    /// The job.
    pub job: String,
    /// Whether its archives are taken.
    pub artifacts: bool,
}

impl Schedule {
    /// Of a job; needs for which `is_there` is false are left out. `played` starts a manual job.
    pub fn of(job: &PipelineJob, played: bool, is_there: impl Fn(&str) -> bool) -> Self {
        let when = match job.when {
            When::Manual if played => "on_success",
            When::OnSuccess | When::Delayed => "on_success",
            When::OnFailure => "on_failure",
            When::Always => "always",
            When::Manual => "manual",
        };
        let needs = job.needs.as_ref().map(|needs| {
            let there = needs.iter().filter(|need| is_there(&need.job));
            there.map(|need| ScheduledNeed { job: need.job.clone(), artifacts: need.artifacts }).collect()
        });
        let exit_codes = match &job.allow_failure {
            AllowFailure::ExitCodes(codes) => codes.clone(),
            AllowFailure::No | AllowFailure::Yes => Vec::new(),
        };
        Self {
            when: when.to_owned(),
            played: played && job.when == When::Manual,
            needs,
            dependencies: job.dependencies.clone(),
            exit_codes,
        }
    }
}
