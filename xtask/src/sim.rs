//! `cargo xtask sim`: builds the simulation and plays seeds with the rest of the arguments.

use crate::{cargo, run};
use anyhow::Result;

/// Builds, and plays.
pub fn main(words: &[String]) -> Result<()> {
    run(cargo().args(["run", "--locked", "--profile", "sim", "--package", "sim", "--"]).args(words))
}
