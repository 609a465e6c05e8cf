//! `[runners.kubernetes.*_security_context]`: what a pod and its containers may do on their node.
//!
//! A key that is not set is not sent, so that the cluster's default holds; hence the options.

use serde::Deserialize;

/// `[runners.kubernetes.pod_security_context]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodSecurityContext {
    /// Group that owns the volumes.
    pub fs_group: Option<i64>,
    /// Group of all containers.
    pub run_as_group: Option<i64>,
    /// Whether root is refused.
    pub run_as_non_root: Option<bool>,
    /// User of all containers.
    pub run_as_user: Option<i64>,
    /// More groups.
    pub supplemental_groups: Vec<i64>,
    /// SELinux type.
    pub selinux_type: String,
    /// System calls.
    pub seccomp_profile: Profile,
    /// AppArmor.
    pub app_armor_profile: Profile,
}

/// `[runners.kubernetes.build_container_security_context]` and its like for helper and services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerSecurityContext {
    /// Its own lists of capabilities.
    pub capabilities: Capabilities,
    /// Whether the container is privileged.
    pub privileged: Option<bool>,
    /// User.
    pub run_as_user: Option<i64>,
    /// Group.
    pub run_as_group: Option<i64>,
    /// Whether root is refused.
    pub run_as_non_root: Option<bool>,
    /// Whether only volumes can be written to.
    pub read_only_root_filesystem: Option<bool>,
    /// Whether a process may gain more rights than its parent.
    pub allow_privilege_escalation: Option<bool>,
    /// SELinux type.
    pub selinux_type: String,
    /// `default` or `unmasked`.
    pub proc_mount: String,
    /// System calls.
    pub seccomp_profile: Profile,
    /// AppArmor.
    pub app_armor_profile: Profile,
}

/// Capabilities by name, without `CAP_`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Given.
    pub add: Vec<String>,
    /// Taken.
    pub drop: Vec<String>,
}

/// A seccomp or AppArmor profile; without a type there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// `RuntimeDefault`, `Localhost` or `Unconfined`.
    pub r#type: String,
    /// Name on the node, for `Localhost`.
    pub localhost_profile: String,
}

impl Profile {
    /// What is wrong with it, if anything.
    pub(crate) fn mistake(&self, key: &str) -> Option<String> {
        match self.r#type.as_str() {
            "" | "RuntimeDefault" | "Unconfined" => None,
            "Localhost" if self.localhost_profile.is_empty() => Some(format!("{key} of type Localhost needs localhost_profile")),
            "Localhost" => None,
            other => Some(format!("unknown type \"{other}\" of {key}: RuntimeDefault, Localhost and Unconfined are known")),
        }
    }
}

impl ContainerSecurityContext {
    /// What is wrong with it.
    pub(crate) fn mistakes(&self, table: &str) -> Vec<String> {
        let proc = !["", "default", "unmasked"].contains(&self.proc_mount.to_lowercase().as_str());
        let proc = proc.then(|| format!("unknown {table}.proc_mount \"{}\": default and unmasked are known", self.proc_mount));
        let seccomp = self.seccomp_profile.mistake(&format!("{table}.seccomp_profile"));
        let app_armor = self.app_armor_profile.mistake(&format!("{table}.app_armor_profile"));
        [proc, seccomp, app_armor].into_iter().flatten().collect()
    }
}
