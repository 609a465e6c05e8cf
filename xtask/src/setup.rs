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

/// Installs what is missing.
pub fn packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
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
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(missing);
    apt(&install)
}

fn is_root() -> bool {
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
