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

/// What the agent can do, no more: GitLab hands out jobs by it.
///
/// Two are told although they are not done yet. A cache is never fatal, so a job that names fallback keys must not be
/// refused for them; and a job with secrets is failed by us, whose log says what is missing, not by the server, whose
/// word for it explains nothing.
fn of_kubernetes() -> Features {
    Features {
        variables: true,
        image: true,
        services: true,
        artifacts: true,
        cache: true,
        fallback_cache_keys: true,
        upload_multiple_artifacts: true,
        upload_raw_artifacts: true,
        refspecs: true,
        masking: true,
        raw_variables: true,
        artifacts_exclude: true,
        multi_build_steps: true,
        trace_reset: true,
        trace_checksum: true,
        trace_size: true,
        vault_secrets: true,
        cancelable: true,
        return_exit_code: true,
        service_variables: true,
        service_multiple_aliases: true,
        image_executor_opts: true,
        cancel_gracefully: true,
        native_steps_integration: true,
        two_phase_job_commit: true,
        job_inputs: true,
        // Sessions, terminals and proxies are not done, `shared` is the opposite of a pod, and GitLab Runner does not say
        // `service_executor_opts` on Kubernetes either.
        ..Features::default()
    }
}

impl Info {
    /// What a runner of this version says of itself, manager and agent alike: a server keeps the features of the call
    /// that it heard first.
    pub fn of_kubernetes(version: &str) -> Self {
        Self {
            name: "gitlab-runner".to_owned(),
            version: version.to_owned(),
            revision: String::new(),
            platform: std::env::consts::OS.to_owned(),
            architecture: architecture().to_owned(),
            executor: "kubernetes".to_owned(),
            shell: "bash".to_owned(),
            features: of_kubernetes(),
            config: InfoConfig::default(),
        }
    }
}

/// This machine's architecture in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
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

#[cfg(test)]
mod tests {
    use super::Info;

    #[test]
    fn a_runner_says_what_gitlab_runner_says_but_what_is_not_done() {
        let info = serde_json::to_value(Info::of_kubernetes("1.0")).unwrap();
        for (field, expected) in [("name", "gitlab-runner"), ("version", "1.0"), ("executor", "kubernetes"), ("shell", "bash")] {
            assert_eq!(info[field], expected, "{field}");
        }
        assert_eq!(info["config"]["gpus"], "");
        let features = info["features"].as_object().unwrap();
        let off: Vec<_> = features.iter().filter(|(_, value)| **value == false).map(|(name, _)| name.as_str()).collect();
        assert_eq!(off, ["shared", "session", "terminal", "proxy", "service_executor_opts"]);
        assert_eq!(features.len(), 31);
    }
}
