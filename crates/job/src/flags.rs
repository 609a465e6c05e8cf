//! GitLab Runner's feature flags: every name and default, and what counts for a job.
//!
//! What the runner's configuration fixes wins; else the last variable of the job that is a switch; else the default.
//! All are told to scripts, also those that mean nothing here, because scripts ask for them.

use crate::variables::{Variable, Variables, parse_switch};
use std::collections::BTreeMap;

/// Every flag with its default (parity inventory, feature flags).
pub const ALL: &[(&str, bool)] = &[
    ("FF_TEST_FEATURE", false),
    ("FF_NETWORK_PER_BUILD", false),
    ("FF_USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY", false),
    ("FF_USE_DIRECT_DOWNLOAD", true),
    ("FF_USE_FASTZIP", true),
    ("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", false),
    ("FF_ENABLE_BASH_EXIT_CODE_CHECK", false),
    ("FF_USE_WINDOWS_LEGACY_PROCESS_STRATEGY", false),
    ("FF_USE_LEGACY_BASH_EVAL", false),
    ("FF_USE_POWERSHELL_PATH_RESOLVER", false),
    ("FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL", false),
    ("FF_SCRIPT_SECTIONS", false),
    ("FF_ENABLE_JOB_CLEANUP", false),
    ("FF_KUBERNETES_HONOR_ENTRYPOINT", false),
    ("FF_POSIXLY_CORRECT_ESCAPES", false),
    ("FF_RESOLVE_FULL_TLS_CHAIN", false),
    ("FF_DISABLE_POWERSHELL_STDIN", false),
    ("FF_USE_POD_ACTIVE_DEADLINE_SECONDS", true),
    ("FF_USE_ADVANCED_POD_SPEC_CONFIGURATION", false),
    ("FF_SECRET_RESOLVING_FAILS_IF_MISSING", true),
    ("FF_PRINT_POD_EVENTS", false),
    ("FF_USE_GIT_BUNDLE_URIS", true),
    ("FF_USE_GIT_NATIVE_CLONE", false),
    ("FF_USE_DUMB_INIT_WITH_KUBERNETES_EXECUTOR", false),
    ("FF_USE_INIT_WITH_DOCKER_EXECUTOR", false),
    ("FF_LOG_IMAGES_CONFIGURED_FOR_JOB", false),
    ("FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO", true),
    ("FF_CLEAN_UP_FAILED_CACHE_EXTRACT", false),
    ("FF_USE_WINDOWS_JOB_OBJECT", false),
    ("FF_TIMESTAMPS", true),
    ("FF_DISABLE_AUTOMATIC_TOKEN_ROTATION", false),
    ("FF_USE_LEGACY_GCS_CACHE_ADAPTER", false),
    ("FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR", false),
    ("FF_USE_LEGACY_S3_CACHE_ADAPTER", false),
    ("FF_GIT_URLS_WITHOUT_TOKENS", false),
    ("FF_WAIT_FOR_POD_TO_BE_REACHABLE", false),
    ("FF_MASK_ALL_DEFAULT_TOKENS", true),
    ("FF_EXPORT_HIGH_CARDINALITY_METRICS", false),
    ("FF_USE_FLEETING_ACQUIRE_HEARTBEATS", false),
    ("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", true),
    ("FF_USE_ADAPTIVE_REQUEST_CONCURRENCY", true),
    ("FF_USE_GITALY_CORRELATION_ID", true),
    ("FF_USE_GIT_PROACTIVE_AUTH", false),
    ("FF_HASH_CACHE_KEYS", false),
    ("FF_ENABLE_JOB_INPUTS_INTERPOLATION", true),
    ("FF_USE_JOB_ROUTER", false),
    ("FF_SCRIPT_TO_STEP_MIGRATION", false),
    ("FF_USE_PARALLEL_CACHE_TRANSFER", false),
    ("FF_USE_PARALLEL_ARTIFACT_TRANSFER", false),
    ("FF_CONCRETE", false),
    ("FF_SUSPENDABLE_ENVIRONMENTS", false),
    ("FF_USE_NATIVE_CONTAINER_STOP", false),
];

/// The flags of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<&'static str, bool>,
    /// What could not be read, as sentences for the job's log.
    pub warnings: Vec<String>,
}

impl Flags {
    /// What counts for a job with these variables, duplicates included, where the configuration fixes some.
    pub fn resolve(fixed: &BTreeMap<String, bool>, variables: &Variables) -> Self {
        let mut flags = Self::default();
        for &(name, default) in ALL {
            let asked = variables.iter().filter(|one| one.key == name).map(|one| variables.expand(&one.value));
            let asked: Vec<_> = asked.filter(|text| !text.is_empty()).collect();
            let readable = asked.iter().rev().find_map(|text| parse_switch(text));
            if let (None, None, Some(text)) = (fixed.get(name), readable, asked.last()) {
                flags.warnings.push(format!("{name}: expected bool got {text:?}, using default value: {default}"));
            }
            flags.values.insert(name, fixed.get(name).copied().or(readable).unwrap_or(default));
        }
        flags
    }

    /// Whether a flag is on; one that nobody knows is off.
    pub fn is_on(&self, name: &str) -> bool {
        self.values.get(name).copied().unwrap_or(false)
    }

    /// Those that differ from their default, in GitLab's order, as the log's header shows them.
    pub fn unusual(&self) -> String {
        let unusual = ALL.iter().filter(|(name, default)| self.values.get(name).is_some_and(|value| value != default));
        unusual.map(|(name, default)| format!("{name}:{}", !default)).collect::<Vec<_>>().join(", ")
    }

    /// All of them for scripts.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.values.iter().map(|(name, value)| Variable { raw: true, ..Variable::public(*name, value.to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Flags};
    use crate::{Variable, Variables};
    use std::collections::BTreeMap;

    #[test]
    fn the_configuration_wins_then_the_job_then_the_default() {
        let variables: Variables = [
            Variable::public("FF_SCRIPT_SECTIONS", "false"),
            Variable::public("FF_SCRIPT_SECTIONS", "$ON"),
            Variable::public("FF_SCRIPT_SECTIONS", "perhaps"),
            Variable::public("ON", "1"),
            Variable::public("FF_TIMESTAMPS", "true"),
            Variable::public("FF_HASH_CACHE_KEYS", "yes"),
        ]
        .into_iter()
        .collect();
        let fixed = BTreeMap::from([("FF_TIMESTAMPS".to_owned(), false)]);
        let flags = Flags::resolve(&fixed, &variables);
        assert!(flags.is_on("FF_SCRIPT_SECTIONS") && !flags.is_on("FF_TIMESTAMPS") && !flags.is_on("FF_HASH_CACHE_KEYS"));
        assert_eq!(flags.unusual(), "FF_SCRIPT_SECTIONS:true, FF_TIMESTAMPS:false");
        assert_eq!(flags.warnings, ["FF_HASH_CACHE_KEYS: expected bool got \"yes\", using default value: false"]);
        assert_eq!(flags.variables().count(), ALL.len());
    }
}
