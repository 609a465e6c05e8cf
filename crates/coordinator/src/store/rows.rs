//! Rows as they are stored, and the queries that more than one part needs.

use crate::pipelines::schedule::Schedule;
use crate::status::JobStatus;
use crate::{Error, PipelineContext};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A job without its payload.
#[derive(Clone, Debug)]
pub struct JobRow {
    pub id: u64,
    pub pipeline: u64,
    pub name: String,
    pub stage: String,
    pub stage_index: usize,
    pub token: String,
    pub status: JobStatus,
    pub allow_failure: bool,
    pub schedule: Schedule,
    pub timeout_seconds: u64,
    pub graceful: bool,
    pub failure_reason: Option<String>,
    pub exit_code: Option<i32>,
    pub queued_at: Option<i64>,
    pub handed_at: Option<i64>,
    pub started_at: Option<i64>,
    pub touched_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub reported_checksum: Option<String>,
    pub reported_bytes: Option<u64>,
}

const COLUMNS: &str = "id, pipeline, name, stage, stage_index, token, status, allow_failure, schedule, timeout_seconds, graceful, \
     failure_reason, exit_code, queued_at, handed_at, started_at, touched_at, finished_at, reported_checksum, reported_bytes";

impl JobRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let status: String = row.get(6)?;
        let schedule: String = row.get(8)?;
        let damaged = |index, error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error);
        Ok(Self {
            id: row.get(0)?,
            pipeline: row.get(1)?,
            name: row.get(2)?,
            stage: row.get(3)?,
            stage_index: row.get(4)?,
            token: row.get(5)?,
            status: JobStatus::parse(&status).ok_or_else(|| damaged(6, format!("unknown status {status:?}").into()))?,
            allow_failure: row.get(7)?,
            schedule: serde_json::from_str(&schedule).map_err(|error| damaged(8, error.into()))?,
            timeout_seconds: row.get(9)?,
            graceful: row.get(10)?,
            failure_reason: row.get(11)?,
            exit_code: row.get(12)?,
            queued_at: row.get(13)?,
            handed_at: row.get(14)?,
            started_at: row.get(15)?,
            touched_at: row.get(16)?,
            finished_at: row.get(17)?,
            reported_checksum: row.get(18)?,
            reported_bytes: row.get(19)?,
        })
    }

    /// Whether a runner has it, confirmed or not.
    pub fn is_held(&self) -> bool {
        match self.status {
            JobStatus::Running | JobStatus::Canceling => true,
            JobStatus::Pending => self.handed_at.is_some(),
            _ => false,
        }
    }
}

/// A project.
#[derive(Clone, Debug)]
pub struct ProjectRow {
    pub id: u64,
    pub path: String,
    pub repository: String,
}

/// A stored archive.
#[derive(Clone, Debug)]
pub struct ArtifactRow {
    pub filename: String,
    pub size: u64,
    /// Name of the file below `artifacts/<job>/`.
    pub stored: String,
}

/// The job `id`.
pub fn job(db: &Connection, id: u64) -> Result<Option<JobRow>, Error> {
    let mut found = jobs(db, "id = ?1", id)?;
    Ok(found.pop())
}

/// The job with this token.
pub fn job_by_token(db: &Connection, token: &str) -> Result<Option<JobRow>, Error> {
    let mut found = jobs(db, "token = ?1", token)?;
    Ok(found.pop())
}

/// All jobs of a pipeline in the order of their numbers.
pub fn jobs_of_pipeline(db: &Connection, pipeline: u64) -> Result<Vec<JobRow>, Error> {
    jobs(db, "pipeline = ?1", pipeline)
}

/// The job that has waited longest for a runner.
pub fn next_pending(db: &Connection) -> Result<Option<JobRow>, Error> {
    let mut found = jobs(db, "id = (SELECT min(id) FROM jobs WHERE status = 'pending' AND handed_at IS NULL) AND ?1", true)?;
    Ok(found.pop())
}

