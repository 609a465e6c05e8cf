//! GitLab Runner's `config.toml`: what the user wrote, and what is said about it.
//!
//! The file stays GitLab Runner's, key for key, so that it can be given back to GitLab Runner at any time; options of
//! our own live in `[gantry]` and `[runners.kubernetes.gantry]`, which GitLab Runner ignores. A key that gantry does not read is never
//! passed over in silence: it is either known to GitLab Runner and not supported here yet, or a mistake, and then the
//! nearest known key is named. Pure: the caller reads the file.

pub mod edit;

mod amounts;
mod keys;
mod security;

pub use amounts::AMOUNTS;
pub use security::{Capabilities, ContainerSecurityContext, PodSecurityContext, Profile};

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Most jobs at once, over all runners; 1 when not set, as in GitLab Runner.
    pub concurrent: u32,
    /// Seconds between two questions for a job that were answered at once; 0 means 3.
    pub check_interval: u64,
    /// `debug`, `info`, `warn`, `error`.
    pub log_level: String,
    /// `text`, `json` or `runner`.
    pub log_format: String,
    /// One entry per runner.
    pub runners: Vec<Runner>,
    /// What GitLab Runner does not know.
    pub gantry: Global,
}

/// `[gantry]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Global {
    /// `concurrent` and `limit` are for all replicas together, not for each.
    pub shared_limits: bool,
}

/// One `[[runners]]` entry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Runner {
    /// Shown in job logs.
    pub name: String,
    /// GitLab's address.
    pub url: String,
    /// Runner token; never logged.
    pub token: String,
    /// GitLab's number of the runner.
    pub id: u64,
    /// When the token was handed out, as RFC 3339 writes times; not known when empty.
    #[serde(deserialize_with = "time")]
    pub token_obtained_at: String,
    /// When it ends; never when empty or GitLab Runner's zero, the year 1.
    #[serde(deserialize_with = "time")]
    pub token_expires_at: String,
    /// Must be `kubernetes`.
    pub executor: String,
    /// Most jobs at once of this entry; 0 means no limit.
    pub limit: u32,
    /// Most requests for a job at once; 0 means 1.
    pub request_concurrency: u32,
    /// File with certificates (PEM) to trust at GitLab besides the public ones.
    #[serde(rename = "tls-ca-file")]
    pub tls_ca_file: String,
    /// File with our own certificate (PEM), for a GitLab that wants one.
    #[serde(rename = "tls-cert-file")]
    pub tls_cert_file: String,
    /// File with its key.
    #[serde(rename = "tls-key-file")]
    pub tls_key_file: String,
    /// KiB of a job's log; 0 means 4096.
    pub output_limit: u64,
    /// Least number of tries to tell GitLab how a job ended; 0 means 10.
    pub job_status_final_update_retry_limit: u32,
    /// After this many refusals in a row the runner is left alone; 0 means 3.
    pub unhealthy_requests_limit: u32,
    /// For how long, as Go writes durations; an hour when empty.
    #[serde(deserialize_with = "duration")]
    pub unhealthy_interval: String,
    /// How long fetching the source may take, as Go writes durations; as long as the job when empty.
    #[serde(deserialize_with = "duration")]
    pub get_sources_timeout: String,
    /// Replaces the address in clone URLs.
    pub clone_url: String,
    /// Where projects lie; `/builds` when empty.
    pub builds_dir: String,
    /// `KEY=VALUE` variables for every job.
    pub environment: Vec<String>,
    /// Whether `CI_DEBUG_TRACE` and `CI_DEBUG_SERVICES` count for nothing.
    pub debug_trace_disabled: bool,
    /// Shell of the job's scripts: `bash` (which falls back to `sh`) when empty, or `sh`.
    pub shell: String,
    /// Commands in the helper before the source is fetched.
    pub pre_get_sources_script: String,
    /// Commands in the helper after it.
    pub post_get_sources_script: String,
    /// Whether git's configuration and hooks of an earlier job are removed.
    pub clean_git_config: Option<bool>,
    /// Whether a job may name its directory.
    pub custom_build_dir: CustomBuildDir,
    /// Feature flags, which a job cannot change.
    pub feature_flags: BTreeMap<String, bool>,
    /// Commands before the job's script.
    pub pre_build_script: String,
    /// Commands after it.
    pub post_build_script: String,
    /// Pods.
    pub kubernetes: Kubernetes,
}

