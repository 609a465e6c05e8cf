//! Who a container runs as and what it may do: the container's word before the pod's, the pod's before the image's.

use super::ConfigError;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};

/// User and group inside the pod, and further groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What a container may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Capabilities beyond the default ones.
    pub add: Vec<String>,
    /// Default capabilities to take away.
    pub drop: Vec<String>,
    /// All of them.
    pub privileged: bool,
    /// No setuid program may give more.
    pub no_new_privileges: bool,
    /// The root file system cannot be written to.
    pub read_only_root: bool,
}

fn parts<'a>(pod: &'a Pod, container: &'a Container) -> (Option<&'a SecurityContext>, Option<&'a PodSecurityContext>) {
    (container.security_context.as_ref(), pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()))
}

/// The user the pod asks for; `None` leaves it to the image.
///
/// # Errors
/// An id that cannot be one.
pub fn run_as_user(pod: &Pod, container: &Container) -> Result<Option<u32>, ConfigError> {
    let (own, of_pod) = parts(pod, container);
    let asked = own.and_then(|own| own.run_as_user).or_else(|| of_pod.and_then(|pod| pod.run_as_user));
    asked.map(|id| number(id, "runAsUser")).transpose()
}

/// The identity, from what the image says and the pod overrules.
///
/// # Errors
/// An id that cannot be one, or root where `runAsNonRoot` forbids it.
pub fn identity(pod: &Pod, container: &Container, image: &Identity) -> Result<Identity, ConfigError> {
    let (own, of_pod) = parts(pod, container);
    let user = run_as_user(pod, container)?;
    let group = own.and_then(|own| own.run_as_group).or_else(|| of_pod.and_then(|pod| pod.run_as_group));
    let group = group.map(|id| number(id, "runAsGroup")).transpose()?;
    let must_not_be_root = own.and_then(|own| own.run_as_non_root).or_else(|| of_pod.and_then(|pod| pod.run_as_non_root));
    let uid = user.unwrap_or(image.uid);
    if must_not_be_root == Some(true) && uid == 0 {
        let who = if user.is_some() {
            "container's runAsUser breaks non-root policy"
        } else {
            "container has runAsNonRoot and image will run as root"
        };
        return Err(ConfigError::new(format!("{who} (container: {})", container.name)));
    }
    let mut groups = if user.is_some() { Vec::new() } else { image.groups.clone() };
    let wanted = of_pod.and_then(|pod| pod.supplemental_groups.as_ref()).into_iter().flatten();
    for id in wanted {
        groups.push(number(*id, "supplementalGroups")?);
    }
    groups.extend(fs_group(pod)?);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid: group.unwrap_or(if user.is_some() { 0 } else { image.gid }), groups })
}

/// The group that owns the pod's volumes.
///
/// # Errors
/// An id that cannot be one.
pub fn fs_group(pod: &Pod) -> Result<Option<u32>, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    of_pod.and_then(|pod| pod.fs_group).map(|id| number(id, "fsGroup")).transpose()
}

/// Ids stay below the largest the pod's range has room for.
fn number(id: i64, what: &str) -> Result<u32, ConfigError> {
    let fits = u32::try_from(id).ok().filter(|id| *id < 65_536);
    fits.ok_or_else(|| ConfigError::new(format!("{what} {id} is outside of this node's range 0 to 65535")))
}

/// What the container may do.
pub fn privileges(container: &Container) -> Privileges {
    let Some(own) = &container.security_context else { return Privileges::default() };
    let list = |of: fn(&k8s_openapi::api::core::v1::Capabilities) -> &Option<Vec<String>>| {
        let names = own.capabilities.as_ref().and_then(|capabilities| of(capabilities).clone()).unwrap_or_default();
        names.iter().map(|name| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned()).collect::<Vec<_>>()
    };
    let privileged = own.privileged == Some(true);
    let add = list(|capabilities| &capabilities.add);
    Privileges {
        // Kubernetes: with CAP_SYS_ADMIN or privileged, escalation is always allowed.
        no_new_privileges: own.allow_privilege_escalation == Some(false)
            && !privileged
            && !add.iter().any(|one| one == "SYS_ADMIN"),
        add,
        drop: list(|capabilities| &capabilities.drop),
        privileged,
        read_only_root: own.read_only_root_filesystem == Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, identity, privileges};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn pod(of_pod: Value, own: Value) -> Pod {
        serde_json::from_value(
            json!({"spec": {"securityContext": of_pod, "containers": [{"name": "a", "securityContext": own}]}}),
        )
        .unwrap()
    }

    fn who(of_pod: Value, own: Value) -> Result<Identity, String> {
        let pod = pod(of_pod, own);
        let image = Identity { uid: 1000, gid: 1001, groups: vec![5] };
        identity(&pod, &pod.spec.as_ref().unwrap().containers[0], &image).map_err(|error| error.0)
    }

    #[test]
    fn the_containers_word_counts_before_the_pods_and_the_images() {
        assert_eq!(who(json!({}), json!({})), Ok(Identity { uid: 1000, gid: 1001, groups: vec![5] }));
        assert_eq!(who(json!({"runAsUser": 7}), json!({})), Ok(Identity { uid: 7, gid: 0, groups: vec![] }));
        assert_eq!(
            who(json!({"runAsUser": 7, "fsGroup": 30, "supplementalGroups": [40, 30]}), json!({"runAsUser": 8, "runAsGroup": 9})),
            Ok(Identity { uid: 8, gid: 9, groups: vec![30, 40] })
        );
    }

    #[test]
    fn root_where_it_is_forbidden_is_refused() {
        assert!(who(json!({"runAsNonRoot": true}), json!({})).is_ok());
        assert!(who(json!({"runAsNonRoot": true}), json!({"runAsUser": 0})).unwrap_err().contains("non-root"));
        assert!(who(json!({}), json!({"runAsUser": 70_000})).unwrap_err().contains("range"));
    }

    #[test]
    fn capabilities_are_read_with_or_without_their_prefix() {
        let pod = pod(
            json!({}),
            json!({"capabilities": {"add": ["cap_sys_ptrace"], "drop": ["ALL"]}, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true}),
        );
        let found = privileges(&pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!((found.add, found.drop), (vec!["SYS_PTRACE".to_owned()], vec!["ALL".to_owned()]));
        assert!(found.no_new_privileges && found.read_only_root && !found.privileged);
    }
}
