//! A job of the file becomes a payload: all of it that is known before a runner asks.
//!
//! What depends on the moment (addresses, tokens, archives of other jobs) is filled in by [`super::payload`].

use ci_yaml::pipeline::{Image, PipelineJob, Service, YamlVariable};
use gitlab_api::payload;
use serde_json::json;

/// GitLab's time for a job that names none.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 3600;
/// GitLab's longest time for a job.
const MOST_TIMEOUT_SECONDS: u64 = 31 * 24 * 3600;
const DOTENV: &str = crate::dotenv::KIND;
/// GitLab's depth of a clone.
const DEFAULT_DEPTH: u32 = 20;

/// The payload of `job`; `variables` holds those of the file.
pub fn of(job: &PipelineJob) -> gitlab_api::JobResponse {
    let mut template = gitlab_api::JobResponse {
        variables: job.variables.iter().map(variable).collect(),
        steps: steps(job),
        services: job.services.iter().map(service).collect(),
        artifacts: artifacts(job),
        allow_git_fetch: true,
        ..gitlab_api::JobResponse::default()
    };
    template.image = job.image.as_ref().map(image).unwrap_or_default();
    template.job_info.name.clone_from(&job.name);
    template.job_info.stage.clone_from(&job.stage);
    template.runner_info.timeout = i64::try_from(timeout_seconds(job)).unwrap_or(i64::MAX);
    template
}

/// How long the job may take; GitLab allows a month.
pub fn timeout_seconds(job: &PipelineJob) -> u64 {
    job.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TIMEOUT_SECONDS).min(MOST_TIMEOUT_SECONDS)
}

/// `GIT_DEPTH` of the job, else GitLab's default; 0 is all.
pub fn depth(variables: &[payload::Variable]) -> u32 {
    let asked = variables.iter().rfind(|one| one.key == "GIT_DEPTH").and_then(|one| one.value.trim().parse().ok());
    asked.unwrap_or(DEFAULT_DEPTH)
}

fn steps(job: &PipelineJob) -> Vec<payload::Step> {
    let step = |name: &str, script: &[String], when: &str, allow_failure| payload::Step {
        name: name.to_owned(),
        script: script.to_vec(),
        timeout: timeout_seconds(job),
        when: when.to_owned(),
        allow_failure,
    };
    let after = (!job.after_script.is_empty()).then(|| step("after_script", &job.after_script, "always", true));
    [step("script", &job.script, "on_success", false)].into_iter().chain(after).collect()
}

fn artifacts(job: &PipelineJob) -> Vec<payload::Artifact> {
    let Some(artifacts) = &job.artifacts else { return Vec::new() };
    let archive = (artifacts.untracked || !artifacts.paths.is_empty()).then(|| payload::Artifact {
        name: artifacts.name.clone(),
        untracked: artifacts.untracked,
        paths: artifacts.paths.clone(),
        exclude: artifacts.exclude.clone(),
        when: if artifacts.when.is_empty() { "on_success".to_owned() } else { artifacts.when.clone() },
        artifact_type: "archive".to_owned(),
        artifact_format: "zip".to_owned(),
        expire_in: artifacts.expire_in.clone(),
    });
    // A report goes up however the job ends.
    let dotenv = (!artifacts.dotenv.is_empty()).then(|| payload::Artifact {
        name: DOTENV.to_owned(),
        paths: artifacts.dotenv.clone(),
        when: "always".to_owned(),
        artifact_type: DOTENV.to_owned(),
        artifact_format: "gzip".to_owned(),
        expire_in: artifacts.expire_in.clone(),
        ..payload::Artifact::default()
    });
    archive.into_iter().chain(dotenv).collect()
}

fn image(image: &Image) -> payload::Image {
    let mut made = payload::Image {
        name: image.name.clone(),
        entrypoint: image.entrypoint.clone(),
        pull_policy: image.pull_policy.clone(),
        ..payload::Image::default()
    };
    if let Some(user) = &image.user {
        made.executor_opts.insert("kubernetes".to_owned(), json!({ "user": user }));
    }
    made
}

fn service(one: &Service) -> payload::Image {
    payload::Image {
        alias: one.alias.clone(),
        command: one.command.clone(),
        variables: one.variables.iter().map(variable).collect(),
        ..image(&one.image)
    }
}

fn variable(one: &YamlVariable) -> payload::Variable {
    payload::Variable {
        key: one.key.clone(),
        value: one.value.clone(),
        public: true,
        raw: one.raw,
        ..payload::Variable::default()
    }
}
