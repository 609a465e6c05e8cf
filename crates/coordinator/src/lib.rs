//! GitLab in miniature: takes a compiled pipeline and hands its jobs out over the runner API.
//!
//! ```text
//! create_pipeline → graph → jobs/request → trace, artifacts, clone → update → graph → …
//! ```
//!
//! State is one SQLite file with traces and archives beside it, so that a killed process goes on where it was. What
//! runs the jobs is any GitLab runner: nothing here knows pods.

mod archives;
mod dotenv;
mod engine;
mod error;
mod git_http;
mod keeper;
pub mod pipelines;
mod runner_api;
pub mod status;
mod store;
mod tokens;
mod traces;

pub use error::Error;
/// How traces read.
pub use gitlab_api::log;
pub use job::JobId;
pub use pipelines::{
    Commit, JobState, NewPipeline, PipelineContext, PipelineId, PipelineState, ProjectId, ProjectVariable, User,
};
pub use status::{JobStatus, PipelineStatus, pipeline_status};

use engine::Inner;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::rows;
use tokio::sync::broadcast;

/// Limits and times, with GitLab's values as defaults where it has any.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a request for a job is held when there is none.
    pub long_poll: Duration,
    /// A job that is not confirmed in this time goes back to the queue.
    pub confirm_within: Duration,
    /// A job whose runner says nothing for the job's timeout and this is given up.
    pub silence: Duration,
    /// How often runners send trace, in whole seconds (at least 1).
    pub trace_interval: Duration,
    /// Longest trace in bytes; a job that writes more fails.
    pub trace_limit: u64,
    /// How many bytes the archives of one job may have together.
    pub artifact_limit: u64,
    /// How long an upload or a clone may stand still.
    pub idle: Duration,
    /// Clones that are served at the same time.
    pub clones: usize,
    /// Archives that are received at the same time.
    pub uploads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            long_poll: Duration::from_secs(50),
            confirm_within: Duration::from_secs(60),
            silence: Duration::from_secs(300),
            trace_interval: Duration::from_secs(1),
            trace_limit: 2 * 1024 * 1024 * 1024,
            artifact_limit: 5 * 1024 * 1024 * 1024,
            idle: Duration::from_secs(120),
            clones: 32,
            uploads: 32,
        }
    }
}

/// Something changed. A reader that lags behind reads the state again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job has another status.
    JobStatus {
        /// Its pipeline.
        pipeline: PipelineId,
        /// The job.
        job: JobId,
        /// Its name.
        name: Arc<str>,
        /// Its status now.
        status: JobStatus,
    },
    /// A trace has grown.
    Trace {
        /// The job.
        job: JobId,
        /// Its length now, in bytes; less than before when the runner began again.
        offset: u64,
    },
    /// A pipeline has another status.
    Pipeline {
        /// The pipeline.
        id: PipelineId,
        /// Its status now.
        status: PipelineStatus,
    },
}

/// What is known of a trace, on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFacts {
    /// Bytes that we have.
    pub bytes: u64,
    /// CRC-32 of them.
    pub crc32: u32,
    /// Bytes that the runner said it sent, once the job is over.
    pub reported_bytes: Option<u64>,
    /// Checksum that the runner said, as `crc32:…`.
    pub reported_checksum: Option<String>,
}

/// An embedded GitLab. Clones share it; it ends with the last one.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

