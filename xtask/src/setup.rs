//! What a fresh Debian or Ubuntu lacks: packages, installed by name when missing.

use crate::run;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A file that shows a package is there, and the package.
const PACKAGES: [(&str, &str); 6] = [
    ("/usr/bin/git", "git"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/musl-gcc", "musl-tools"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/bin/python3", "python3"),
];

/// What the cluster needs besides.
const CLUSTER_PACKAGES: [(&str, &str); 9] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/bin/openssl", "openssl"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
];

/// What runc is built with: pods under the `restricted` profile need its seccomp filter.
const RUNC_PACKAGES: [(&str, &str); 3] =
    [("/usr/bin/cc", "gcc"), ("/usr/include/seccomp.h", "libseccomp-dev"), ("/usr/bin/pkg-config", "pkg-config")];

/// What images need.
const IMAGE_PACKAGES: [(&str, &str); 3] =
    [("/usr/bin/musl-gcc", "musl-tools"), ("/usr/bin/mmdebstrap", "mmdebstrap"), ("/bin/busybox", "busybox-static")];

/// Installs what is missing of what the checks and tests need.
pub fn packages() -> Result<()> {
    install(&PACKAGES)
}

/// Installs what is missing of what the cluster and its images need.
pub fn cluster_packages() -> Result<()> {
    install(&CLUSTER_PACKAGES)
}

/// Installs what is missing of what containerd 2 and its runc are built with.
pub fn containerd_packages() -> Result<()> {
    install(&RUNC_PACKAGES)
}

/// Installs what is missing of what images need.
pub fn image_packages() -> Result<()> {
    install(&IMAGE_PACKAGES)
}

fn install(packages: &[(&str, &'static str)]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("please install {}: there is no apt-get here to do it", missing.join(", "));
    }
    let mut prefix = vec![];
    if !is_root() {
        prefix.push("sudo");
    }
    let apt = |arguments: &[&str]| {
        let words: Vec<_> = prefix.iter().copied().chain(["apt-get"]).chain(arguments.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
        run(&mut command)
    };
    apt(&["update", "-qq"])?;
    let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
    words.extend(missing);
    apt(&words)
}

pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0")))
}

/// Why pods cannot run here, if they cannot.
pub fn pod_problem() -> Option<String> {
    if !is_root() {
        return Some("pods need root".to_owned());
    }
    match Command::new("unshare").args(["--mount", "--net", "--user", "true"]).status() {
        Ok(status) if status.success() => None,
        _ => Some("this machine does not allow new namespaces".to_owned()),
    }
}
