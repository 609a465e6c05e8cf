//! Processor time of the run's pods, from their control groups.
//!
//! Only where the node is this machine: its control groups are read as files, and a group is gone with its pod, so it is
//! looked at again and again while the pod is there.

use crate::cluster::Cluster;
use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// A pod's group lies this deep at most.
const DEPTH: u32 = 6;
const EVERY: Duration = Duration::from_millis(100);
/// Pods are asked for this seldom: it is a request to the API server.
const LISTS: u32 = 10;

/// Adds up what pods used.
#[derive(Default)]
pub struct PodCpu {
    seconds: HashMap<String, f64>,
    groups: HashMap<String, PathBuf>,
}

impl PodCpu {
    /// Looks until it is dropped.
    pub async fn watch(&mut self, cluster: &Cluster) -> Result<()> {
        let mut ticks = tokio::time::interval(EVERY);
        for turn in 0.. {
            ticks.tick().await;
            if turn % LISTS == 0 {
                for pod in cluster.api::<Pod>().list(&ListParams::default()).await? {
                    let uid = pod.uid().unwrap_or_default();
                    if !self.groups.contains_key(&uid)
                        && let Some(group) = find(Path::new(ROOT), &uid, DEPTH)
                    {
                        self.groups.insert(uid, group);
                    }
                }
            }
            for (uid, group) in &self.groups {
                if let Some(seconds) = used(group) {
                    self.seconds.insert(uid.clone(), seconds);
                }
            }
        }
        Ok(())
    }

    /// Seconds of all pods seen; `None` when there was no group to be found.
    pub fn total(&self) -> Option<f64> {
        (!self.seconds.is_empty()).then(|| self.seconds.values().sum())
    }
}

/// The control group of a pod that counts processor time.
fn find(directory: &Path, uid: &str, depth: u32) -> Option<PathBuf> {
    let names = [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))];
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if depth == 0 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let is_pod = names.iter().any(|name| entry.file_name().to_string_lossy().ends_with(name.as_str()));
        if is_pod && used(&path).is_some() {
            return Some(path);
        }
        if let Some(found) = find(&path, uid, depth - 1) {
            return Some(found);
        }
    }
    None
}

/// Seconds that a group has used: version 2 counts microseconds, version 1 nanoseconds.
fn used(group: &Path) -> Option<f64> {
    let microseconds = std::fs::read_to_string(group.join("cpu.stat")).ok().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|number| number.trim().parse::<f64>().ok())
    });
    let nanoseconds = || std::fs::read_to_string(group.join("cpuacct.usage")).ok()?.trim().parse::<f64>().ok();
    microseconds.map(|number| number / 1e6).or_else(|| nanoseconds().map(|number| number / 1e9))
}

#[cfg(test)]
mod tests {
    use super::{find, used};

    #[test]
    fn groups_of_both_versions_are_found_and_read() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("a/kubepods/poda-1"), root.path().join("b/kubepods-podb_2.slice"));
        for group in [&one, &two] {
            std::fs::create_dir_all(group).unwrap();
        }
        std::fs::write(one.join("cpuacct.usage"), "1500000000\n").unwrap();
        std::fs::write(two.join("cpu.stat"), "usage_usec 2500000\nuser_usec 1\n").unwrap();
        assert_eq!(find(root.path(), "a-1", 4).and_then(|group| used(&group)), Some(1.5));
        assert_eq!(find(root.path(), "b-2", 4).and_then(|group| used(&group)), Some(2.5));
        assert_eq!(find(root.path(), "c-3", 4), None);
    }
}
