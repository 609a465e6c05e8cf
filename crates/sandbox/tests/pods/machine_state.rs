//! What a case may not leave behind: mounts, groups, interfaces, processes of pods.
//!
//! Other programs make pods on this machine at the same time, so only what carries one of our instances in its name
//! counts, and processes that have become our children.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Instances that cases made, in this process and in copies of it.
static INSTANCES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on, what belongs to this instance is looked for.
pub fn watch(instance: &str) {
    INSTANCES.lock().unwrap_or_else(PoisonError::into_inner).insert(instance.to_owned());
}

/// Mounts in our own mount namespace.
pub fn mounts() -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")).collect()
}

/// Everything else that is there of our instances.
pub fn left_behind() -> BTreeSet<String> {
    let instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ours = |text: &str| instances.iter().any(|instance| text.contains(instance.as_str()));
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ours(&name) {
            found.insert(format!("interface {name}"));
        }
    }
    groups(Path::new("/sys/fs/cgroup"), 0, &ours, &mut found);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let parent = format!("PPid:\t{}\n", std::process::id());
        if read("status").contains(&parent) || ours(&read("cgroup")) {
            found.insert(format!("process {} ({})", entry.file_name().to_string_lossy(), read("comm").trim()));
        }
    }
    found
}

fn groups(directory: &Path, depth: usize, ours: &impl Fn(&str) -> bool, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth < 6 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if ours(&path.to_string_lossy()) {
                found.insert(format!("group {}", path.display()));
            }
            groups(&path, depth + 1, ours, found);
        }
    }
}
