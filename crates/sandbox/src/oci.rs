//! A container as the OCI runtime specification writes it (`config.json`), and the capabilities in it.

use crate::cgroup::Swap;
use crate::namespaces::Held;
use crate::{Capabilities, ContainerSpec, Resources, runtime};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What containerd gives a container that asks for nothing (its `oci.WithDefaultSpec`).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// All of Linux 6.x, in the order of their numbers (capabilities(7)).
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
/// Processes of a container that sets no limit: enough for any build, not for a fork bomb to take the machine.
const DEFAULT_PIDS: u64 = 16_384;
/// Period of a CPU quota, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// Hidden and protected parts of `/proc` and `/sys`, as containerd has them.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What surrounds the container.
pub(crate) struct Surroundings<'a> {
    /// Where its root filesystem is mounted.
    pub(crate) root: &'a Path,
    /// Its pod's namespaces.
    pub(crate) namespaces: &'a Held,
    /// Its control group.
    pub(crate) cgroup: &'a str,
    /// How swap is kept from it.
    pub(crate) swap: Swap,
    /// Sources, mounted already, and where they go.
    pub(crate) binds: &'a [(PathBuf, PathBuf)],
}

/// The container's set of capabilities.
pub(crate) fn capabilities(changes: &Capabilities, privileged: bool) -> Vec<String> {
    if privileged {
        return ALL_CAPABILITIES.map(str::to_owned).into();
    }
    let names = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|name| name.to_ascii_uppercase())
            .map(|name| if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") })
            .collect()
    };
    let (add, drop) = (names(&changes.add), names(&changes.drop));
    let has = |list: &[String], name: &str| list.iter().any(|one| one == name || one == "ALL");
    let keep = |name: &&str| has(&add, name) || (DEFAULT_CAPABILITIES.contains(name) && !has(&drop, name));
    ALL_CAPABILITIES.iter().filter(|name| keep(name)).map(|name| (*name).to_owned()).collect()
}

/// The whole `config.json`.
pub(crate) fn config(spec: &ContainerSpec, around: &Surroundings<'_>) -> Value {
    let bounding = capabilities(&spec.capabilities, spec.privileged);
    let effective = if spec.user.uid == 0 { bounding.clone() } else { Vec::new() };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": spec.user.groups},
            "args": spec.args,
            "env": spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(),
            "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
            "noNewPrivileges": spec.no_new_privileges,
            "capabilities": {
                "bounding": bounding, "effective": effective, "permitted": effective, "inheritable": [], "ambient": [],
            },
        },
        "root": {"path": around.root, "readonly": spec.read_only_root},
        "mounts": mounts(around),
        "linux": {
            "namespaces": namespaces(around.namespaces),
            "cgroupsPath": around.cgroup,
            "resources": resources(&spec.resources, around.swap),
            "maskedPaths": if spec.privileged { Vec::new() } else { MASKED.to_vec() },
            "readonlyPaths": if spec.privileged { Vec::new() } else { READ_ONLY.to_vec() },
        },
    })
}

fn namespaces(shared: &Held) -> Value {
    let shared = shared.paths().into_iter().enumerate();
    let mut list: Vec<Value> =
        shared.map(|(number, (name, _))| json!({"type": name, "path": runtime::namespace(number)})).collect();
    list.extend([json!({"type": "pid"}), json!({"type": "mount"}), json!({"type": "cgroup"})]);
    Value::Array(list)
}

fn mounts(around: &Surroundings<'_>) -> Value {
    let mut list = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
    ];
    // Only who owns the network namespace may mount a sysfs of it.
    list.push(if around.namespaces.network().is_none() {
        json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind"]})
    } else {
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]})
    });
    if around.namespaces.network().is_some() {
        list.push(json!({"destination": "/sys/fs/cgroup", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]}));
    }
    for (source, target) in around.binds {
        list.push(json!({"destination": target, "type": "bind", "source": source, "options": ["rbind"]}));
    }
    Value::Array(list)
}

fn resources(limits: &Resources, swap: Swap) -> Value {
    let mut resources = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "pids": {"limit": limits.pids.unwrap_or(DEFAULT_PIDS)},
    });
    if let Some(bytes) = limits.memory_bytes {
        resources["memory"] = json!({"limit": bytes});
        // Swap would only make a job that is too large slow before it is killed.
        match swap {
            // Memory and swap together.
            Swap::Together => resources["memory"]["swap"] = json!(bytes),
            // The library takes memory and swap together here as well, but leaves a difference of zero unwritten.
            Swap::Apart => resources["unified"] = json!({"memory.swap.max": "0"}),
            Swap::Unlimited => {}
        }
    }
    let mut cpu = json!({});
    if let Some(quota) = limits.cpu_quota_us {
        cpu["quota"] = json!(quota);
        cpu["period"] = json!(CPU_PERIOD);
    }
    if let Some(shares) = limits.cpu_shares {
        cpu["shares"] = json!(shares.max(2));
    }
    resources["cpu"] = cpu;
    resources
}

#[cfg(test)]
mod tests {
    use super::capabilities;
    use crate::Capabilities;

    fn set(add: &[&str], drop: &[&str], privileged: bool) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        capabilities(&Capabilities { add: own(add), drop: own(drop) }, privileged)
    }

    #[test]
    fn capabilities_are_the_default_with_changes() {
        assert_eq!(set(&[], &[], false).len(), 14);
        assert!(!set(&[], &["NET_RAW"], false).contains(&"CAP_NET_RAW".to_owned()));
        assert_eq!(set(&["net_admin"], &["ALL"], false), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &["ALL"], false).len(), 41);
        assert_eq!(set(&[], &["ALL"], true).len(), 41);
    }
}
