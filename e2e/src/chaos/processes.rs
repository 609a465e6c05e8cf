//! Processes of this machine: what they use, and which of them belongs to which pod.
//!
//! Pods are found by their control group, which holds the pod's uid on the node and below a kubelet alike.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory in use, in KiB.
    pub rss_kib: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
}

/// Looks at a process; `None` when it has ended.
pub fn usage(pid: u32) -> Option<Usage> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let fds = std::fs::read_dir(directory.join("fd")).ok()?.count() as u64;
    Some(Usage { rss_kib: field("VmRSS:")?, fds, threads: field("Threads:")? })
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process"))?;
    kill_process(raw, signal).with_context(|| format!("failed to signal process {pid}"))
}

/// The process of a pod that runs this part (`run` or `serve`) of the agent.
pub fn agent_of_pod(uid: &str, part: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_part(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), part))
        .find(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(uid)))
}

fn is_part(command_line: &[u8], part: &str) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().map(String::from_utf8_lossy).unwrap_or_default();
    Path::new(program.as_ref()).file_name().is_some_and(|name| name == "gantry-agent")
        && words.next().is_some_and(|word| word == part.as_bytes())
}

/// The process that looks after a container: the parent of its first process.
pub fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok().filter(|parent| *parent > 1)
}

/// The name of a process's program.
pub fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{is_part, parent, usage};

    #[test]
    fn this_process_has_a_size_and_a_parent() {
        let found = usage(std::process::id()).unwrap();
        assert!(found.rss_kib > 0 && found.fds > 0 && found.threads > 0, "{found:?}");
        assert!(parent(std::process::id()).is_some());
        assert_eq!(usage(u32::MAX - 1), None);
    }

    #[test]
    fn an_agent_is_known_by_its_words() {
        assert!(is_part(b"/usr/bin/gantry-agent\0run\0", "run"));
        assert!(!is_part(b"/usr/bin/gantry-agent\0serve\0", "run"));
        assert!(!is_part(b"sh\0-c\0gantry-agent run\0", "run"));
        assert!(!is_part(b"", "run"));
    }
}
