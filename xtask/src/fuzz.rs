//! `cargo xtask fuzz`: broken inputs for some seconds, from the kept ones (`fuzz/src/main.rs`).
//!
//! Built as tests are: arithmetic that overflows is found too, and there is nothing more to compile.

use crate::{cargo, run};
use anyhow::Result;

/// Passes its arguments on.
pub fn main(arguments: &[String]) -> Result<()> {
    run(cargo().args(["run", "--quiet", "--locked", "--package", "fuzz", "--"]).args(arguments))
}
