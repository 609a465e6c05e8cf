//! How a run is told: the summary table for people, one JSON object for programs.

use crate::arguments::{EXIT_BLOCKED, EXIT_FAILED, EXIT_INTERRUPTED};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::time::Duration;

/// How a pipeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All that counts ended well.
    Success,
    /// A job that counts failed.
    Failed,
    /// A manual job blocks the rest.
    Blocked,
    /// The user stopped it.
    Interrupted,
}

impl Ending {
    /// The command's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => EXIT_FAILED,
            Self::Blocked => EXIT_BLOCKED,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }
}

/// One row of the report.
#[derive(Clone, Debug, Serialize)]
pub struct JobRow {
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// GitLab's word for how it ended.
    pub status: String,
    /// Why it failed, in GitLab's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// Exit code of its script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether its failure counts.
    pub allow_failure: bool,
    /// Seconds from start to end, when it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub status: Ending,
    /// Commit that was run.
    pub sha: String,
    /// Seconds altogether.
    pub seconds: f64,
    /// All jobs, in the order of the stages.
    pub jobs: Vec<JobRow>,
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        for job in &self.jobs {
            let time =
                job.seconds.map_or_else(|| "-".to_owned(), |seconds| duration_text(Duration::from_secs_f64(seconds.max(0.0))));
            table.add_row([job.stage.clone(), job.name.clone(), outcome(job), time]);
        }
        format!(
            "{table}\n{} jobs in {}: {}",
            self.jobs.len(),
            duration_text(Duration::from_secs_f64(self.seconds)),
            self.sentence()
        )
    }

    fn sentence(&self) -> String {
        let count = |status: &str| self.jobs.iter().filter(|job| job.status == status).count();
        match self.status {
            Ending::Success => "passed".to_owned(),
            Ending::Failed => format!("failed ({} failed, {} skipped)", count("failed"), count("skipped")),
            Ending::Blocked => "blocked by a manual job".to_owned(),
            Ending::Interrupted => "interrupted".to_owned(),
        }
    }
}

fn outcome(job: &JobRow) -> String {
    let detail = match (&job.failure_reason, job.exit_code) {
        (Some(reason), Some(code)) if reason == "script_failure" => format!(" (exit code {code})"),
        (Some(reason), _) => format!(" ({reason})"),
        (None, _) => String::new(),
    };
    let allowed = if job.status == "failed" && job.allow_failure { ", allowed" } else { "" };
    format!("{}{detail}{allowed}", job.status)
}

/// A duration as people write it: `0.4 s`, `12.0 s`, `3 min 4 s`, `2 h 3 min`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, JobRow, Report, duration_text};
    use std::time::Duration;

    #[test]
    fn the_table_names_every_job_and_why_it_failed() {
        let row = |name: &str, status: &str, reason: Option<&str>, exit_code| JobRow {
            name: name.into(),
            stage: "test".into(),
            status: status.into(),
            failure_reason: reason.map(str::to_owned),
            exit_code,
            allow_failure: false,
            seconds: Some(1.25),
        };
        let jobs = vec![
            row("unit", "failed", Some("script_failure"), Some(3)),
            row("big", "failed", Some("job_execution_timeout"), None),
        ];
        let report = Report { status: Ending::Failed, sha: "abc".into(), seconds: 61.0, jobs };
        let table = report.table();
        assert!(table.contains("failed (exit code 3)") && table.contains("failed (job_execution_timeout)"), "{table}");
        assert!(table.ends_with("2 jobs in 1 min 1 s: failed (2 failed, 0 skipped)"), "{table}");
        assert_eq!(report.status.exit_code(), 1);
    }

    #[test]
    fn durations_read_naturally() {
        for (seconds, text) in [(0.44, "0.4 s"), (59.94, "59.9 s"), (184.0, "3 min 4 s"), (7380.0, "2 h 3 min")] {
            assert_eq!(duration_text(Duration::from_secs_f64(seconds)), text);
        }
    }
}
