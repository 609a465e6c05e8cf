//! What a run may not leave behind: directories, groups, interfaces, mounts, processes.
//!
//! Other programs may run pods on this machine at the same time, so what is counted belongs to instances whose
//! directory was seen in our own `/run/gantry`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The directories that are ours alone in these tests.
pub const DIRECTORIES: [&str; 2] = ["/run/gantry", "/var/lib/gantry"];

/// How often new instances are looked for; one lives for a second at least.
const LOOK: Duration = Duration::from_millis(10);

/// Knows all instances that there ever were.
pub struct Watch(Arc<Mutex<BTreeSet<String>>>);

impl Watch {
    /// Begins to look.
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            while Arc::strong_count(&kept) > 1 {
                kept.lock().unwrap().extend(instances());
                std::thread::sleep(LOOK);
            }
        });
        Self(seen)
    }

    /// All that is there now.
    pub fn read(&self) -> BTreeSet<String> {
        let instances = self.0.lock().unwrap().clone();
        read(&instances)
    }

    /// What is still more than `before` when there was time enough.
    pub fn wait_until_as(&self, before: &BTreeSet<String>, within: Duration) -> Vec<String> {
        let begun = Instant::now();
        loop {
            // Children of a killed run became ours; nobody else takes note of their end.
            while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            let left: Vec<_> = self.read().difference(before).cloned().collect();
            if left.is_empty() || begun.elapsed() > within {
                return left;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Instances that are there now.
pub fn instances() -> BTreeSet<String> {
    names(DIRECTORIES[0]).filter(|name| name.len() == 8).collect()
}

/// What these instances have on this machine.
pub fn read(instances: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for directory in [DIRECTORIES[0], "/var/lib/gantry/pods", "/var/lib/gantry/runs"] {
        found.extend(names(directory).filter(|name| name != ".lock").map(|name| format!("directory {directory}/{name}")));
    }
    let ours = |name: &str| {
        let instance = name.strip_prefix("gy").or_else(|| name.strip_prefix("gv"));
        instance.and_then(|instance| instance.get(..8)).is_some_and(|instance| instances.contains(instance))
    };
    found.extend(names("/sys/class/net").filter(|name| ours(name)).map(|name| format!("interface {name}")));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")));
    groups(Path::new("/sys/fs/cgroup"), 0, instances, &mut found);
    found.extend(processes(instances).into_iter().map(|(process, name)| format!("process {process} {name}")));
    found
}

/// Processes in the groups of these instances, with their names.
pub fn processes(instances: &BTreeSet<String>) -> Vec<(String, String)> {
    let base = 1_879_048_192;
    let of = |process: &String| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let groups = read("cgroup");
        let mut part = groups.split(['/', '\n']);
        let in_gantry = part.any(|part| part == "gantry");
        let user =
            read("status").lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
        let astray = !in_gantry && user.is_some_and(|user| user >= base);
        astray || (in_gantry && groups.split(['/', '\n']).any(|part| instances.contains(part)))
    };
    let name = |process: &String| std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim().to_owned();
    let numbers = names("/proc").filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.filter(of).map(|process| (process.clone(), name(&process))).collect()
}

/// Agents of these instances in the containers of this name.
pub fn agents(instances: &BTreeSet<String>, container: &str) -> Vec<rustix::process::Pid> {
    let is_there = |process: &&(String, String)| {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.0)).unwrap_or_default();
        process.1.starts_with("gantry-agent") && groups.lines().any(|line| line.ends_with(&format!("/{container}")))
    };
    let found = processes(instances);
    let numbers = found.iter().filter(is_there).map(|(process, _)| process.parse().unwrap());
    numbers.filter_map(rustix::process::Pid::from_raw).collect()
}

fn groups(directory: &Path, depth: usize, instances: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth < 8 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.path().iter().any(|part| instances.contains(&*part.to_string_lossy())) {
                found.insert(format!("group {}", entry.path().display()));
            }
            groups(&entry.path(), depth + 1, instances, found);
        }
    }
}

fn names(directory: &str) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
