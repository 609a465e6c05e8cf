//! Finds the static agent that travels into the pods of this machine.
//!
//! Looked for in `GANTRY_AGENT`, then beside this program, then where `cargo xtask agent` leaves it. It must be
//! static, because it runs in images of every kind; a binary with an interpreter is passed over and named.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Environment variable that names the agent.
pub const VARIABLE: &str = "GANTRY_AGENT";

/// Where the agent is.
///
/// # Errors
/// When no static agent is found; the message says where was looked.
pub fn find() -> Result<PathBuf> {
    let mut looked = Vec::new();
    for candidate in candidates() {
        let verdict = match std::fs::read(&candidate) {
            Err(_) => "not there",
            Ok(bytes) if is_static_elf(&bytes) => return Ok(candidate),
            Ok(_) => "not a static program",
        };
        looked.push(format!("{} ({verdict})", candidate.display()));
    }
    bail!("no gantry-agent found: {}; build it with `cargo xtask agent` or name it in {VARIABLE}", looked.join(", "))
}

fn candidates() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return vec![PathBuf::from(named)];
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(Path::new("/"));
    vec![beside.join("gantry-agent"), beside.join("../agent/gantry-agent")]
}

/// Whether `bytes` are a 64-bit little-endian ELF program without an interpreter (`PT_INTERP`, type 3).
fn is_static_elf(bytes: &[u8]) -> bool {
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|slice| usize::from(u16::from_le_bytes([slice[0], slice[1]])));
    let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).map(u64::from_le_bytes);
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(start), Some(size), Some(count)) = (u64_at(32).and_then(|at| usize::try_from(at).ok()), u16_at(54), u16_at(56))
    else {
        return false;
    };
    let types = (0..count).map(|index| start.checked_add(index * size).and_then(|at| bytes.get(at..at.checked_add(4)?)));
    types.into_iter().all(|kind| kind.is_some_and(|kind| kind != 3u32.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::is_static_elf;

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert!(!is_static_elf(&shell));
        assert!(!is_static_elf(b"#!/bin/sh"));
        assert!(!is_static_elf(&shell[..40]));
    }
}
