//! `cargo xtask demo`: `examples/hello` as a repository of its own, run by `gantry ci`.

use crate::{agent, cargo, root, setup};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Builds all that is needed and runs the example.
pub fn run() -> Result<()> {
    setup::packages()?;
    let agent = agent::build()?;
    run_cargo_build()?;
    if let Some(problem) = setup::pod_problem() {
        bail!("the demo cannot run, because {problem}; try: sudo -E env PATH=\"$PATH\" cargo xtask demo");
    }
    let directory = agent::target_directory().join("demo");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("failed to remove the demo's last run")?;
    }
    std::fs::create_dir_all(&directory)?;
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&directory).args(["-c", "user.name=gantry", "-c", "user.email=demo@localhost"]).args(arguments);
        crate::run(&mut command)
    };
    crate::run(Command::new("cp").arg("-r").arg(format!("{}/.", root().join("examples/hello").display())).arg(&directory))?;
    git(&["init", "--quiet", "--initial-branch=main"])?;
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message=hello"])?;
    let gantry = agent::target_directory().join("debug/gantry");
    let mut command = Command::new(gantry);
    command.arg("ci").env("GANTRY_AGENT", agent).current_dir(&directory);
    let status = command.status().context("failed to start gantry ci")?;
    if !status.success() {
        bail!("gantry ci: {status}");
    }
    Ok(())
}

fn run_cargo_build() -> Result<()> {
    crate::run(cargo().args(["build", "--locked", "--package", "cli"]))
}
