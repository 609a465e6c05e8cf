//! The plan: everything the agent needs for one job, secrets included.
//!
//! On the wire it is zstd over JSON, cut into parts of at most [`PART_BYTES`] so that each fits into a Secret
//! (Kubernetes allows 1 MiB). The major version is checked before anything else is read: an agent refuses a plan of
//! a newer one with a clear message, and reads older ones.

use crate::plan_job::WireJob;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

/// Version of the plan's format.
pub const VERSION: u32 = 1;
/// Longest part of a stored plan, in bytes.
pub const PART_BYTES: usize = 900 * 1024;
/// Longest plan once unpacked; a plan is made of a job payload, which is far below.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Everything for one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The job.
    pub job: job::Job,
    /// Whom to talk to.
    pub coordinator: Coordinator,
    /// Where files go.
    pub workspace: Workspace,
    /// How to run it.
    pub settings: Settings,
}

/// Whom the agent talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinator {
    /// GitLab's address, without `/api/v4`.
    pub url: String,
    /// Replaces scheme and host of `git_info.repo_url`, when set (`clone_url`).
    #[serde(default)]
    pub clone_url: Option<String>,
    /// PEM certificates to trust besides the usual ones.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// Our own certificate, for a GitLab that wants one.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// A certificate of ours and its key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// PEM, with those that signed it.
    pub certificate_pem: String,
    /// PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Identity")
    }
}

/// Where files go, as all containers of the pod see them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Builds directory, usually `/builds`.
    pub builds_dir: String,
    /// Project directory below it: `CI_PROJECT_DIR`.
    pub project_dir: String,
}

/// How to run the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Version of the manager, for the log's first line.
    pub version: String,
    /// Name of the runner, for the log's second line.
    pub runner_name: String,
    /// Short token of the runner.
    pub runner_short_token: String,
    /// Which manager.
    pub system_id: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Image of the build container as the pod has it.
    pub image: String,
    /// Longest log in bytes (`output_limit` in KiB × 1024).
    pub output_limit: u64,
    /// Commands before the job's script.
    pub pre_build_script: String,
    /// Commands after the job's script.
    pub post_build_script: String,
    /// Shell of the job's scripts, as the configuration has it; empty means `bash`.
    pub shell: String,
    /// Commands in the helper before the source is fetched.
    pub pre_get_sources_script: String,
    /// Commands in the helper after it.
    pub post_get_sources_script: String,
    /// Whether git's configuration and hooks of an earlier job are removed; when not set, by the strategy.
    pub clean_git_config: Option<bool>,
    /// Whether a job may name its directory (`GIT_CLONE_PATH`); it may when not set.
    pub custom_build_dir: Option<bool>,
    /// What GitLab called the request that handed the job out; its git server logs it too.
    pub correlation_id: String,
    /// Feature flags that the configuration fixes.
    pub feature_flags: BTreeMap<String, bool>,
    /// Seconds that a cancelled script has between TERM and KILL.
    pub cancel_grace_seconds: u64,
    /// How long fetching the source may take, as the configuration has it; empty means as long as the job.
    pub get_sources_timeout: String,
    /// How many tries the final update has at least.
    pub final_update_tries: u32,
    /// Whether lines of the log get stamps (`FF_TIMESTAMPS`).
    pub timestamps: bool,
    /// Whether all of GitLab's kinds of tokens are masked (`FF_MASK_ALL_DEFAULT_TOKENS`).
    pub mask_all_tokens: bool,
    /// Masked values are masked only as they are, not in base64, URL-encoded or JSON-escaped.
    pub only_plain_values: bool,
    /// Nothing of the job is traced, whatever its variables say (`CI_DEBUG_TRACE`, `CI_DEBUG_SERVICES`).
    pub debug_trace_disabled: bool,
    /// What the log says of the pod: what the job changed of it.
    pub notes: Vec<String>,
    /// What the log says before the job begins.
    pub warnings: Vec<String>,
    /// What each container asks for, for the resource report; empty where none is wanted.
    pub resources: Vec<Resources>,
    /// Who writes to the log before the agent begins with [`Plan::header`].
    pub has_header: bool,
}

/// What a container asks for, as the configuration has it; empty means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Name of the container.
    pub container: String,
    /// CPU it is to have.
    pub cpu_request: String,
    /// CPU it may not exceed.
    pub cpu_limit: String,
    /// Memory it is to have.
    pub memory_request: String,
    /// Memory it may not exceed.
    pub memory_limit: String,
}

