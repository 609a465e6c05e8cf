//! The programs in our images: static, and the same whatever directory they are built in.

use super::platform::Platform;
use crate::{agent, cargo, root, run};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// Builds the manager for a platform: the release profile, linked statically, without its 10 MB of symbols.
pub fn gantry(platform: Platform) -> Result<PathBuf> {
    let target = platform.target();
    let mut command = cargo();
    command.args(["build", "--locked", "--package", "cli", "--bin", "gantry", "--release", "--target", target]);
    command.envs(revision().map(|revision| ("GANTRY_REVISION", revision)));
    place_independent(&mut command);
    cross(&mut command, platform)?;
    run(&mut command)?;
    let directory = agent::target_directory().join(target).join("release");
    let stripped = directory.join("gantry.stripped");
    // Not by the profile: that would compile every crate once more for this one program.
    let strip = if platform == Platform::here()? { "strip".to_owned() } else { platform.compiler().replace("-gcc", "-strip") };
    run(Command::new(strip).arg("-o").arg(&stripped).arg(directory.join("gantry")))?;
    Ok(stripped)
}

/// The commit that is checked out, as jobs and GitLab are told it; `None` where there is no repository.
fn revision() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=8", "HEAD"]).current_dir(root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Builds the agent for a platform.
pub fn agent(platform: Platform) -> Result<PathBuf> {
    if platform == Platform::here()? {
        return agent::build();
    }
    let target = platform.target();
    let mut command = cargo();
    command.args(["build", "--locked", "--package", "agent", "--profile", "agent", "--target", target]);
    place_independent(&mut command);
    cross(&mut command, platform)?;
    run(&mut command)?;
    Ok(agent::target_directory().join(target).join("agent/gantry-agent"))
}

/// Leaves the names of this machine's directories out of what is built: panics say where in the sources they come from,
/// and those names would make the digest another one in each checkout. Replaces the user's own flags for the same reason.
pub fn place_independent(command: &mut Command) {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let places = [(root(), "/gantry"), (cargo_home, "/cargo")];
    let flags = |option: &str| {
        let flags: Vec<_> = places.iter().map(|(from, to)| format!("{option}={}={to}", from.display())).collect();
        flags.join(" ")
    };
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("RUSTFLAGS", flags("--remap-path-prefix")).env("CFLAGS", flags("-ffile-prefix-map"));
}

/// Names the C compiler of another machine, which also links.
fn cross(command: &mut Command, platform: Platform) -> Result<()> {
    if platform != Platform::here()? {
        let compiler = platform.compiler();
        let target = platform.target().replace('-', "_");
        command.env(format!("CC_{target}"), compiler);
        command.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase()), compiler);
    }
    Ok(())
}
