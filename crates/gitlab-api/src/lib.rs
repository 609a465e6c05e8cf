//! The runner HTTP API of GitLab as types, one module per endpoint.
//!
//! Both sides use them: `gitlab-client` asks, the embedded coordinator answers, so the two cannot disagree. This is
//! the only crate that knows GitLab's JSON; [`JobResponse::into_job`] turns a payload into a
//! [`job::Job`]. No HTTP library is named here: headers are strings and bodies are serde types. Paths are relative
//! to `<url>/api/v4/`. Source: parity inventory of the runner API (GitLab Runner 19.4).

pub mod artifacts;
pub mod headers;
pub mod log;
pub mod moa;
pub mod payload;
pub mod request_job;
pub mod runner;
pub mod runners;
pub mod trace;
pub mod update_job;

pub use payload::JobResponse;
pub use request_job::JobRequest;
pub use runner::{Features, Info};
pub use update_job::{Output, UpdateJob};