/// Why a plan cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The manager is newer than this agent.
    #[error("the plan has version {0}, this agent reads up to {VERSION}: manager and helper image must be of one release")]
    NewerVersion(u32),
    /// Not the JSON we expect.
    #[error("malformed plan")]
    Json(#[from] serde_json::Error),
    /// Not the compression we expect, or longer than [`MAX_BYTES`].
    #[error("plan cannot be unpacked")]
    Unpack(#[source] std::io::Error),
    /// A word we do not know.
    #[error("plan has unknown {0} \"{1}\"")]
    UnknownWord(&'static str, String),
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct WirePlan {
    version: u32,
    job: WireJob,
    coordinator: Coordinator,
    workspace: Workspace,
    settings: Settings,
}

impl Plan {
    /// Writes the plan as parts of at most [`PART_BYTES`] each, at least one.
    ///
    /// # Errors
    /// Only when compression fails.
    pub fn to_parts(&self) -> Result<Vec<Vec<u8>>, PlanError> {
        let wire = WirePlan {
            version: VERSION,
            job: WireJob::from(&self.job),
            coordinator: self.coordinator.clone(),
            workspace: self.workspace.clone(),
            settings: self.settings.clone(),
        };
        let packed = zstd::encode_all(serde_json::to_vec(&wire)?.as_slice(), 3).map_err(PlanError::Unpack)?;
        Ok(packed.chunks(PART_BYTES).map(<[u8]>::to_vec).collect())
    }

    /// Reads a plan from its parts, in order.
    ///
    /// # Errors
    /// When a part is missing or damaged, or the plan is of a newer version.
    pub fn from_parts<P: AsRef<[u8]>>(parts: &[P]) -> Result<Self, PlanError> {
        let packed: Vec<u8> = parts.iter().flat_map(|part| part.as_ref().iter().copied()).collect();
        let mut text = Vec::new();
        let decoder = zstd::Decoder::new(packed.as_slice()).map_err(PlanError::Unpack)?;
        decoder.take(MAX_BYTES).read_to_end(&mut text).map_err(PlanError::Unpack)?;
        let VersionOnly { version } = serde_json::from_slice(&text)?;
        if version > VERSION {
            return Err(PlanError::NewerVersion(version));
        }
        let wire: WirePlan = serde_json::from_slice(&text)?;
        Ok(Self { job: wire.job.into_job()?, coordinator: wire.coordinator, workspace: wire.workspace, settings: wire.settings })
    }

    /// Whether the log is to show what the job's services print (`CI_DEBUG_SERVICES`).
    pub fn shows_services(&self) -> bool {
        let allowed = !self.job.services.is_empty() && !self.settings.debug_trace_disabled;
        allowed && self.job.variables.is_on("CI_DEBUG_SERVICES")
    }

    /// The first lines of the job's log, whoever writes first: manager and agent write the same.
    pub fn header(&self) -> String {
        let Settings { version, runner_name, runner_short_token, system_id, .. } = &self.settings;
        let end = "\x1b[0;m\n";
        let mut text = format!("\x1b[0KRunning with gantry {version}{end}");
        text.push_str(&format!("\x1b[0K  on {runner_name} {runner_short_token}, system ID: {system_id}{end}"));
        let unusual = job::Flags::resolve(&self.settings.feature_flags, &self.job.variables).unusual();
        if !unusual.is_empty() {
            text.push_str(&format!("\x1b[0K  feature flags: {unusual}{end}"));
        }
        text
    }

    /// Time the job has, from the moment the agent starts.
    pub fn timeout(&self) -> Duration {
        self.job.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, PlanError};
    use crate::plan_job::tests::sample_job;

    fn sample() -> Plan {
        Plan { job: sample_job(), coordinator: Default::default(), workspace: Default::default(), settings: Default::default() }
    }

    #[test]
    fn a_plan_survives_the_wire_with_every_field() {
        let plan = sample();
        assert_eq!(Plan::from_parts(&plan.to_parts().unwrap()).unwrap(), plan);
    }

    #[test]
    fn a_large_plan_is_cut_into_parts_that_fit_a_secret() {
        let mut plan = sample();
        let mut seed = 1u64;
        let noise: String = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + u8::try_from(seed >> 33 & 63).unwrap())
        })
        .take(3_000_000)
        .collect();
        plan.job.variables.push(job::Variable::public("BIG", noise));
        let parts = plan.to_parts().unwrap();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= super::PART_BYTES));
        assert_eq!(Plan::from_parts(&parts).unwrap(), plan);
        assert!(Plan::from_parts(&parts[..1]).is_err());
    }

    #[test]
    fn a_newer_plan_is_refused_before_its_content_is_read() {
        let packed = zstd::encode_all(&br#"{"version": 2, "job": 5}"#[..], 1).unwrap();
        assert!(matches!(Plan::from_parts(&[packed]), Err(PlanError::NewerVersion(2))));
    }
}
