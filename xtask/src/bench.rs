//! `cargo xtask bench`: release builds of what is measured, then the benchmark with the rest of the arguments.
//!
//! Where nothing else is named, gantry is measured on the cluster of `cargo xtask cluster`, with the helper image that was
//! just built there.

use crate::{agent, cargo, cluster, image, root, run, setup};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const HELPER: &str = concat!("gantry.helper_image=docker.io/library/gantry-helper:", env!("CARGO_PKG_VERSION"));

/// Builds, and runs the benchmark.
pub fn main(words: &[String]) -> Result<()> {
    setup::packages()?;
    // Found missing before minutes of building.
    let named = std::env::var_os("KUBECONFIG").is_some() || asks_only(words);
    let own = if named { None } else { Some(own_cluster()?) };
    run(cargo().args(["build", "--release", "--locked", "--package", "cli", "--package", "bench"]))?;
    let release = agent::target_directory().join("release");
    let mut command = Command::new(release.join("bench"));
    command.args(words);
    if !names(words, "--runner") {
        let template = root().join("bench/config/gantry.toml");
        command.arg(format!("--runner=gantry={}:{}", release.join("gantry").display(), template.display()));
    }
    if let Some(kubeconfig) = own {
        image::test_images()?;
        cluster::main(&["images".to_owned()])?;
        let audit_log = kubeconfig.with_file_name("log").join("audit.json");
        if !names(words, "--audit-log") && audit_log.exists() {
            command.arg("--audit-log").arg(audit_log);
        }
        if !words.iter().any(|word| word.contains("gantry.helper_image=")) {
            command.args(["--set", HELPER]);
        }
        command.env("KUBECONFIG", kubeconfig);
    }
    run(&mut command)
}

fn names(words: &[String], option: &str) -> bool {
    words.iter().any(|word| word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
}

/// Whether nothing is wanted that needs a cluster.
fn asks_only(words: &[String]) -> bool {
    let is_help = words.iter().any(|word| word == "--help" || word == "-h");
    let spelled_apart = words.windows(2).any(|pair| pair[0] == "--only" && pair[1] == "scale");
    is_help || spelled_apart || words.iter().any(|word| word == "--only=scale")
}

/// The kubeconfig of `cargo xtask cluster`, which must be up.
fn own_cluster() -> Result<PathBuf> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let output = Command::new(program).args(["cluster", "kubeconfig"]).output().context("failed to ask for the cluster")?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    anyhow::ensure!(output.status.success() && Path::new(&path).exists(), "no cluster: name one in KUBECONFIG, or {why}");
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::{asks_only, names};

    #[test]
    fn options_are_found_in_both_spellings() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names(&words("--runner a"), "--runner") && names(&words("--runner=a"), "--runner"));
        assert!(!names(&words("--runners a"), "--runner"));
        assert!(asks_only(&words("--only scale")) && asks_only(&words("--only=scale")) && !asks_only(&words("--only log,scale")));
    }
}
