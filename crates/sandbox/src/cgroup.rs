//! Control groups: `/gantry/<instance>/<pod>/<container>` in every hierarchy of this machine, version 1 or 2.
//!
//! The runtime library writes the limits; we make the groups before (so that a container can be shown its own) and
//! remove them after. A group is removed bottom-up, because the kernel has no recursive way.

use crate::Error;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Top of everything we make.
const TOP: &str = "gantry";
/// How long processes may take to vanish after SIGKILL.
const GONE: Duration = Duration::from_secs(10);

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    /// Mount points of version 1, each with its controllers' names.
    v1: Vec<(PathBuf, String)>,
    /// Mount point of version 2, when it is the one that holds the controllers.
    v2: Option<PathBuf>,
}

/// How this machine limits swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    /// One limit for memory and swap together (version 1).
    Together,
    /// A limit of its own (version 2).
    Apart,
    /// Not at all, or it has none.
    Unlimited,
}

impl Cgroups {
    /// Finds them.
    pub(crate) fn find() -> Result<Self, Error> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::system("read /proc/self/mountinfo"))?;
        let found = Self::parse(&text);
        if found.v1.is_empty() && found.v2.is_none() { Err(Error::NoCgroups) } else { Ok(found) }
    }

    fn parse(mountinfo: &str) -> Self {
        let (mut v1, mut v2) = (Vec::new(), None);
        for line in mountinfo.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else { continue };
            // Field 4 is what of the hierarchy is mounted: a part of it is what a container is shown.
            let mut fields = mount.split(' ').skip(3);
            let (Some("/"), Some(point)) = (fields.next(), fields.next()) else { continue };
            let kind: Vec<_> = kind.split(' ').collect();
            let point = PathBuf::from(point);
            let name = point.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match kind.first() {
                Some(&"cgroup") if !v1.iter().any(|(known, _)| *known == point) => v1.push((point, name)),
                Some(&"cgroup2") => v2 = Some(point),
                _ => {}
            }
        }
        // In a hybrid machine version 2 holds no controllers.
        Self { v2: v2.filter(|_| v1.is_empty()), v1 }
    }

    /// Roots of all hierarchies.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(point, _)| point.as_path()).chain(self.v2.as_deref())
    }

    /// The path below each root, as the OCI specification takes it.
    pub(crate) fn path(parts: &[&str]) -> String {
        let mut path = format!("/{TOP}");
        for part in parts {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    /// Makes a container's group in every hierarchy and answers what to show the container: directory and name below
    /// `/sys/fs/cgroup` (empty for version 2).
    pub(crate) fn make(&self, path: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        let relative = path.trim_start_matches('/');
        let mut made = Vec::new();
        for (root, name) in self.v1.iter().map(|(point, name)| (point, name.clone())) {
            let directory = root.join(relative);
            std::fs::create_dir_all(&directory).map_err(Error::path("make control group", &directory))?;
            if name == "cpuset" {
                inherit_cpuset(root, relative);
            }
            made.push((directory, name));
        }
        if let Some(root) = &self.v2 {
            let directory = root.join(relative);
            std::fs::create_dir_all(&directory).map_err(Error::path("make control group", &directory))?;
            made.push((directory, String::new()));
        }
        Ok(made)
    }

    /// How swap is limited. The files exist only where the kernel counts swap.
    pub(crate) fn swap(&self) -> Swap {
        match &self.v2 {
            Some(_) if Path::new("/proc/swaps").exists() => Swap::Apart,
            Some(_) => Swap::Unlimited,
            None => {
                let memory = self.v1.iter().find(|(_, name)| name == "memory");
                let counts = memory.is_some_and(|(root, _)| root.join("memory.memsw.limit_in_bytes").exists());
                if counts { Swap::Together } else { Swap::Unlimited }
            }
        }
    }

    /// Files to write a process id to, so that it joins the group.
    pub(crate) fn procs(&self, path: &str) -> Vec<PathBuf> {
        let relative = path.trim_start_matches('/');
        self.roots().map(|root| root.join(relative).join("cgroup.procs")).filter(|file| file.exists()).collect()
    }

    /// How often the kernel killed something in the group for lack of memory.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let relative = path.trim_start_matches('/');
        let file = match &self.v2 {
            Some(root) => root.join(relative).join("memory.events"),
            None => match self.v1.iter().find(|(_, name)| name == "memory") {
                Some((root, _)) => root.join(relative).join("memory.oom_control"),
                None => return 0,
            },
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Kills everything below a path and removes the groups; answers the processes and how many groups there were.
    pub(crate) fn remove(&self, path: &str) -> Result<(BTreeSet<i32>, usize), Error> {
        let relative = path.trim_start_matches('/');
        let (mut processes, mut groups) = (BTreeSet::new(), 0);
        let deadline = Instant::now() + GONE;
        for root in self.roots() {
            let top = root.join(relative);
            loop {
                let alive = kill_below(&top);
                processes.extend(alive.iter().copied());
                match remove_below(&top, &mut groups) {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => return Err(Error::path("remove control group", &top)(error)),
                    // A killed process leaves its group a moment later.
                    Err(_busy) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }
        Ok((processes, groups))
    }
}

/// Version 1 gives a new cpuset nothing, and a process cannot join it then.
fn inherit_cpuset(root: &Path, relative: &str) {
    let mut directory = root.to_path_buf();
    for part in relative.split('/') {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
            if own.trim().is_empty()
                && let Ok(inherited) = std::fs::read_to_string(parent.join(file))
            {
                let _ = std::fs::write(directory.join(file), inherited.trim());
            }
        }
    }
}

fn kill_below(top: &Path) -> Vec<i32> {
    let mut killed = Vec::new();
    for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            killed.extend(kill_below(&entry.path()));
        }
    }
    let text = std::fs::read_to_string(top.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
        if let Some(process) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            killed.push(pid);
        }
    }
    killed
}

fn remove_below(top: &Path, count: &mut usize) -> io::Result<()> {
    let entries = match std::fs::read_dir(top) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path(), count)?;
        }
    }
    match std::fs::remove_dir(top) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            *count += 1;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cgroups;

    #[test]
    fn version_2_counts_only_where_it_stands_alone() {
        let hybrid = "30 27 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 27 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::parse(hybrid);
        assert_eq!((found.v1.len(), found.v2), (1, None));
        let unified = "30 27 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Cgroups::parse(unified).v2.unwrap(), std::path::Path::new("/sys/fs/cgroup"));
    }
}
