//! Every name a gantry pod reserves.
//!
//! | what | name |
//! | --- | --- |
//! | containers | `build`, `helper`, `svc-0`, `svc-1`, … (GitLab Runner's names: dashboards and policies rely on them) |
//! | volumes | `gantry` (agent and socket), `gantry-plan` (plan Secret), `repo` (builds), `gantry-agent` (helper image), `gantry-tmp` |
//! | directories | `/gantry` in helper and build; `/gantry-plan` in the helper alone; `/gantry-agent` in build, where volumes can be images |
//! | keys of the plan Secret | `plan.count`, `plan.0`, …; `service.0.0`, … hold values of services' variables |
//! | labels | `gantry.dev/…` and GitLab Runner's `job.runner.gitlab.com/…` |

/// Container that runs `gantry-agent run`.
pub const HELPER_CONTAINER: &str = "helper";
/// Container that runs the job's scripts.
pub const BUILD_CONTAINER: &str = "build";

/// Name of the container of service number `index` (from 0).
pub fn service_container(index: usize) -> String {
    format!("svc-{index}")
}

/// Key, in the first plan Secret, of the value of variable number `variable` of service number `service` (both from 0).
pub fn service_variable(service: usize, variable: usize) -> String {
    format!("service.{service}.{variable}")
}

/// Volume shared by helper and build: the agent binary and the serve socket.
pub const SHARED_VOLUME: &str = "gantry";
/// Where [`SHARED_VOLUME`] is mounted.
pub const SHARED_DIR: &str = "/gantry";
/// The agent as the helper copies it for the build container.
pub const SHARED_AGENT: &str = "/gantry/gantry-agent";
/// Socket of `gantry-agent serve`.
pub const SERVE_SOCKET: &str = "/gantry/serve.sock";
/// The agent in the helper image.
pub const HELPER_AGENT: &str = "/usr/bin/gantry-agent";
/// Volume of the helper image, in the build container, where the cluster offers that.
pub const AGENT_VOLUME: &str = "gantry-agent";
/// Where [`AGENT_VOLUME`] is mounted.
pub const AGENT_DIR: &str = "/gantry-agent";
/// The agent in [`AGENT_VOLUME`].
pub const MOUNTED_AGENT: &str = "/gantry-agent/usr/bin/gantry-agent";
/// A shell in the same image (busybox), for build images that have none.
pub const MOUNTED_SHELL: &str = "/gantry-agent/usr/bin/busybox";
/// Volume for temporary files of a helper whose root cannot be written to.
pub const TEMPORARY_VOLUME: &str = "gantry-tmp";
/// Where [`TEMPORARY_VOLUME`] is mounted.
pub const TEMPORARY_DIR: &str = "/tmp";
/// Volume of the plan Secret, in the helper alone.
pub const PLAN_VOLUME: &str = "gantry-plan";
/// Where [`PLAN_VOLUME`] is mounted.
pub const PLAN_DIR: &str = "/gantry-plan";
/// Volume of the builds directory.
pub const BUILDS_VOLUME: &str = "repo";
/// Where it is mounted unless the configuration says otherwise.
pub const BUILDS_DIR: &str = "/builds";
/// Where the termination message goes (Kubernetes' default).
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Name of plan Secret number `index` (from 0) of a pod: `<pod name>-plan`, then `-plan-1`, `-plan-2`, …
pub fn plan_secret(pod: &str, index: usize) -> String {
    if index == 0 { format!("{pod}-plan") } else { format!("{pod}-plan-{index}") }
}
/// Key of a plan part inside a Secret, number `index` (from 0); all parts of a plan are projected into [`PLAN_DIR`].
pub fn plan_key(index: usize) -> String {
    format!("plan.{index}")
}
/// Key that says how many parts there are.
pub const PLAN_COUNT_KEY: &str = "plan.count";

/// Marks everything gantry makes; the value is [`MANAGED_BY_VALUE`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "gantry";
/// Label: which manager looks after the object.
pub const LABEL_OWNER: &str = "gantry.dev/owner";
/// Label: GitLab's number of the job.
pub const LABEL_JOB: &str = "gantry.dev/job-id";
/// Label: short token of the runner entry.
pub const LABEL_RUNNER: &str = "gantry.dev/runner";
/// Label: project number.
pub const LABEL_PROJECT: &str = "gantry.dev/project-id";
/// Annotation of the plan Secret: how far the job has come (`stored`, `launched`, `again-ATTEMPT-PULLS`,
/// `launched-ATTEMPT-PULLS`, `telling-OFFSET-INSTANCE`).
pub const ANNOTATION_STEP: &str = "gantry.dev/step";
