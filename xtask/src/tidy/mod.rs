//! The rules of this repository that no compiler checks.
//!
//! `cargo xtask tidy` prints every breach with its place; the test below does the same in `cargo test`, so that a
//! rule cannot be forgotten. Each rule stands in ARCHITECTURE.md or STYLE.md in words.

mod arrows;
pub mod parity;
mod recovery;
mod shape;
mod trees;

use crate::root;
use anyhow::{Result, bail};

/// Every breach of every rule.
pub fn problems() -> Result<Vec<String>> {
    let root = root();
    let mut problems = arrows::problems(&root)?;
    problems.extend(trees::problems(&root)?);
    problems.extend(shape::problems(&root)?);
    problems.extend(crate::chaos::report::problems(&root)?);
    problems.extend(recovery::problems(&root)?);
    problems.extend(parity::problems(&root)?);
    Ok(problems)
}

/// Fails with all breaches.
pub fn check() -> Result<()> {
    let problems = problems()?;
    if problems.is_empty() {
        eprintln!("tidy: all rules hold");
        return Ok(());
    }
    bail!("{} rules broken\n{}", problems.len(), problems.join("\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_keeps_its_rules() {
        let problems = super::problems().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
