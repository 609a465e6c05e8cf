//! What a pod could leave behind on this machine, counted.

use std::path::Path;

/// Counts of everything that must be as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    mounts: usize,
    cgroups: usize,
    interfaces: usize,
    processes: usize,
}

/// Counts now.
pub fn count() -> Counts {
    Counts {
        mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
        cgroups: directories(Path::new("/sys/fs/cgroup")),
        interfaces: std::fs::read_dir("/sys/class/net").unwrap().count(),
        processes: processes(),
    }
}

fn directories(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}

/// Processes of users that only exist in pods.
fn processes() -> usize {
    let ids = sandbox::IdRange::default();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let of_pods = entries.filter(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|line| line.split_whitespace().next());
        user.and_then(|user| user.parse::<u32>().ok()).is_some_and(|user| (ids.base..ids.base + ids.size).contains(&user))
    });
    of_pods.count()
}
