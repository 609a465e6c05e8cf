//! GitLab in miniature: takes a compiled pipeline and hands its jobs out over the runner API.
//!
//! So far only the words for statuses and the rule that gives a pipeline its status.

pub mod status;

pub use status::{JobStatus, PipelineStatus, pipeline_status};
