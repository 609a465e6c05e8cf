//! The program inside the pod: it drives one job from start to verdict.
//!
//! `run` lives in the helper container: it reads the plan, clones, has the scripts run, sends the trace and reports.
//! `serve` lives in the build container and starts the scripts it is told to start. They meet over a unix socket on
//! a shared volume ([`agent_contract::serve`]), so no `exec` stream through the API server can drop.

pub mod artifacts;
pub mod build;
pub mod git;
pub mod process;
pub mod provenance;
pub mod reports;
pub mod resources;
pub mod run;
pub mod script;
pub mod serve;
pub mod spool;
pub mod trace;
