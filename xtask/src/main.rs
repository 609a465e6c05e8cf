//! Chores of this repository: `cargo xtask COMMAND`.
//!
//! One place for them, so that a developer's machine and CI run the same commands.

mod agent;
mod bench;
mod chaos;
mod cluster;
mod demo;
mod e2e;
mod fuzz;
mod image;
mod setup;
mod sim;
mod tidy;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "usage: cargo xtask COMMAND

  check    what a change must pass before it lands: fmt, clippy, the rules of tidy
  test     all tests
  demo     runs examples/hello through gantry ci
  agent    builds the static agent into target/agent/gantry-agent
  cluster  a real Kubernetes of one node on this machine: up, down, and more (cluster --help)
  e2e      the scenarios, on the embedded node and on a cluster (e2e --help)
  chaos    jobs under kills and outages, of which none may be lost (chaos --help)
  image    gantry's own images and those for tests, as OCI layouts in target/images
  bench    the benchmark: any runner beside any other, and managers at scale (bench --help)
  sim      the manager in virtual time, with seeded faults (sim --help)
  fuzz     broken inputs for whatever reads foreign bytes: --seconds N (60 for each target), TARGET…
  parity   writes docs/parity.md from docs/parity/*.tsv
  tidy     the rules of this repository alone";

fn main() -> Result<()> {
    let command = std::env::args().nth(1).unwrap_or_default();
    match command.as_str() {
        "check" => check(),
        "test" => test(),
        "agent" => setup::packages().and_then(|()| agent::build()).map(|_| ()),
        "demo" => demo::run(),
        "image" => image::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        "cluster" => cluster::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "e2e" => e2e::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "fuzz" => fuzz::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "chaos" => chaos::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "bench" => bench::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "sim" => sim::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        "parity" => tidy::parity::write(&root()),
        "tidy" => tidy::check(),
        _ => bail!("{USAGE}"),
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Runs a command in the root and fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    eprintln!("+ {shown}");
    let status = command.current_dir(root()).status().with_context(|| format!("failed to start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// The cargo that runs us.
///
/// What `cargo run` tells us about our own package is not passed on: build scripts that watch such variables would run
/// again, and much with them, whenever a command is now started by hand and now by us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

fn check() -> Result<()> {
    setup::packages()?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    tidy::check()?;
    if Command::new("cargo-deny").arg("--version").output().is_ok() {
        run(cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences were not checked (cargo install --locked cargo-deny)");
    }
    Ok(())
}

fn test() -> Result<()> {
    e2e::prepared(true, |agent| {
        run(cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]).env("GANTRY_AGENT", agent))?;
        chaos::short(agent)
    })
}
