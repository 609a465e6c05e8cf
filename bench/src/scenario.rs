//! A scenario file: what the jobs of a measurement do.
//!
//! `command` is a line of a POSIX shell. Jobs have no repository (`GIT_STRATEGY: none`), as in the figures that are
//! compared with.

use anyhow::{Context, Result};
use gitlab_api::JobResponse;
use gitlab_api::payload::{Image, JobInfo, RunnerInfo, Step, Variable};
use serde::Deserialize;
use std::path::Path;

/// What a job does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Lines of the script; `{{seconds}}` and `{{lines}}` are filled in.
    pub script: Vec<String>,
    /// The text of the first line that the script itself prints. It must not stand in the script as it is, because
    /// runners show each command before they run it.
    pub first_line: String,
    /// How many masked variables the job has.
    #[serde(default)]
    pub masked_variables: usize,
}

const SHIPPED: [(&str, &str); 3] = [
    ("trivial", include_str!("../scenarios/trivial.toml")),
    ("lines", include_str!("../scenarios/lines.toml")),
    ("log", include_str!("../scenarios/log.toml")),
];

impl Scenario {
    /// A shipped scenario, or the file of that name in `directory`.
    pub fn load(name: &str, directory: Option<&Path>) -> Result<Self> {
        let own = directory.map(|directory| directory.join(format!("{name}.toml"))).filter(|path| path.exists());
        let text = match own {
            Some(path) => std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?,
            None => SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned()).unwrap_or_default(),
        };
        toml::from_str(&text).with_context(|| format!("failed to read scenario {name}"))
    }

    /// The same with a number in its script.
    pub fn with(mut self, key: &str, number: u64) -> Self {
        let key = format!("{{{{{key}}}}}");
        self.script.iter_mut().for_each(|line| *line = line.replace(&key, &number.to_string()));
        self
    }

    /// The same with masked variables.
    pub fn masking(self, masked_variables: usize) -> Self {
        Self { masked_variables, ..self }
    }

    /// The payload of job number `id`.
    pub fn payload(&self, id: u64, image: &str) -> JobResponse {
        let variable =
            |key: String, value: String, masked: bool| Variable { key, value, masked, public: !masked, ..Variable::default() };
        let mut variables = vec![
            variable("GIT_STRATEGY".to_owned(), "none".to_owned(), false),
            variable("CI_JOB_ID".to_owned(), id.to_string(), false),
            variable("CI_PROJECT_PATH".to_owned(), "bench/project".to_owned(), false),
        ];
        variables.extend(
            (0..self.masked_variables)
                .map(|index| variable(format!("SECRET_{index}"), format!("hidden-value-{index:04}-{:08x}", index * 7919), true)),
        );
        JobResponse {
            id,
            token: format!("bench-job-{id}"),
            job_info: JobInfo {
                name: "bench".to_owned(),
                stage: "test".to_owned(),
                pipeline_id: 1,
                project_id: 1,
                project_name: "project".to_owned(),
                project_full_path: "bench/project".to_owned(),
                root_namespace_id: 1,
            },
            git_info: gitlab_api::payload::GitInfo {
                repo_url: "http://gitlab.invalid/bench/project.git".to_owned(),
                reference: "main".to_owned(),
                sha: "0123456789abcdef0123456789abcdef01234567".to_owned(),
                ref_type: "branch".to_owned(),
                ..Default::default()
            },
            runner_info: RunnerInfo { timeout: 3600, uuid: String::new() },
            variables,
            steps: vec![Step {
                name: "script".to_owned(),
                script: self.script.clone(),
                timeout: 3600,
                when: "on_success".to_owned(),
                allow_failure: false,
            }],
            image: Image { name: image.to_owned(), ..Image::default() },
            ..JobResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SHIPPED, Scenario};

    #[test]
    fn shipped_scenarios_are_jobs_whose_first_line_stands_in_no_command() {
        for (name, _) in SHIPPED {
            let scenario = Scenario::load(name, None).unwrap().with("seconds", 5).with("lines", 9).masking(3);
            assert!(!scenario.script.iter().any(|line| line.contains(&scenario.first_line) || line.contains("{{")), "{name}");
            let job = scenario.payload(7, "busybox").into_job().unwrap();
            assert_eq!(job.variables.iter().filter(|one| one.masked).count(), 3);
        }
    }

    #[test]
    fn a_scenario_that_is_not_there_is_an_error() {
        assert!(Scenario::load("nothing", None).unwrap_err().to_string().contains("nothing"));
    }
}
