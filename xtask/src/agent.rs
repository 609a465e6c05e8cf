//! The static agent: musl where the target can be had, glibc linked statically where not.
//!
//! musl first, because its binary needs no `/dev` and carries no name service loading (measured; see the notes on
//! the agent in ARCHITECTURE.md).

use crate::{cargo, image, root, run};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";
const GLIBC: &str = "x86_64-unknown-linux-gnu";
/// The agent is copied into every pod; see the numbers to reach in ARCHITECTURE.md.
const MAX_BYTES: u64 = 8 * 1000 * 1000;

/// Builds the agent and returns where it lies: `target/agent/gantry-agent`.
pub fn build() -> Result<PathBuf> {
    let target = target_directory();
    let triple = if has_musl() { MUSL } else { GLIBC };
    let mut command = cargo();
    command.args(["build", "--locked", "--package", "agent", "--profile", "agent", "--target", triple]);
    if triple == GLIBC {
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    } else {
        image::place_independent(&mut command);
    }
    run(&mut command)?;
    let built = target.join(triple).join("agent/gantry-agent");
    let kept = target.join("agent/gantry-agent");
    std::fs::create_dir_all(target.join("agent"))?;
    let fresh = kept.with_extension("new");
    std::fs::copy(&built, &fresh).with_context(|| format!("failed to copy {}", built.display()))?;
    std::fs::rename(&fresh, &kept)?;
    let bytes = std::fs::metadata(&kept)?.len();
    eprintln!("agent: {triple}, static, {bytes} bytes, {}", kept.display());
    if bytes > MAX_BYTES {
        bail!("the agent has {bytes} bytes, more than its budget of {MAX_BYTES}");
    }
    Ok(kept)
}

/// Where cargo puts what it builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |directory| root().join(directory))
}

fn has_musl() -> bool {
    if image::has_target(MUSL) {
        return true;
    }
    eprintln!("+ rustup target add {MUSL}");
    let added = Command::new("rustup").args(["target", "add", MUSL]).status().is_ok_and(|status| status.success());
    added && image::has_target(MUSL)
}
