//! The payload that a runner gets: the template of the job with everything filled in that the moment decides.

use super::{PipelineContext, template, variables};
use crate::Error;
use crate::store::rows::{self, JobRow, ProjectRow};
use gitlab_api::{Info, JobResponse, payload};
use job::FailureReason;
use rusqlite::Connection;

/// Prefixes of tokens that a runner masks besides those it knows.
const TOKEN_PREFIXES: [&str; 1] = ["glpat-"];

/// Who asked for the job.
#[derive(Clone, Debug)]
pub struct Runner {
    pub id: u64,
    pub description: String,
}

/// Everything that a payload is made of.
pub struct Facts<'a> {
    pub job: &'a JobRow,
    pub context: &'a PipelineContext,
    pub iid: u64,
    pub created_at: i64,
    pub now: i64,
    pub project: &'a ProjectRow,
    pub runner: &'a Runner,
    pub info: &'a Info,
    pub image: &'a str,
    pub url: &'a str,
}

impl Facts<'_> {
    /// Where to clone from, with the login in it.
    pub fn repository_url(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", self.url));
        format!("{scheme}://gitlab-ci-token:{}@{rest}/{}.git", self.job.token, self.project.path)
    }
}

/// The payload of `job` for `runner`.
///
/// # Errors
/// When something stored cannot be read.
pub fn make(db: &Connection, job: &JobRow, runner: (&Runner, &Info), place: (&str, i64)) -> Result<JobResponse, Error> {
    let (context, iid, created_at) = rows::pipeline(db, job.pipeline)?;
    let project = rows::project(db, context.project)?;
    let mut made = rows::payload(db, job.id)?;
    let (url, now) = place;
    let image = made.image.name.clone();
    let facts = Facts {
        job,
        context: &context,
        iid,
        created_at,
        now,
        project: &project,
        runner: runner.0,
        info: runner.1,
        image: &image,
        url,
    };
    let from_reports = reports(db, job)?;
    made.variables = variables::of_job(&facts, std::mem::take(&mut made.variables), from_reports);
    made.id = job.id;
    made.token.clone_from(&job.token);
    made.job_info.pipeline_id = job.pipeline;
    made.job_info.project_id = project.id;
    made.job_info.project_name = project.path.rsplit('/').next().unwrap_or_default().to_owned();
    made.job_info.project_full_path.clone_from(&project.path);
    made.git_info = git_info(&facts, template::depth(&made.variables));
    made.dependencies = dependencies(db, job)?;
    made.features = features();
    Ok(made)
}

fn git_info(facts: &Facts<'_>, depth: u32) -> payload::GitInfo {
    let context = facts.context;
    // The commit itself, not a ref: the repository is never written, and a snapshot of a working tree is on no branch.
    let mut refspecs = vec![format!("+{}:refs/pipelines/{}", context.sha, facts.job.pipeline)];
    if depth == 0 {
        refspecs.push("+refs/heads/*:refs/remotes/origin/*".to_owned());
        refspecs.push("+refs/tags/*:refs/tags/*".to_owned());
    } else if context.ref_exists && context.ref_is_tag {
        refspecs.push(format!("+refs/tags/{0}:refs/tags/{0}", context.ref_name));
    } else if context.ref_exists {
        refspecs.push(format!("+refs/heads/{0}:refs/remotes/origin/{0}", context.ref_name));
    }
    payload::GitInfo {
        repo_url: facts.repository_url(),
        repo_object_format: if context.sha.len() == 64 { "sha256" } else { "sha1" }.to_owned(),
        reference: context.ref_name.clone(),
        sha: context.sha.clone(),
        before_sha: context.before_sha(),
        ref_type: if context.ref_is_tag { "tag" } else { "branch" }.to_owned(),
        refspecs,
        depth,
        protected: Some(false),
    }
}

fn features() -> payload::Features {
    let known = FailureReason::ALL.into_iter().filter(|reason| *reason != FailureReason::JobCanceled);
    payload::Features {
        trace_sections: true,
        token_mask_prefixes: TOKEN_PREFIXES.map(str::to_owned).to_vec(),
        failure_reasons: known.map(|reason| reason.as_str().to_owned()).collect(),
    }
}

/// Variables that earlier jobs left, of those whose archives the job gets.
fn reports(db: &Connection, job: &JobRow) -> Result<Vec<payload::Variable>, Error> {
    const SELECT: &str = "SELECT jobs.name, jobs.stage_index, dotenv.key, dotenv.value FROM dotenv \
         JOIN jobs ON jobs.id = dotenv.job WHERE jobs.pipeline = ?1 ORDER BY jobs.id, dotenv.position";
    let query = || {
        let mut statement = db.prepare_cached(SELECT)?;
        let read = |row: &rusqlite::Row<'_>| {
            let (name, stage): (String, u64) = (row.get(0)?, row.get(1)?);
            let variable = payload::Variable { key: row.get(2)?, value: row.get(3)?, ..payload::Variable::default() };
            Ok((name, stage, variable))
        };
        statement.query_map([job.pipeline], read)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    let found = query().map_err(Error::store("read the reports of earlier jobs"))?;
    Ok(found.into_iter().filter(|(name, stage, _)| gets(job, name, *stage)).map(|(_, _, variable)| variable).collect())
}

/// Whether a job gets what another left: of its needs, else of all earlier stages; fewer when `dependencies` says so.
fn gets(job: &JobRow, name: &str, stage: u64) -> bool {
    let by_order = match &job.schedule.needs {
        Some(needs) => needs.iter().any(|need| need.artifacts && need.job == name),
        None => stage < job.stage_index as u64,
    };
    by_order && job.schedule.dependencies.as_ref().is_none_or(|wanted| wanted.iter().any(|one| one == name))
}

/// Archives that the job gets.
fn dependencies(db: &Connection, job: &JobRow) -> Result<Vec<payload::Dependency>, Error> {
    const SELECT: &str = "SELECT jobs.stage_index, jobs.id, jobs.token, jobs.name, artifacts.filename, artifacts.size \
         FROM artifacts JOIN jobs ON jobs.id = artifacts.job \
         WHERE artifacts.type = 'archive' AND jobs.pipeline = ?1 ORDER BY jobs.id";
    let query = || {
        let mut statement = db.prepare_cached(SELECT)?;
        let read = |row: &rusqlite::Row<'_>| {
            let archive = payload::Dependency {
                id: row.get(1)?,
                token: row.get(2)?,
                name: row.get(3)?,
                artifacts_file: payload::ArtifactsFile { filename: row.get(4)?, size: row.get(5)? },
            };
            Ok((row.get(0)?, archive))
        };
        statement.query_map([job.pipeline], read)?.collect::<rusqlite::Result<Vec<(u64, _)>>>()
    };
    let found = query().map_err(Error::store("read the archives of earlier jobs"))?;
    Ok(found.into_iter().filter(|(stage, archive)| gets(job, &archive.name, *stage)).map(|(_, archive)| archive).collect())
}