/// Go reads a duration from a text or from a number of nanoseconds.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Nanoseconds(i64),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Text(text) => text,
        Either::Nanoseconds(number) => format!("{number}ns"),
    })
}

/// A time of day on some day; UTC where it names no offset.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let mut time = toml::value::Datetime::deserialize(deserializer)?;
    if time.date.is_none() || time.time.is_none() {
        return Err(serde::de::Error::custom("a date with a time of day is expected"));
    }
    time.offset.get_or_insert(toml::value::Offset::Z);
    Ok(time.to_string())
}

/// `[runners.custom_build_dir]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CustomBuildDir {
    /// Whether `GIT_CLONE_PATH` counts; it does when not set.
    pub enabled: Option<bool>,
}

/// `[runners.kubernetes]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// Address of the API server; when empty, the cluster this program runs in, else that of the kubeconfig.
    pub host: String,
    /// Context of the kubeconfig, when there is no `host`; the current one when empty.
    pub context: String,
    /// Client certificate, with `host`.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Certificates to trust at `host`.
    pub ca_file: String,
    /// Token for the API server instead of any other; never logged.
    pub bearer_token: String,
    /// Namespace of the pods, with the job's variables; `default` when empty.
    pub namespace: String,
    /// Regular expression of what a job may ask for with `KUBERNETES_NAMESPACE_OVERWRITE`; nothing when empty.
    pub namespace_overwrite_allowed: String,
    /// Image of jobs that name none.
    pub image: String,
    /// Image of the helper container.
    pub helper_image: String,
    /// When images are pulled, in order of preference.
    #[serde(deserialize_with = "one_or_many")]
    pub pull_policy: Vec<String>,
    /// Policies a job may ask for; those of `pull_policy` when empty.
    pub allowed_pull_policies: Vec<String>,
    /// Patterns of images a job may have, besides `image`; any when empty.
    pub allowed_images: Vec<String>,
    /// Patterns of services a job may have; any when empty.
    pub allowed_services: Vec<String>,
    /// Whether the containers of the job are privileged.
    pub privileged: bool,
    /// Whether a process may gain more rights than its parent; the cluster's default when not set.
    pub allow_privilege_escalation: Option<bool>,
    /// Capabilities given to containers.
    pub cap_add: Vec<String>,
    /// Capabilities taken from containers, besides `NET_RAW`.
    pub cap_drop: Vec<String>,
    /// Users a job may ask for, as numbers; any but 0 when empty.
    pub allowed_users: Vec<String>,
    /// Groups a job may ask for, as numbers; any but 0 when empty.
    pub allowed_groups: Vec<String>,
    /// Security of the pod.
    pub pod_security_context: PodSecurityContext,
    /// Security of the build container.
    pub build_container_security_context: ContainerSecurityContext,
    /// Security of the helper.
    pub helper_container_security_context: ContainerSecurityContext,
    /// Security of each service.
    pub service_container_security_context: ContainerSecurityContext,
    /// Service account of the pods.
    pub service_account: String,
    /// Regular expression of what `KUBERNETES_SERVICE_ACCOUNT_OVERWRITE` may say; nothing when empty.
    pub service_account_overwrite_allowed: String,
    /// CPU request of the build container.
    pub cpu_request: String,
    /// The most a job may ask for with `KUBERNETES_CPU_REQUEST`; nothing when empty.
    pub cpu_request_overwrite_max_allowed: String,
    /// CPU limit of the build container.
    pub cpu_limit: String,
    /// The most a job may ask for with `KUBERNETES_CPU_LIMIT`; nothing when empty.
    pub cpu_limit_overwrite_max_allowed: String,
    /// Memory request of the build container.
    pub memory_request: String,
    /// The most a job may ask for with `KUBERNETES_MEMORY_REQUEST`; nothing when empty.
    pub memory_request_overwrite_max_allowed: String,
    /// Memory limit of the build container.
    pub memory_limit: String,
    /// The most a job may ask for with `KUBERNETES_MEMORY_LIMIT`; nothing when empty.
    pub memory_limit_overwrite_max_allowed: String,
    /// Ephemeral storage request of the build container.
    pub ephemeral_storage_request: String,
    /// The most a job may ask for with `KUBERNETES_EPHEMERAL_STORAGE_REQUEST`; nothing when empty.
    pub ephemeral_storage_request_overwrite_max_allowed: String,
    /// Ephemeral storage limit of the build container.
    pub ephemeral_storage_limit: String,
    /// The most a job may ask for with `KUBERNETES_EPHEMERAL_STORAGE_LIMIT`; nothing when empty.
    pub ephemeral_storage_limit_overwrite_max_allowed: String,
    /// CPU request of each service.
    pub service_cpu_request: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_CPU_REQUEST`; nothing when empty.
    pub service_cpu_request_overwrite_max_allowed: String,
    /// CPU limit of each service.
    pub service_cpu_limit: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_CPU_LIMIT`; nothing when empty.
    pub service_cpu_limit_overwrite_max_allowed: String,
    /// Memory request of each service.
    pub service_memory_request: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_MEMORY_REQUEST`; nothing when empty.
    pub service_memory_request_overwrite_max_allowed: String,
    /// Memory limit of each service.
    pub service_memory_limit: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_MEMORY_LIMIT`; nothing when empty.
    pub service_memory_limit_overwrite_max_allowed: String,
    /// Ephemeral storage request of each service.
    pub service_ephemeral_storage_request: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_EPHEMERAL_STORAGE_REQUEST`; nothing when empty.
    pub service_ephemeral_storage_request_overwrite_max_allowed: String,
    /// Ephemeral storage limit of each service.
    pub service_ephemeral_storage_limit: String,
    /// The most a job may ask for with `KUBERNETES_SERVICE_EPHEMERAL_STORAGE_LIMIT`; nothing when empty.
    pub service_ephemeral_storage_limit_overwrite_max_allowed: String,
    /// CPU request of the helper.
    pub helper_cpu_request: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_CPU_REQUEST`; nothing when empty.
    pub helper_cpu_request_overwrite_max_allowed: String,
    /// CPU limit of the helper.
    pub helper_cpu_limit: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_CPU_LIMIT`; nothing when empty.
    pub helper_cpu_limit_overwrite_max_allowed: String,
    /// Memory request of the helper.
    pub helper_memory_request: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_MEMORY_REQUEST`; nothing when empty.
    pub helper_memory_request_overwrite_max_allowed: String,
    /// Memory limit of the helper.
    pub helper_memory_limit: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_MEMORY_LIMIT`; nothing when empty.
    pub helper_memory_limit_overwrite_max_allowed: String,
    /// Ephemeral storage request of the helper.
    pub helper_ephemeral_storage_request: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_EPHEMERAL_STORAGE_REQUEST`; nothing when empty.
    pub helper_ephemeral_storage_request_overwrite_max_allowed: String,
    /// Ephemeral storage limit of the helper.
    pub helper_ephemeral_storage_limit: String,
    /// The most a job may ask for with `KUBERNETES_HELPER_EPHEMERAL_STORAGE_LIMIT`; nothing when empty.
    pub helper_ephemeral_storage_limit_overwrite_max_allowed: String,
    /// CPU request of the pod as a whole.
    pub pod_cpu_request: String,
    /// The most a job may ask for with `KUBERNETES_POD_CPU_REQUEST`; nothing when empty.
    pub pod_cpu_request_overwrite_max_allowed: String,
    /// CPU limit of the pod as a whole.
    pub pod_cpu_limit: String,
    /// The most a job may ask for with `KUBERNETES_POD_CPU_LIMIT`; nothing when empty.
    pub pod_cpu_limit_overwrite_max_allowed: String,
    /// Memory request of the pod as a whole.
    pub pod_memory_request: String,
    /// The most a job may ask for with `KUBERNETES_POD_MEMORY_REQUEST`; nothing when empty.
    pub pod_memory_request_overwrite_max_allowed: String,
    /// Memory limit of the pod as a whole.
    pub pod_memory_limit: String,
    /// The most a job may ask for with `KUBERNETES_POD_MEMORY_LIMIT`; nothing when empty.
    pub pod_memory_limit_overwrite_max_allowed: String,
    /// Labels nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Regular expression of what `KUBERNETES_NODE_SELECTOR_*` may say; nothing when empty.
    pub node_selector_overwrite_allowed: String,
    /// Taints of nodes that are tolerated: `key=value` or `key`, and the effect.
    pub node_tolerations: BTreeMap<String, String>,
    /// Regular expression of what `KUBERNETES_NODE_TOLERATIONS_*` may say; nothing when empty.
    pub node_tolerations_overwrite_allowed: String,
    /// Secrets with registry logins.
    pub image_pull_secrets: Vec<String>,
    /// Whether only the logins of the service account are used.
    pub use_service_account_image_pull_secrets: bool,
    /// Labels added to pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Regular expression of what `KUBERNETES_POD_LABELS_*` may say; nothing when empty.
    pub pod_labels_overwrite_allowed: String,
    /// Annotations added to pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// Regular expression of what `KUBERNETES_POD_ANNOTATIONS_*` may say; nothing when empty.
    pub pod_annotations_overwrite_allowed: String,
    /// Changes of the pod's spec, applied in order when `FF_USE_ADVANCED_POD_SPEC_CONFIGURATION` is on.
    pub pod_spec: Vec<PodSpecPatch>,
    /// Seconds until a pod must run; 0 means 180.
    pub poll_timeout: u64,
    /// Seconds a pod has to end; 0 means Kubernetes' default.
    pub pod_termination_grace_period_seconds: u64,
    /// What GitLab Runner does not know.
    pub gantry: Gantry,
}

