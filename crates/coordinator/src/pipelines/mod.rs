//! Pipelines: what one is made of, how it is made, and what it looks like from outside.

pub mod graph;
pub mod payload;
pub mod schedule;
pub mod select;
pub mod template;
pub mod variables;

use crate::engine::{Inner, now};
use crate::status::{JobStatus, PipelineStatus};
use crate::store::rows::{self, JobRow};
use crate::{Error, tokens};
use ci_yaml::pipeline::{AllowFailure, Pipeline, When};
use rusqlite::{OptionalExtension, params};
use schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Number of a project.
pub type ProjectId = u64;
/// Number of a pipeline.
pub type PipelineId = u64;

/// What a pipeline is about: the commit, the ref, who, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineContext {
    /// The project.
    pub project: ProjectId,
    /// Commit to check out.
    pub sha: String,
    /// Commit before it; empty means zeros.
    pub before_sha: String,
    /// Branch or tag, without `refs/…`.
    pub ref_name: String,
    /// Whether it is a tag.
    pub ref_is_tag: bool,
    /// Whether the served repository has that ref (found out by [`crate::Coordinator::create_pipeline`]).
    pub ref_exists: bool,
    /// Annotation of the tag.
    pub tag_message: String,
    /// The commit in words.
    pub commit: Commit,
    /// Default branch of the project.
    pub default_branch: String,
    /// `push`, `web`, `schedule`, …
    pub source: String,
    /// Path of the file in the repository; empty means `.gitlab-ci.yml`.
    pub config_path: String,
    /// Who started it; empty fields are not told to jobs.
    pub user: User,
    /// Variables of the project: they win over those of the file.
    pub project_variables: Vec<ProjectVariable>,
    /// Variables given by the user (`--var`): they win over all others.
    pub variables: Vec<(String, String)>,
}

/// A CI/CD variable of the project's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectVariable {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
    /// Kept out of logs.
    pub masked: bool,
    /// The job gets the path of a file with the value.
    pub file: bool,
    /// Nothing in it is expanded.
    pub raw: bool,
}

/// The commit in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    /// Whole message.
    pub message: String,
    /// `Name <email>`.
    pub author: String,
    /// Committer's time, ISO 8601.
    pub timestamp: String,
}

/// Who started a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Number, as text.
    pub id: String,
    /// Name.
    pub name: String,
    /// Address.
    pub email: String,
    /// Login.
    pub login: String,
}

impl PipelineContext {
    /// The commit before, zeros when there is none.
    pub fn before_sha(&self) -> String {
        if self.before_sha.is_empty() { "0".repeat(self.sha.len().max(40)) } else { self.before_sha.clone() }
    }
}

/// A pipeline to be made.
#[derive(Clone, Debug, Default)]
pub struct NewPipeline {
    /// What it is about.
    pub context: PipelineContext,
    /// Its compiled file.
    pub pipeline: Pipeline,
    /// Names of jobs; with what they wait for. Empty means all.
    pub only: Vec<String>,
}

/// A pipeline from outside.
#[derive(Clone, Debug)]
pub struct PipelineState {
    /// Its number.
    pub id: PipelineId,
    /// Its number in the project, from 1.
    pub iid: u64,
    /// Its status.
    pub status: PipelineStatus,
    /// Its jobs, stage by stage, in the order of the file within one.
    pub jobs: Vec<JobState>,
}

/// A job from outside.
#[derive(Clone, Debug)]
pub struct JobState {
    /// Its number.
    pub id: job::JobId,
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// Its status.
    pub status: JobStatus,
    /// Whether its failure does not count (known for sure once it has failed, because of exit codes).
    pub allow_failure: bool,
    /// Whether `when: manual` holds for it (it was not named).
    pub manual: bool,
    /// GitLab's word, when it failed.
    pub failure_reason: Option<String>,
    /// Of the script, when the runner told one.
    pub exit_code: Option<i32>,
    /// When it began to wait for a runner.
    pub queued_at: Option<jiff::Timestamp>,
    /// When a runner confirmed it.
    pub started_at: Option<jiff::Timestamp>,
    /// When it ended.
    pub finished_at: Option<jiff::Timestamp>,
}

