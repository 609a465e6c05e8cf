//! What a runner says of itself with every call: `info` and its features.

use serde::{Deserialize, Serialize};

/// `info` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// `gitlab-runner`, the name GitLab expects.
    pub name: String,
    /// Version of the runner.
    pub version: String,
    /// Source revision.
    pub revision: String,
    /// Operating system, in Go's words.
    pub platform: String,
    /// Processor, in Go's words.
    pub architecture: String,
    /// `kubernetes`.
    pub executor: String,
    /// `bash`.
    pub shell: String,
    /// What the runner can do.
    pub features: Features,
    /// Settings the server shows.
    pub config: InfoConfig,
}

/// `info.config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InfoConfig {
    /// Docker's setting; always empty for Kubernetes.
    pub gpus: String,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// `info.features`: one flag per capability (rows `info.features.*`).
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Features { $($(#[$doc])* pub $name: bool,)* }
    };
}

features! {
    /// Job variables.
    variables,
    /// `image`.
    image,
    /// `services`.
    services,
    /// Artifacts.
    artifacts,
    /// Caches.
    cache,
    /// `cache:fallback_keys`.
    fallback_cache_keys,
    /// Jobs share one environment.
    shared,
    /// Several archives per job.
    upload_multiple_artifacts,
    /// `raw` artifacts.
    upload_raw_artifacts,
    /// Web sessions.
    session,
    /// Web terminals.
    terminal,
    /// `git_info.refspecs`.
    refspecs,
    /// Masking in the log.
    masking,
    /// Service proxying.
    proxy,
    /// `raw` variables.
    raw_variables,
    /// `artifacts:exclude`.
    artifacts_exclude,
    /// Steps besides `script`.
    multi_build_steps,
    /// The log may be sent again from 0.
    trace_reset,
    /// `output.checksum`.
    trace_checksum,
    /// `output.bytesize`.
    trace_size,
    /// Secrets from stores.
    vault_secrets,
    /// Cancelling by `Job-Status`.
    cancelable,
    /// `exit_code`.
    return_exit_code,
    /// `services:variables`.
    service_variables,
    /// Several aliases per service.
    service_multiple_aliases,
    /// `image:kubernetes`.
    image_executor_opts,
    /// `services:kubernetes`.
    service_executor_opts,
    /// `after_script` runs after a cancel.
    cancel_gracefully,
    /// `run`.
    native_steps_integration,
    /// The runner confirms a job before it starts it.
    two_phase_job_commit,
    /// `${{ }}`.
    job_inputs,
}