/// `[[runners.kubernetes.pod_spec]]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodSpecPatch {
    /// For messages.
    pub name: String,
    /// The patch, in JSON or YAML.
    pub patch: String,
    /// File with the patch, which whoever reads the configuration reads into `patch`.
    pub patch_path: String,
    /// `strategic`, which an empty one means, `merge` or `json`.
    pub patch_type: String,
}

/// `[runners.kubernetes.gantry]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gantry {
    /// Whether masked values are masked in base64, URL-encoded and JSON-escaped too; they are when not set.
    pub mask_encodings: Option<bool>,
    /// Whether a job's log ends with what its containers used; it does when not set.
    pub resource_report: Option<bool>,
}

/// GitLab's words for when an image is pulled.
const POLICIES: [&str; 3] = ["always", "if-not-present", "never"];

/// Reads `a` and `["a", "b"]` alike, as GitLab Runner does for pull policies.
fn one_or_many<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(input)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// Something to say about a file, with its place when it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when the problem is of the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A file that can be used, and what to say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What the user wrote.
    pub config: Config,
    /// What they should know.
    pub warnings: Vec<Problem>,
}

/// A file that cannot be used: every mistake that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", shown(.0))]
pub struct Problems(pub Vec<Problem>);

fn shown(problems: &[Problem]) -> String {
    let one = |problem: &Problem| {
        if problem.line > 0 { format!("line {}: {}", problem.line, problem.message) } else { problem.message.clone() }
    };
    problems.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Reads a `config.toml`.
///
/// # Errors
/// Every mistake, when there is one that makes the file useless.
pub fn parse(text: &str) -> Result<Parsed, Problems> {
    let mut unread = Vec::new();
    let note = |path: serde_ignored::Path<'_>| unread.push(path.to_string());
    let failed = |error: toml::de::Error| Problems(vec![problem(text, &error)]);
    let mut tables: toml::Table = toml::from_str(text).map_err(failed)?;
    // What has another spelling in the text cannot be read from it, so a mistake there has no line.
    let config: Result<Config, _> = if keys::respell(&mut tables) {
        serde_ignored::deserialize(toml::Value::Table(tables), note)
    } else {
        serde_ignored::deserialize(toml::Deserializer::parse(text).map_err(failed)?, note)
    };
    let config = config.map_err(failed)?;
    let warnings = unread.iter().map(|path| keys::unread(text, path)).collect();
    let mistakes = mistakes(&config);
    if mistakes.is_empty() { Ok(Parsed { config, warnings }) } else { Err(Problems(mistakes)) }
}

fn problem(text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    Problem { line, message: without_values(error.message()) }
}

/// A message without what stands in quotes: it may be a token in the wrong place.
fn without_values(message: &str) -> String {
    let pieces = message.split('"').enumerate();
    pieces.map(|(index, piece)| if index % 2 == 1 { "\"…\"" } else { piece }).collect()
}

/// Rules over several keys.
fn mistakes(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut say = |message: String| found.push(Problem { line: 0, message });
    if config.runners.is_empty() {
        say("there is no [[runners]] entry".to_owned());
    }
    for (index, runner) in config.runners.iter().enumerate() {
        let name = if runner.name.is_empty() { format!("number {}", index + 1) } else { format!("\"{}\"", runner.name) };
        for (key, value) in [("url", &runner.url), ("token", &runner.token)] {
            if value.is_empty() {
                say(format!("runner {name}: {key} is missing"));
            }
        }
        if runner.executor != "kubernetes" {
            say(format!("runner {name}: executor \"{}\" is not supported, only kubernetes is", runner.executor));
        }
        if runner.tls_cert_file.is_empty() != runner.tls_key_file.is_empty() {
            say(format!("runner {name}: tls-cert-file and tls-key-file need each other"));
        }
        runner.kubernetes.mistakes().into_iter().for_each(|message| say(format!("runner {name}: {message}")));
        for (place, _) in runner.environment.iter().enumerate().filter(|(_, pair)| !pair.contains('=')) {
            say(format!("runner {name}: entry {} of environment is not KEY=VALUE", place + 1));
        }
    }
    found
}

impl Config {
    /// Most jobs at once.
    pub fn concurrent(&self) -> u32 {
        self.concurrent.max(1)
    }

    /// Every namespace that a runner puts pods into, as far as the file tells.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.runners.iter().filter_map(|runner| runner.kubernetes.fixed_namespace()).collect()
    }
}