impl JobState {
    /// How long it ran, up to now when it still runs; `None` when it never did.
    pub fn seconds(&self) -> Option<f64> {
        let end = self.finished_at.unwrap_or_else(jiff::Timestamp::now);
        self.started_at.map(|start| end.duration_since(start).as_secs_f64().max(0.0))
    }

    fn of(row: JobRow) -> Self {
        let time = |milliseconds: Option<i64>| milliseconds.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        Self {
            id: row.id,
            manual: row.schedule.when == "manual",
            name: row.name,
            stage: row.stage,
            status: row.status,
            allow_failure: row.allow_failure,
            failure_reason: row.failure_reason,
            exit_code: row.exit_code,
            queued_at: time(row.queued_at),
            started_at: time(row.started_at),
            finished_at: time(row.finished_at),
        }
    }
}

/// Makes a pipeline and starts what can start.
pub(crate) fn create(inner: &Inner, mut new: NewPipeline) -> Result<PipelineId, Error> {
    let chosen = select::select(&new.pipeline, &new.only)?;
    if chosen.is_empty() {
        return Err(Error::Empty);
    }
    let repository = inner.read(|db| rows::project(db, new.context.project))?.repository;
    new.context.ref_exists = crate::git_http::has_ref(&repository, &new.context);
    inner.write(|writer| {
        let id = insert(writer.db(), &new, &chosen)?;
        writer.begin(id)?;
        Ok(id)
    })
}

fn insert(db: &rusqlite::Connection, new: &NewPipeline, chosen: &[usize]) -> Result<PipelineId, Error> {
    let damaged = |what| move |source| Error::Damaged { what, source };
    let context = serde_json::to_string(&new.context).map_err(damaged("context of a pipeline"))?;
    let doing = "write a pipeline";
    db.execute(
        "INSERT INTO pipelines (project, iid, status, context, created_at) \
         VALUES (?1, 1 + (SELECT coalesce(max(iid), 0) FROM pipelines WHERE project = ?1), 'created', ?2, ?3)",
        params![new.context.project, context, now()],
    )
    .map_err(Error::store(doing))?;
    let id = db.last_insert_rowid() as u64;
    let names: HashSet<&str> = chosen.iter().map(|index| new.pipeline.jobs[*index].name.as_str()).collect();
    let mut in_order: Vec<(usize, usize)> = chosen.iter().map(|index| (stage_index(&new.pipeline, *index), *index)).collect();
    in_order.sort_unstable();
    let mut statement = db
        .prepare_cached(
            "INSERT INTO jobs (pipeline, name, stage, stage_index, token, status, allow_failure, schedule, payload, timeout_seconds) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'created', ?6, ?7, ?8, ?9)",
        )
        .map_err(Error::store(doing))?;
    for (stage, index) in in_order {
        let job = &new.pipeline.jobs[index];
        let played = new.only.contains(&job.name) && job.when == When::Manual;
        let schedule = Schedule::of(job, played, |need| names.contains(need));
        let schedule = serde_json::to_string(&schedule).map_err(damaged("schedule of a job"))?;
        let payload = serde_json::to_string(&template::of(job)).map_err(damaged("payload of a job"))?;
        let allowed = job.allow_failure == AllowFailure::Yes;
        let row =
            params![id, job.name, job.stage, stage, tokens::job(), allowed, schedule, payload, template::timeout_seconds(job)];
        statement.execute(row).map_err(Error::store(doing))?;
    }
    Ok(id)
}

fn stage_index(pipeline: &Pipeline, index: usize) -> usize {
    let stage = &pipeline.jobs[index].stage;
    pipeline.stages.iter().position(|other| other == stage).unwrap_or(pipeline.stages.len())
}

/// A pipeline as it is.
pub(crate) fn state(db: &rusqlite::Connection, id: PipelineId) -> Result<PipelineState, Error> {
    let found: Option<(u64, String)> = db
        .query_row("SELECT iid, status FROM pipelines WHERE id = ?1", [id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(Error::store("read a pipeline"))?;
    let (iid, status) = found.ok_or(Error::NoPipeline(id))?;
    let status = PipelineStatus::parse(&status).unwrap_or(PipelineStatus::Created);
    let jobs = rows::jobs_of_pipeline(db, id)?.into_iter().map(JobState::of).collect();
    Ok(PipelineState { id, iid, status, jobs })
}
