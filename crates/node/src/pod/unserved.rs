//! What a pod asks for and this node does not do, so that an event can say so: nothing is ignored in silence. Pure.

use crate::volumes;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Every field that is set and has no effect here.
pub fn unserved(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut found: Vec<String> = of_pod(spec).into_iter().filter(|(_, set)| *set).map(|(name, _)| name.to_owned()).collect();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let fields = of_container(container).into_iter().filter(|(_, set)| *set);
        found.extend(fields.map(|(name, _)| format!("{name} of container {}", container.name)));
    }
    found.extend(volumes::unenforced_limits(pod));
    found
}

fn of_pod(spec: &PodSpec) -> Vec<(&'static str, bool)> {
    let security = spec.security_context.clone().unwrap_or_default();
    vec![
        ("automountServiceAccountToken", spec.automount_service_account_token == Some(true)),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("hostUsers", spec.host_users == Some(true)),
        ("shareProcessNamespace", spec.share_process_namespace == Some(true)),
        ("runtimeClassName", spec.runtime_class_name.is_some()),
        ("schedulerName", spec.scheduler_name.as_deref().is_some_and(|name| name != "default-scheduler")),
        ("dnsConfig", spec.dns_config.is_some()),
        ("dnsPolicy None", spec.dns_policy.as_deref() == Some("None")),
        ("readinessGates", spec.readiness_gates.as_ref().is_some_and(|gates| !gates.is_empty())),
        ("resourceClaims", spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())),
        ("resources", spec.resources.is_some()),
        ("setHostnameAsFQDN", spec.set_hostname_as_fqdn == Some(true)),
        ("securityContext.sysctls", security.sysctls.is_some_and(|sysctls| !sysctls.is_empty())),
        ("securityContext.seLinuxOptions", security.se_linux_options.is_some()),
        ("securityContext.appArmorProfile", security.app_armor_profile.is_some()),
        ("securityContext.seccompProfile", security.seccomp_profile.is_some_and(|profile| profile.type_ == "Localhost")),
    ]
}

fn of_container(container: &Container) -> Vec<(&'static str, bool)> {
    let security = container.security_context.clone().unwrap_or_default();
    let mounts = container.volume_mounts.iter().flatten();
    let propagated = mounts.clone().any(|mount| mount.mount_propagation.as_deref().is_some_and(|word| word != "None"));
    let disk = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
    vec![
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
        ("stdin", container.stdin == Some(true)),
        ("tty", container.tty == Some(true)),
        ("volumeDevices", container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty())),
        ("mountPropagation", propagated),
        ("limits.ephemeral-storage", disk.into_iter().any(|(name, _)| name == "ephemeral-storage")),
        ("securityContext.procMount", security.proc_mount.is_some_and(|mount| mount != "Default")),
        ("securityContext.seLinuxOptions", security.se_linux_options.is_some()),
        ("securityContext.appArmorProfile", security.app_armor_profile.is_some()),
        ("securityContext.seccompProfile", security.seccomp_profile.is_some_and(|profile| profile.type_ == "Localhost")),
    ]
}

#[cfg(test)]
mod tests {
    use super::unserved;
    use serde_json::json;

    #[test]
    fn fields_without_effect_are_named() {
        let pod = serde_json::from_value(json!({"spec": {
            "automountServiceAccountToken": true, "hostPID": true,
            "containers": [{"name": "a", "livenessProbe": {}, "tty": true}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
        }}))
        .unwrap();
        let expected = [
            "automountServiceAccountToken",
            "hostPID",
            "livenessProbe of container a",
            "tty of container a",
            "sizeLimit of volume v",
        ];
        assert_eq!(unserved(&pod), expected);
        let plain =
            serde_json::from_value(json!({"spec": {"automountServiceAccountToken": false, "schedulerName": "default-scheduler",
            "containers": [{"name": "a"}]}}))
            .unwrap();
        assert_eq!(unserved(&plain), Vec::<String>::new());
    }
}