impl Kubernetes {
    /// Namespace of the pods.
    pub fn namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// The namespace of all pods whose job asks for no other; `None` when it depends on the job's variables.
    pub fn fixed_namespace(&self) -> Option<&str> {
        Some(self.namespace()).filter(|namespace| !namespace.contains('$'))
    }

    fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (key, policies) in [("pull_policy", &self.pull_policy), ("allowed_pull_policies", &self.allowed_pull_policies)] {
            let unknown = policies.iter().filter(|policy| !POLICIES.contains(&policy.as_str()));
            found.extend(unknown.map(|policy| format!("unknown {key} \"{policy}\": always, if-not-present and never are known")));
        }
        for (key, pattern) in [
            ("namespace_overwrite_allowed", &self.namespace_overwrite_allowed),
            ("service_account_overwrite_allowed", &self.service_account_overwrite_allowed),
            ("pod_labels_overwrite_allowed", &self.pod_labels_overwrite_allowed),
            ("pod_annotations_overwrite_allowed", &self.pod_annotations_overwrite_allowed),
            ("node_selector_overwrite_allowed", &self.node_selector_overwrite_allowed),
            ("node_tolerations_overwrite_allowed", &self.node_tolerations_overwrite_allowed),
        ] {
            if let Err(error) = regex::Regex::new(pattern) {
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                found.push(format!("{key} is not a regular expression: {why}"));
            }
        }
        if !self.host.is_empty() && !self.cert_file.is_empty() && (self.key_file.is_empty() || self.ca_file.is_empty()) {
            found.push("cert_file needs key_file and ca_file beside it".to_owned());
        }
        for patch in &self.pod_spec {
            let name = &patch.name;
            if patch.patch.is_empty() == patch.patch_path.is_empty() {
                found.push(format!("pod_spec \"{name}\" needs either patch or patch_path"));
            }
            if !["", "strategic", "merge", "json"].contains(&patch.patch_type.as_str()) {
                found.push(format!(
                    "pod_spec \"{name}\": unknown patch_type \"{}\": strategic, merge and json are known",
                    patch.patch_type
                ));
            }
        }
        let pod = &self.pod_security_context;
        found.extend(pod.seccomp_profile.mistake("pod_security_context.seccomp_profile"));
        found.extend(pod.app_armor_profile.mistake("pod_security_context.app_armor_profile"));
        for (table, context) in [
            ("build_container_security_context", &self.build_container_security_context),
            ("helper_container_security_context", &self.helper_container_security_context),
            ("service_container_security_context", &self.service_container_security_context),
        ] {
            found.extend(context.mistakes(table));
        }
        found
    }
}

impl Runner {
    /// The first eight characters of the token behind its prefix: enough to tell runners apart, not a secret.
    pub fn short_token(&self) -> &str {
        let bare = self.token.strip_prefix("glrt-").unwrap_or(&self.token);
        let end = bare.char_indices().nth(8).map_or(bare.len(), |(at, _)| at);
        &bare[..end]
    }

    /// Whether another entry is of the same runner at GitLab: one address, one token.
    pub fn is_same(&self, other: &Self) -> bool {
        self.url == other.url && self.token == other.token
    }
}
