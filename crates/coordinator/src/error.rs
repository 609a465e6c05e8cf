//! What can go wrong in the coordinator, by what the caller does about it.

/// An error of the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("failed to {doing}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database was made by a newer gantry.
    #[error("the state in {directory} was written by a newer gantry (version {found}, this one knows {known})")]
    Newer {
        /// Where.
        directory: String,
        /// Version of the file.
        found: i64,
        /// Newest version we know.
        known: i64,
    },
    /// A file of ours.
    #[error("failed to use {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something stored cannot be read back.
    #[error("the stored {what} cannot be read")]
    Damaged {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such project.
    #[error("there is no project {0}")]
    NoProject(u64),
    /// There is no such pipeline.
    #[error("there is no pipeline {0}")]
    NoPipeline(u64),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoJob(u64),
    /// A project's path cannot be served.
    #[error("the project path {0:?} must be words of letters, digits, dots, dashes and underscores with slashes between")]
    ProjectPath(String),
    /// A job that was asked for by name is not in the file.
    #[error("there is no job {name:?} in the pipeline{}", near.as_ref().map(|near| format!(", did you mean {near:?}?")).unwrap_or_default())]
    UnknownJob {
        /// The name.
        name: String,
        /// A job whose name differs in case only.
        near: Option<String>,
    },
    /// A job that was asked for by name was left out by its rules.
    #[error("the job {0:?} is left out of this pipeline by its rules")]
    ExcludedJob(String),
    /// A need that is not there.
    #[error("the job {job:?} needs {need:?}, which is not in the pipeline")]
    MissingNeed {
        /// Who needs.
        job: String,
        /// What.
        need: String,
    },
    /// Jobs that wait for each other.
    #[error("the job {0:?} needs itself, by way of others or at once")]
    Cycle(String),
    /// Another process has the state open.
    #[error("the state in {0} is in use by another process")]
    InUse(String),
    /// Nothing to run.
    #[error("the pipeline has no jobs")]
    Empty,
}

impl Error {
    /// For `map_err` of database calls.
    pub(crate) fn store(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Store { doing, source }
    }

    /// For `map_err` of file calls.
    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File { path: path.display().to_string(), source }
    }
}
