//! What the whole dependency tree of a crate must not hold.
//!
//! Pure crates have no runtime, no HTTP and no Kubernetes client below them; the agent, which travels into every
//! pod, has no Kubernetes and no web server.

use crate::cargo;
use anyhow::{Context, Result, bail};
use std::path::Path;

const RUNTIME: [&str; 7] = ["tokio", "async-std", "smol", "hyper", "reqwest", "axum", "kube"];
const IN_POD: [&str; 3] = ["kube", "axum", "k8s-openapi"];
const NOWHERE: [&str; 4] = ["openssl", "openssl-sys", "aws-lc-rs", "aws-lc-sys"];

/// Every crate found where it must not be.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (package, banned) in
        [("job", &RUNTIME[..]), ("pod-spec", &RUNTIME), ("ci-yaml", &RUNTIME), ("runner-config", &RUNTIME), ("agent", &IN_POD)]
    {
        if root.join("crates").join(package).exists() {
            let tree = tree(root, package)?;
            problems.extend(breaches(package, &tree, banned));
        }
    }
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("failed to read Cargo.lock")?;
    let locked = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    problems.extend(locked.filter(|name| NOWHERE.contains(name)).map(|name| format!("Cargo.lock: {name} is banned")));
    Ok(problems)
}

fn breaches(package: &str, tree: &str, banned: &[&str]) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<_> = names.filter(|name| banned.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|name| format!("crates/{package}: {name} is in its dependency tree")).collect()
}

fn tree(root: &Path, package: &str) -> Result<String> {
    let output = cargo()
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"])
        .current_dir(root)
        .output()
        .context("failed to start cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree of {package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("cargo tree printed no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::breaches;

    #[test]
    fn a_banned_crate_deep_in_the_tree_is_reported_once() {
        let tree = "job v0.1.0\nthiserror v2\ntokio v1.54.1\ntokio v1.54.1 (*)\n";
        assert_eq!(breaches("job", tree, &["tokio"]), ["crates/job: tokio is in its dependency tree"]);
    }
}
