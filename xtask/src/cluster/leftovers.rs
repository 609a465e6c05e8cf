//! What pods leave when their kubelet is gone: processes, cgroups and mounts; found by our cgroup's and our state's names.

use super::paths::{NETWORK, Paths};
use super::process::{await_for, quietly};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The pods' cgroup in each hierarchy. The kubelet wants it to exist.
pub fn make_cgroups() -> Result<()> {
    for cgroup in cgroups() {
        fs::create_dir_all(&cgroup).with_context(|| format!("failed to make {}", cgroup.display()))?;
    }
    Ok(())
}

/// Ends what still runs in the pods' cgroups and every shim of our containerd, then removes the cgroups and the mounts.
pub fn remove(paths: &Paths) -> Result<()> {
    await_for("the end of the pods' processes", 20, || {
        let mut alive = shims(paths);
        for cgroup in cgroups() {
            for directory in below(&cgroup) {
                let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                alive.extend(members.lines().map(str::to_owned).filter(|pid| pid != "0"));
            }
        }
        if !alive.is_empty() {
            // What ended by itself in between makes kill fail, which is no failure.
            let _ = quietly(Command::new("sh").args(["-c", "kill -KILL \"$@\"", "sh"]).args(&alive));
        }
        Ok(alive.is_empty())
    })?;
    for cgroup in cgroups() {
        // The deepest first; a cgroup can be removed only when it is empty, and the kernel may need a moment for that.
        for directory in below(&cgroup) {
            await_for(&format!("the removal of {}", directory.display()), 10, || {
                Ok(fs::remove_dir(&directory).is_ok() || !directory.exists())
            })?;
        }
    }
    unmount(&paths.state)
}

/// Every mount at or below the directory, the last one first.
fn unmount(state: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("failed to read the mounts")?;
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(target).starts_with(state) {
            quietly(Command::new("umount").args(["--lazy", target]))?;
        }
    }
    Ok(())
}

/// Our cgroup in each hierarchy of version 1, or in the one of version 2.
fn cgroups() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.join(NETWORK)];
    }
    let mut all: Vec<_> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        // Links such as `cpu` to `cpu,cpuacct` name the same hierarchy twice.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|hierarchy| hierarchy.join("cgroup.procs").exists())
        .map(|hierarchy| hierarchy.join(NETWORK))
        .collect();
    all.sort();
    all
}

/// The directory and all below it, children before their parents.
fn below(directory: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(directory)
        .contents_first(true)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// The ids of containerd's shims for our socket: they outlive containerd, and hold the pods' mounts.
fn shims(paths: &Paths) -> Vec<String> {
    let socket = paths.socket().display().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_to_string(entry.path().join("cmdline")).ok()?)))
        .filter(|(pid, line)| pid.parse::<u32>().is_ok() && is_shim(line, &socket))
        .map(|(pid, _)| pid)
        .collect()
}

fn is_shim(command_line: &str, socket: &str) -> bool {
    let words: Vec<_> = command_line.split('\0').collect();
    words[0].contains("containerd-shim") && words.windows(2).any(|pair| pair[0] == "-address" && pair[1] == socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_of_another_containerd_is_not_ours() {
        let line = |socket: &str| format!("/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0ab\0-address\0{socket}\0");
        assert!(is_shim(&line("/s/containerd.sock"), "/s/containerd.sock"));
        assert!(!is_shim(&line("/run/containerd/containerd.sock"), "/s/containerd.sock"));
        assert!(!is_shim("vi\0-address\0/s/containerd.sock\0", "/s/containerd.sock"));
    }
}
