//! All that the manager and the agent agree on: plan, verdict, serve protocol, reserved names.
//!
//! The manager writes a [`Plan`] into a Secret; `gantry-agent run` in the helper container reads it, talks to GitLab
//! itself and leaves a [`Verdict`] in its termination message. Inside the pod it speaks the [`serve`] protocol with
//! `gantry-agent serve` in the build container. Everything the pod reserves (paths, environment, labels, container
//! names) is listed in [`names`] and nowhere else. Knows neither Kubernetes nor configuration.

pub mod names;
pub mod plan;
pub mod serve;
pub mod verdict;

mod plan_job;

pub use plan::{Coordinator, Identity, Plan, PlanError, Settings, Workspace};
pub use verdict::{Usage, Verdict};
