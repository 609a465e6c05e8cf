//! Where everything of the cluster lies, and its fixed names and addresses.
//!
//! The state lies outside `target/`: `cargo clean` must not pull the floor from under a running kubelet. Addresses are fixed, as
//! one machine has room for one such cluster only: kubelet, kube-proxy and the bridge share its ports, chains and names.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the pods' network, of the cgroup above theirs, and of the containerd label of what we made.
pub const NETWORK: &str = "gantry-cluster";
pub const BRIDGE: &str = "kube0";
/// The host as pods see it, and the node's address.
pub const HOST: &str = "10.244.0.1";
pub const PODS: &str = "10.244.0.0/16";
pub const SERVICES: &str = "10.96.0.0/16";
pub const NODE: &str = "node-1";
/// The image of every pod's sandbox.
pub const PAUSE: &str = "gantry.test/pause:1";

/// The state directory: `/var/lib/gantry-cluster`, or what `GANTRY_CLUSTER_DIR` says.
#[derive(Clone, Debug)]
pub struct Paths {
    pub state: PathBuf,
}

impl Paths {
    pub fn new() -> Result<Self> {
        let state =
            std::env::var_os("GANTRY_CLUSTER_DIR").map_or_else(|| PathBuf::from("/var/lib/gantry-cluster"), PathBuf::from);
        if !state.is_absolute() || state.components().count() < 3 {
            bail!("GANTRY_CLUSTER_DIR has to be an absolute path below another directory, not {}", state.display());
        }
        if state.to_str().is_none_or(|text| text.chars().any(|c| c.is_whitespace() || c == '"' || c == '\\' || c == '@')) {
            bail!("GANTRY_CLUSTER_DIR has characters that configuration files would have to quote: {}", state.display());
        }
        Ok(Self { state })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.conf")
    }

    /// What a component wrote to its standard output and error.
    pub fn log(&self, component: &str) -> PathBuf {
        self.state.join("log").join(component)
    }

    /// The API server's audit log.
    pub fn audit_log(&self) -> PathBuf {
        self.log("audit.json")
    }

    /// A component's process: its id and, as second word, when the kernel started it.
    pub fn pid(&self, component: &str) -> PathBuf {
        self.state.join("pids").join(component)
    }

    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    pub fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }

    /// A configuration file that `up` writes from a template.
    pub fn config(&self, file: &str) -> PathBuf {
        self.state.join("config").join(file)
    }

    /// A path below the state as text; `new` made sure that it is.
    pub fn text(&self, below: &str) -> String {
        format!("{}/{below}", self.state.display())
    }

    pub fn make_directories(&self) -> Result<()> {
        // containerd would make its own for root alone, and then a pod in a user namespace does not reach its own root.
        for directory in ["pki", "log", "pids", "config", "cni", "plugins", "containerd-1", "containerd-2"] {
            let path = self.state.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes the directories and waits until no other command works on this state. The lock ends with the file.
    pub fn lock(&self) -> Result<File> {
        self.make_directories()?;
        let path = self.state.join("lock");
        loop {
            let file = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
            if file.try_lock().is_err() {
                eprintln!("waiting for another command on {}", self.state.display());
                file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
            }
            // A purge may have removed the file while we waited for it.
            if fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
                return Ok(file);
            }
            self.make_directories()?;
        }
    }
}

/// What is made once and kept by version: `${XDG_CACHE_HOME:-$HOME/.cache}/gantry`.
pub fn cache() -> PathBuf {
    cache_from(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from), std::env::var_os("HOME").map(PathBuf::from))
}

fn cache_from(xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let given = |path: &PathBuf| path.is_absolute();
    if let Some(xdg) = xdg.filter(given) {
        return xdg.join("gantry");
    }
    home.filter(given).map_or_else(|| PathBuf::from("/var/cache/gantry"), |home| home.join(".cache/gantry"))
}

/// Fills a template: `@name@` becomes the value. A name without a value is an error, so that no placeholder reaches a component.
pub fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut filled = String::with_capacity(template.len());
    for line in template.lines() {
        let mut line = line.to_owned();
        for (name, value) in values {
            line = line.replace(&format!("@{name}@"), value);
        }
        if line.contains('@') {
            bail!("a template has a placeholder without a value: {}", line.trim());
        }
        filled.push_str(&line);
        filled.push('\n');
    }
    Ok(filled)
}

/// Writes a file so that a reader sees the old or the new one, never half of it.
pub fn write(path: &Path, content: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).with_context(|| format!("failed to write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("failed to write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_everywhere() {
        assert_eq!(fill("a: @x@/@x@\nb: @y@\n", &[("x", "1"), ("y", "2")]).unwrap(), "a: 1/1\nb: 2\n");
    }

    #[test]
    fn a_placeholder_without_a_value_is_an_error() {
        let error = fill("a: @state@/etcd", &[("x", "1")]).unwrap_err();
        assert!(error.to_string().contains("@state@"), "{error}");
    }

    #[test]
    fn the_cache_follows_xdg_then_home_then_the_system() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(cache_from(path("/x"), path("/h")), PathBuf::from("/x/gantry"));
        assert_eq!(cache_from(None, path("/h")), PathBuf::from("/h/.cache/gantry"));
        assert_eq!(cache_from(path("relative"), None), PathBuf::from("/var/cache/gantry"));
    }
}
