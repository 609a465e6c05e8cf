//! What every test on pods needs, and the scenarios by themselves.

use crate::{agent, cargo, cluster, run, setup};
use anyhow::{Result, bail};
use std::path::Path;

const USAGE: &str = "usage: cargo xtask e2e [--target node|cluster] [NAME…]

Plays e2e/scenarios (those whose name holds NAME) on the embedded node and on a cluster that is started for it,
then the tests of a whole cluster. Files of a scenario that failed are kept, and named.";

/// Plays the scenarios; without arguments all tests of the package.
pub fn main(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    let without_cluster = words.windows(2).any(|pair| pair == ["--target", "node"]);
    prepared(!without_cluster, |agent| {
        let mut command = cargo();
        command.args(["test", "--locked", "--package", "e2e"]).env("GANTRY_AGENT", agent);
        if !words.is_empty() {
            command.args(["--test", "scenarios", "--"]).args(words);
        }
        run(&mut command)
    })
}

/// Runs something with the agent's place, with the program and the images built and, where this machine can have one, a cluster up. A cluster
/// that was not up before is down again afterwards.
pub fn prepared(with_cluster: bool, then: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    setup::packages()?;
    let agent = agent::build()?;
    run(cargo().args(["build", "--locked", "--package", "cli"]))?;
    match setup::pod_problem().filter(|_| with_cluster) {
        Some(why) => eprintln!("no cluster is started, because {why}"),
        None if with_cluster => return with_a_cluster(|| then(&agent)),
        None => {}
    }
    then(&agent)
}

fn with_a_cluster(then: impl FnOnce() -> Result<()>) -> Result<()> {
    let was_up = cluster::is_up()?;
    let up = cluster::main(&["up".to_owned()]);
    let done = up.and_then(|()| then());
    if was_up {
        return done;
    }
    match (done, cluster::main(&["purge".to_owned()])) {
        (Err(failed), Err(leaves)) => bail!("{failed:#}; and the cluster could not be ended: {leaves:#}"),
        (done, down) => done.and(down),
    }
}
