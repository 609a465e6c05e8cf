//! A job and the runner's settings become a pod: a pure list of named steps.
//!
//! The same job always gives the same pod under the same name, so that a repeated create cannot make a second one.
//! Only public variables stand in the pod; masked and file variables, and everything else that is secret, travel in
//! the plan Secret, which the helper container alone can read; a service gets from it what its own variables take of them.

mod allowed;
mod containers;
mod features;
mod labels;
mod logins;
mod names;
mod namespace;
mod overwrites;
mod patches;
mod policies;
mod resources;
mod security;
mod services;
mod volumes;

pub use features::{Features, OLDEST};
pub use labels::label_value;
pub use logins::{SECRET_KEY, SECRET_TYPE, of_job as registry_logins};
pub use names::{attempt_of, pod_name};
pub use namespace::namespace;
pub use overwrites::resources_asked;
pub use policies::{pull_attempts, pull_notes};
pub use services::hidden_variables;

use job::{Flags, Job, Variables};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use overwrites::Overwrites;
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
    #[error("check defaults error: no image specified and no default set in config")]
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
    /// Something of the pod that the configuration does not let a job change in this way.
    #[error("couldn't prepare overwrites: provided value \"{asked}\" does not match \"{allowed}\"")]
    Overwrite {
        /// By the job.
        asked: String,
        /// Pattern.
        allowed: String,
    },
    /// More than the configuration lets a job ask for.
    #[error(
        "couldn't prepare overwrites: the resource \"{resource}\" requested \"{asked}\" is higher than limit allowed \"{most}\""
    )]
    TooMuch {
        /// GitLab Runner's name of it.
        resource: String,
        /// By the job.
        asked: String,
        /// What it may have.
        most: String,
    },
    /// A `[[runners.kubernetes.pod_spec]]` that cannot be applied.
    #[error("pod_spec patch \"{name}\": {why}")]
    Patch {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An image that the configuration does not list.
    #[error("disallowed image")]
    Disallowed {
        /// The image.
        image: String,
        /// `images` or `services`.
        kind: &'static str,
        /// What may be had.
        patterns: Vec<String>,
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
    flags: Flags,
    overwrites: Overwrites,
}

/// The pod of a job.
///
/// # Errors
/// When job and configuration together make no pod.
pub fn build(job: &Job, runner: &Runner, surroundings: &Surroundings<'_>) -> Result<Pod, BuildError> {
    let variables = job.variables.expanded();
    let flags = Flags::resolve(&runner.feature_flags, &job.variables);
    let overwrites = Overwrites::of(job, runner, &variables)?;
    let context = Context { job, runner, surroundings, variables, flags, overwrites };
    allowed::check(&context)?;
    let kubernetes = &runner.kubernetes;
    let mut containers = vec![containers::helper(&context)?, containers::build(&context)?];
    containers.extend(services::containers(&context)?);
    let (overwrites, has_deadline) = (&context.overwrites, context.flags.is_on("FF_USE_POD_ACTIVE_DEADLINE_SECONDS"));
    let deadline = job.timeout.as_secs().saturating_add(DEADLINE_SLACK_SECONDS);
    let grace = kubernetes.pod_termination_grace_period_seconds;
    let spec = PodSpec {
        containers,
        volumes: Some(volumes::all(&context)),
        host_aliases: services::host_aliases(&context)?,
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(!overwrites.service_account.is_empty()),
        service_account_name: non_empty(&overwrites.service_account),
        // Kubernetes takes no more.
        active_deadline_seconds: has_deadline.then(|| i32::try_from(deadline).unwrap_or(i32::MAX).into()),
        termination_grace_period_seconds: (grace > 0).then(|| i64::try_from(grace).unwrap_or(i64::MAX)),
        node_selector: (!overwrites.node_selector.is_empty()).then(|| overwrites.node_selector.clone()),
        tolerations: (!overwrites.tolerations.is_empty()).then(|| overwrites.tolerations.clone()),
        resources: overwrites.pod.clone().filter(|_| surroundings.features.pod_resources()),
        image_pull_secrets: logins::pull_secrets(&context),
        security_context: security::of_pod(&context),
        ..PodSpec::default()
    };
    let is_patched = context.flags.is_on("FF_USE_ADVANCED_POD_SPEC_CONFIGURATION");
    let spec = if is_patched { patches::apply(spec, &kubernetes.pod_spec)? } else { spec };
    Ok(Pod { metadata: labels::metadata(&context), spec: Some(spec), status: None })
}

/// What the job's log should say of its pod: what was overwritten, and what a cluster cannot do.
pub fn notes(job: &Job, runner: &Runner, features: Features) -> Vec<String> {
    // A job that makes no pod is told so elsewhere.
    let Ok(overwrites) = Overwrites::of(job, runner, &job.variables.expanded()) else { return Vec::new() };
    let mut lines = overwrites.lines;
    if overwrites.pod.is_some() && !features.pod_resources() {
        lines.push("Requests and limits of the whole pod have no effect: the cluster has a Kubernetes before 1.34".to_owned());
    }
    lines
}

/// What the job's log should say of what the job asks for and does not get.
pub fn warnings(job: &Job, runner: &Runner) -> Vec<String> {
    let mut warnings = security::warnings(job, runner);
    warnings.extend(logins::warning(job));
    if runner.kubernetes.namespace.is_empty() {
        warnings.push("Namespace is empty, therefore assuming 'default'.".to_owned());
    }
    warnings
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
