//! The chaos suite: jobs that print numbered lines, and trouble at random instants that none of them may notice.
//!
//! The programs are the shipped ones, in processes of their own, so that SIGKILL is SIGKILL. GitLab is the embedded
//! coordinator, in a process of its own too (`host`), because it is killed like the others. What a run did and what it
//! found is one [`report::Report`]; `docs/reliability.md` is made of those.

pub mod arguments;
mod book;
mod cluster;
mod dice;
mod faults;
mod figures;
mod gitlab;
pub mod host;
mod journal;
mod line;
mod odd;
mod phase;
mod processes;
mod proxy;
pub mod report;
mod run;
mod script;
mod trouble;

pub use run::run;
