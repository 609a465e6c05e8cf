//! `cargo xtask chaos`: builds what is killed, then runs the suite of `e2e` with the rest of the arguments.

pub mod report;

use crate::{agent, cargo, e2e, run, setup};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// The short form, which every test run does: about two minutes.
const SHORT: [&str; 8] = ["--kills", "24", "--jobs", "60", "--trouble", SHORT_TROUBLE, "--running", "10"];
const SHORT_TROUBLE: &str = "manager-kill,manager-kill,manager-kill,agent-kill,shim-kill,coordinator-kill";

/// Runs the suite, or writes the report.
pub fn main(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == "--report") {
        return report::write();
    }
    if words.iter().any(|word| word == "--help" || word == "-h") {
        run(cargo().args(["run", "--quiet", "--locked", "--package", "e2e", "--bin", "chaos", "--", "--help"]))?;
        println!("\nWith --report docs/reliability.md is made of the results in e2e/chaos/results.");
        return Ok(());
    }
    let is_cluster = |pair: &[String]| pair == ["--target", "cluster"];
    let with_cluster = words.windows(2).any(is_cluster) || words.iter().any(|word| word == "--target=cluster");
    e2e::prepared(with_cluster, |agent| suite(agent, words))
}

/// The short form on the node, where this machine can have one.
pub fn short(agent: &Path) -> Result<()> {
    match setup::pod_problem() {
        Some(why) => {
            eprintln!("chaos: skipped, because {why}");
            Ok(())
        }
        None => suite(agent, &SHORT.map(str::to_owned)),
    }
}

fn suite(agent: &Path, words: &[String]) -> Result<()> {
    run(cargo().args(["build", "--locked", "--package", "e2e", "--bin", "chaos"]))?;
    let built = agent::target_directory().join("debug");
    run(Command::new(built.join("chaos")).args(words).env("GANTRY_AGENT", agent))
}
