//! What nodes could leave behind on this machine, counted: only what is theirs, because others may run pods meanwhile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the nodes of these tests live. Always the same, so that what a crashed test left is swept by the next one.
pub fn run_dir() -> PathBuf {
    std::env::temp_dir().join("gantry-node-test")
}

/// Names of the nodes that live, or lived and were not swept: their control groups and interfaces bear them.
pub fn instances() -> BTreeSet<String> {
    let entries = std::fs::read_dir(run_dir()).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Counts of everything that must be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    mounts: usize,
    cgroups: usize,
    interfaces: usize,
    processes: usize,
    pods: usize,
}

/// Counts now, of the nodes with these names and of the pods' files below `directory`.
pub fn count(names: &BTreeSet<String>, directory: &Path) -> Counts {
    let theirs = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
    let interfaces = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let pods = std::fs::read_dir(directory.join("data/pods")).into_iter().flatten().flatten();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = [directory.to_path_buf(), run_dir()];
    let in_place = |line: &&str| places.iter().any(|place| line.contains(&*place.to_string_lossy()));
    Counts {
        mounts: mounts.lines().filter(in_place).count(),
        cgroups: directories(Path::new("/sys/fs/cgroup")).iter().filter(|path| theirs(&path.to_string_lossy())).count(),
        interfaces: interfaces.filter(|entry| theirs(&entry.file_name().to_string_lossy())).count(),
        processes: children(),
        pods: pods.filter(|entry| entry.path().is_dir()).count(),
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.flat_map(|entry| directories(&entry.path()).into_iter().chain([entry.path()])).collect()
}

/// Children of this process: it is the parent of everything that its pods leave.
fn children() -> usize {
    let me = format!("PPid:\t{}", std::process::id());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mine = entries.filter(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line == me)
    });
    mine.count()
}
