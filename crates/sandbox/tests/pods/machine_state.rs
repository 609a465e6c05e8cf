//! What a case may not leave behind: mounts, groups, interfaces, processes of pods.

use std::collections::BTreeSet;

/// A list of such things, as words.
pub struct MachineState(BTreeSet<String>);

impl MachineState {
    /// What is there now.
    pub fn read() -> Self {
        let mut found = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.extend(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")));
        for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            found.insert(format!("interface {}", entry.file_name().to_string_lossy()));
        }
        groups(std::path::Path::new("/sys/fs/cgroup"), 0, &mut found);
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
            if uid.is_some_and(|uid| uid >= sandbox::IdRange::default().base) {
                found.insert(format!("process {name}"));
            }
        }
        Self(found)
    }

    /// What is here and not there.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn groups(directory: &std::path::Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth < 6 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // The top one of ours may stay.
            if entry.path().components().any(|part| part.as_os_str() == "gantry") && entry.file_name() != "gantry" {
                found.insert(format!("group {}", entry.path().display()));
            }
            groups(&entry.path(), depth + 1, found);
        }
    }
}
