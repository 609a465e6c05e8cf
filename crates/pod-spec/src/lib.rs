//! A job and the runner's settings become a pod: a pure list of named steps.
//!
//! The same job always gives the same pod under the same name, so that a repeated create cannot make a second one.
//! Only public variables stand in the pod; masked and file variables, and everything else that is secret, travel in
//! the plan Secret, which the helper container alone can read.

mod containers;
mod features;
mod labels;
mod names;
mod namespace;
mod policies;
mod resources;
mod security;
mod services;
mod volumes;

pub use features::{Features, OLDEST};
pub use labels::label_value;
pub use names::{attempt_of, pod_name};
pub use namespace::namespace;
pub use policies::pull_attempts;
pub use security::warnings;

use job::{Job, Variables};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use runner_config::Runner;

/// Slack beyond the job's own timeout before Kubernetes ends the pod: uploads and reporting take time.
const DEADLINE_SLACK_SECONDS: u64 = 600;

/// What the pod depends on besides job and runner.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Which manager looks after the pod.
    pub owner: &'a str,
    /// Helper image when the configuration names none.
    pub helper_image: &'a str,
    /// How many Secrets the plan is spread over.
    pub plan_parts: usize,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts before this could not pull an image.
    pub pull_failures: u32,
    /// What the cluster offers.
    pub features: Features,
}

/// Why a job cannot become a pod; each is a configuration error of job or runner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Neither job nor runner names an image.
    #[error("no image specified and no default set in config")]
    NoImage,
    /// A quantity that Kubernetes would refuse.
    #[error("{key} = \"{value}\" is not a quantity")]
    Quantity {
        /// Key of the configuration.
        key: String,
        /// What stands there.
        value: String,
    },
    /// An alias that cannot be a host name.
    #[error("service alias \"{0}\" is not a host name")]
    Alias(String),
    /// A user that is no number.
    #[error("user \"{0}\" must be uid or uid:gid in numbers")]
    User(String),
    /// A namespace that the configuration does not allow.
    #[error("namespace \"{asked}\" is not allowed: it does not match namespace_overwrite_allowed = \"{allowed}\"")]
    Overwrite {
        /// By the job.
        asked: String,
        /// Pattern.
        allowed: String,
    },
    /// A namespace that cannot be one.
    #[error("\"{0}\" is not the name of a namespace")]
    Namespace(String),
    /// A pull policy that the configuration does not allow.
    #[error(
        "invalid pull policy for container \"{container}\": [{asked}] of the {by} configuration is not among the allowed [{allowed}]"
    )]
    PullPolicy {
        /// Whose image.
        container: String,
        /// Policies.
        asked: String,
        /// Whose words they are.
        by: &'static str,
        /// Policies.
        allowed: String,
    },
}

/// What every step sees.
struct Context<'a> {
    job: &'a Job,
    runner: &'a Runner,
    surroundings: &'a Surroundings<'a>,
    variables: Variables,
}

/// The pod of a job.
///
/// # Errors
/// When job and configuration together make no pod.
pub fn build(job: &Job, runner: &Runner, surroundings: &Surroundings<'_>) -> Result<Pod, BuildError> {
    let context = Context { job, runner, surroundings, variables: job.variables.expanded() };
    let kubernetes = &runner.kubernetes;
    let mut containers = vec![containers::helper(&context)?, containers::build(&context)?];
    containers.extend(services::containers(&context)?);
    let deadline = job.timeout.as_secs().saturating_add(DEADLINE_SLACK_SECONDS);
    let grace = kubernetes.pod_termination_grace_period_seconds;
    Ok(Pod {
        metadata: labels::metadata(&context),
        spec: Some(PodSpec {
            containers,
            volumes: Some(volumes::all(&context)),
            host_aliases: services::host_aliases(&context)?,
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(!kubernetes.service_account.is_empty()),
            service_account_name: non_empty(&kubernetes.service_account),
            // Kubernetes takes no more.
            active_deadline_seconds: Some(i32::try_from(deadline).unwrap_or(i32::MAX).into()),
            termination_grace_period_seconds: (grace > 0).then(|| i64::try_from(grace).unwrap_or(i64::MAX)),
            node_selector: (!kubernetes.node_selector.is_empty()).then(|| kubernetes.node_selector.clone()),
            image_pull_secrets: containers::pull_secrets(&context),
            security_context: security::of_pod(&context),
            ..PodSpec::default()
        }),
        status: None,
    })
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