/// Jobs handed out before `limit` (ms) and not confirmed.
pub fn unconfirmed(db: &Connection, limit: i64) -> Result<Vec<JobRow>, Error> {
    jobs(db, "status = 'pending' AND handed_at < ?1", limit)
}

/// Jobs on a runner that have said nothing for their own timeout before `limit` (ms); one that is being cancelled has
/// no claim to its timeout any more.
pub fn silent(db: &Connection, limit: i64) -> Result<Vec<JobRow>, Error> {
    jobs(
        db,
        "status IN ('running', 'canceling') AND touched_at + (CASE status WHEN 'running' THEN timeout_seconds ELSE 0 END) * 1000 < ?1",
        limit,
    )
}

fn jobs(db: &Connection, condition: &str, value: impl rusqlite::ToSql) -> Result<Vec<JobRow>, Error> {
    let query = || {
        let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE {condition} ORDER BY id"))?;
        let rows = statement.query_map([value], JobRow::read)?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    query().map_err(Error::store("read jobs"))
}

/// The payload of a job as it was when the pipeline was made.
pub fn payload(db: &Connection, job: u64) -> Result<gitlab_api::JobResponse, Error> {
    let text: String = db
        .query_row("SELECT payload FROM jobs WHERE id = ?1", [job], |row| row.get(0))
        .map_err(Error::store("read the payload of a job"))?;
    serde_json::from_str(&text).map_err(|source| Error::Damaged { what: "payload of a job", source })
}

/// What a pipeline is about, its number in the project, and when it was made (ms).
pub fn pipeline(db: &Connection, id: u64) -> Result<(PipelineContext, u64, i64), Error> {
    let mut statement = db
        .prepare_cached("SELECT context, iid, created_at FROM pipelines WHERE id = ?1")
        .map_err(Error::store("read a pipeline"))?;
    let found: Option<(String, u64, i64)> = statement
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
        .map_err(Error::store("read a pipeline"))?;
    let (context, iid, created_at) = found.ok_or(Error::NoPipeline(id))?;
    let context = serde_json::from_str(&context).map_err(|source| Error::Damaged { what: "context of a pipeline", source })?;
    Ok((context, iid, created_at))
}

/// The project `id`.
pub fn project(db: &Connection, id: u64) -> Result<ProjectRow, Error> {
    project_where(db, "id = ?1", id)?.ok_or(Error::NoProject(id))
}

/// The project with this path.
pub fn project_by_path(db: &Connection, path: &str) -> Result<Option<ProjectRow>, Error> {
    project_where(db, "path = ?1", path)
}

fn project_where(db: &Connection, condition: &str, value: impl rusqlite::ToSql) -> Result<Option<ProjectRow>, Error> {
    let read = |row: &Row<'_>| Ok(ProjectRow { id: row.get(0)?, path: row.get(1)?, repository: row.get(2)? });
    db.query_row(&format!("SELECT id, path, repository FROM projects WHERE {condition}"), [value], read)
        .optional()
        .map_err(Error::store("read a project"))
}

/// The archive of this type that a job has left.
pub fn artifact(db: &Connection, job: u64, kind: &str) -> Result<Option<ArtifactRow>, Error> {
    let read = |row: &Row<'_>| Ok(ArtifactRow { filename: row.get(0)?, size: row.get(1)?, stored: row.get(2)? });
    db.prepare_cached("SELECT filename, size, stored FROM artifacts WHERE job = ?1 AND type = ?2")
        .and_then(|mut statement| statement.query_row(params![job, kind], read).optional())
        .map_err(Error::store("read artifacts"))
}

/// Bytes of all archives of a job but those of this type.
pub fn artifact_bytes(db: &Connection, job: u64, but: &str) -> Result<u64, Error> {
    let query = "SELECT coalesce(sum(size), 0) FROM artifacts WHERE job = ?1 AND type <> ?2";
    db.query_row(query, params![job, but], |row| row.get(0)).map_err(Error::store("read artifacts"))
}
