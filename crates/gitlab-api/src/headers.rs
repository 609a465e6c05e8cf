//! Header names of the runner API.

/// Runner token of a request for a job.
pub const RUNNER_TOKEN: &str = "RUNNER-TOKEN";
/// Job token of everything that belongs to a job.
pub const JOB_TOKEN: &str = "JOB-TOKEN";
/// State of the job on the server; see [`job::RemoteState`].
pub const JOB_STATUS: &str = "Job-Status";
/// Seconds until the next trace update is wanted.
pub const TRACE_UPDATE_INTERVAL: &str = "X-GitLab-Trace-Update-Interval";
/// Version of the job queue, echoed as `last_update`.
pub const LAST_UPDATE: &str = "X-GitLab-Last-Update";
/// Number of a call, for logs.
pub const REQUEST_ID: &str = "X-Request-Id";
/// Bytes that a trace patch covers, `start-end`, both inclusive and without a unit.
pub const CONTENT_RANGE: &str = "Content-Range";
/// Bytes of the trace the server has, `0-end`.
pub const RANGE: &str = "Range";
