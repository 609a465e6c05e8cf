//! What this machine is and has, and the Node object that says so.

use super::schedule::{Amounts, MOST_PODS};
use crate::spec::fields::Capacity;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the one node there is.
pub const NODE: &str = "gantry";
/// The Kubernetes version whose kubelet this node behaves like.
const KUBELET_VERSION: &str = "v1.33.0";

/// Amounts and names.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What containers can have.
    pub capacity: Capacity,
    kernel: String,
    os: String,
    machine_id: String,
    boot_id: String,
}

impl Facts {
    /// Looks at this machine; `disk` is where the pods' files will be.
    pub fn read(disk: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let disk = rustix::fs::statvfs(disk).map_or(0, |found| found.f_blocks.saturating_mul(found.f_frsize));
        let os_release = text("/etc/os-release");
        Self {
            capacity: Capacity { cpu_milli: cores as u64 * 1000, memory: memory(&text("/proc/meminfo")), disk },
            kernel: text("/proc/sys/kernel/osrelease"),
            os: os_name(&os_release),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }

    /// Labels of the node.
    pub fn labels() -> BTreeMap<String, String> {
        [("kubernetes.io/hostname", NODE), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", architecture())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// What pods may ask for, in thousandths.
    pub fn amounts(&self) -> Amounts {
        let Capacity { cpu_milli, memory, disk } = self.capacity;
        let amounts = [
            ("cpu", i128::from(cpu_milli)),
            ("memory", i128::from(memory) * 1000),
            ("ephemeral-storage", i128::from(disk) * 1000),
        ];
        amounts.map(|(name, amount)| (name.to_owned(), amount)).into()
    }

    /// The Node object.
    pub fn node(&self, address: &str, now: &str) -> Value {
        let resources = json!({
            "cpu": (self.capacity.cpu_milli / 1000).to_string(), "memory": format!("{}Ki", self.capacity.memory / 1024),
            "ephemeral-storage": self.capacity.disk.to_string(), "pods": MOST_PODS.to_string(),
        });
        let condition = |name: &str, status: &str, reason: &str, message: &str| {
            json!({"type": name, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        json!({
            "metadata": {"name": NODE, "labels": Self::labels()},
            "spec": {},
            "status": {
                "capacity": resources, "allocatable": resources,
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                    condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
                ],
                "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": NODE}],
                "nodeInfo": {
                    "kernelVersion": self.kernel, "osImage": self.os, "operatingSystem": "linux", "architecture": architecture(),
                    "machineID": self.machine_id, "systemUUID": self.machine_id, "bootID": self.boot_id,
                    "containerRuntimeVersion": concat!("gantry://", env!("CARGO_PKG_VERSION")),
                    "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
                },
            },
        })
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn os_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Facts, memory, os_name};

    #[test]
    fn the_machine_is_described_as_a_node() {
        assert_eq!(memory("MemTotal:       24683520 kB\nMemFree: 1 kB"), 24_683_520 * 1024);
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        let facts = Facts::read(std::path::Path::new("/"));
        let node = facts.node("10.0.0.1", "2026-01-01T00:00:00Z");
        assert_eq!(node["status"]["conditions"][3]["status"], "True");
        assert!(facts.capacity.memory > 0 && facts.capacity.disk > 0 && facts.capacity.cpu_milli >= 1000);
    }
}
