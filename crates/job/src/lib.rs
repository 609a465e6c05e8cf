//! A CI job as we think of it: what to run, on what, and how it can end.
//!
//! Every other crate speaks of jobs in these types. They are deliberately not serialisable: GitLab's JSON is known
//! to `gitlab-api` alone and the plan's wire format to `agent-contract` alone, so neither format can leak into the
//! rest of the program. Nothing here reads a clock, the environment, a disk or a network.

pub mod durations;
pub mod failure;
pub mod flags;
pub mod secret;
pub mod state;
pub mod variables;

mod definition;

pub use definition::{
    Artifact, ArtifactFormat, Credential, Dependency, Features, GitInfo, Hook, Image, Job, JobId, Policy, ProjectInfo,
    PullPolicy, RefType, Service, Step, Unsupported, When,
};
pub use failure::FailureReason;
pub use flags::Flags;
pub use secret::Secret;
pub use state::{JobState, RemoteState};
pub use variables::{Variable, Variables};