impl Coordinator {
    /// Opens or makes the state in `directory` and goes on with unfinished pipelines.
    ///
    /// # Errors
    /// When the directory cannot be used, is used by another process, or was written by a newer gantry.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_with(directory, Settings::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(directory: &Path, settings: Settings) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        // Traces and tokens are nobody else's business.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Error::file(directory))?;
        let inner = Arc::new(Inner::open(directory, settings)?);
        inner.resume()?;
        keeper::start(&inner)?;
        Ok(Self { inner })
    }

    /// The runner API below `/api/v4` and the repositories at `/<project path>.git`.
    pub fn router(&self) -> axum::Router {
        runner_api::router(self.inner.clone()).fallback_service(git_http::router(self.inner.clone()))
    }

    /// Our address as jobs reach it, without a slash at the end. Jobs get it when they are handed out.
    pub fn set_url(&self, url: &str) {
        self.inner.set_url(url);
    }

    /// Makes a runner and answers its token.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn register_runner(&self, description: &str) -> Result<String, Error> {
        let token = tokens::runner();
        self.inner.write(|writer| {
            let insert = "INSERT INTO runners (token, description) VALUES (?1, ?2)";
            writer.db().execute(insert, [&token, description]).map_err(Error::store("write a runner"))
        })?;
        Ok(token)
    }

    /// Makes a project at `path` (`group/name`), or gives the one that is there another repository.
    ///
    /// # Errors
    /// When the path cannot be part of an address, or the state cannot be written.
    pub fn create_project(&self, path: &str, repository: &Path) -> Result<ProjectId, Error> {
        let word = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && part.chars().all(|one| one.is_ascii_alphanumeric() || ".-_".contains(one))
        };
        if path.len() > 255 || !path.split('/').all(word) || path.starts_with("api/") {
            return Err(Error::ProjectPath(path.to_owned()));
        }
        let repository = std::path::absolute(repository).map_err(Error::file(repository))?;
        self.inner.write(|writer| {
            let upsert = "INSERT INTO projects (path, repository) VALUES (?1, ?2) \
                          ON CONFLICT (path) DO UPDATE SET repository = ?2 RETURNING id";
            let values = [path, &repository.display().to_string()];
            writer.db().query_row(upsert, values, |row| row.get(0)).map_err(Error::store("write a project"))
        })
    }

    /// Makes a pipeline and starts what can start.
    ///
    /// # Errors
    /// When a name or a need is not there, nothing is left to run, or the state cannot be written.
    pub fn create_pipeline(&self, new: NewPipeline) -> Result<PipelineId, Error> {
        pipelines::create(&self.inner, new)
    }

    /// Predefined variables that hold before a pipeline is compiled, then those about the user: for `rules` and
    /// `include`.
    ///
    /// # Errors
    /// When there is no such project.
    pub fn predefined(&self, context: &PipelineContext) -> Result<Vec<(String, String)>, Error> {
        let project = self.inner.read(|db| rows::project(db, context.project))?;
        let mut pairs = pipelines::variables::of_pipeline(context, (Some(project.id), &project.path), &self.inner.url());
        pairs.extend(pipelines::variables::of_user(context));
        Ok(pairs)
    }

    /// What changes from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// A pipeline as it is now.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn pipeline(&self, id: PipelineId) -> Result<PipelineState, Error> {
        self.inner.read(|db| pipelines::state(db, id))
    }

    /// Up to `most` bytes of a trace from `offset`; empty at its end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_trace(&self, job: JobId, offset: u64, most: usize) -> Result<Vec<u8>, Error> {
        self.inner.traces.read(job, offset, most)
    }

    /// Length and checksum of a trace on both sides.
    ///
    /// # Errors
    /// When there is no such job, or the file cannot be read.
    pub fn trace_facts(&self, job: JobId) -> Result<TraceFacts, Error> {
        let row = self.inner.read(|db| rows::job(db, job))?.ok_or(Error::NoJob(job))?;
        let (bytes, crc32) = self.inner.traces.facts(job)?;
        Ok(TraceFacts { bytes, crc32, reported_bytes: row.reported_bytes, reported_checksum: row.reported_checksum })
    }

    /// Cancels what is not over: waiting jobs at once, running ones by telling their runner.
    ///
    /// # Errors
    /// When there is no such pipeline, or the state cannot be written.
    pub fn cancel_pipeline(&self, id: PipelineId) -> Result<(), Error> {
        self.inner.write(|writer| writer.cancel(id))
    }

    /// Cancels one job, if it is not over, in the same way.
    ///
    /// # Errors
    /// When there is no such job, or the state cannot be written.
    pub fn cancel_job(&self, id: JobId) -> Result<(), Error> {
        self.inner.write(|writer| writer.cancel_job(id))
    }
}

/// The same as [`Coordinator::predefined`] before there is a coordinator: without our address and the project's number.
pub fn predefined(project_path: &str, context: &PipelineContext) -> Vec<(String, String)> {
    let mut pairs = pipelines::variables::of_pipeline(context, (None, project_path), "");
    pairs.extend(pipelines::variables::of_user(context));
    pairs
}
