//! The pods' network on this machine: a bridge before the start, and what is to be removed after the end.
//!
//! What is left over is removed by its own names, rule by rule, never by restoring a saved table: other programs' rules may have
//! changed in between.

use super::paths::{BRIDGE, HOST, NETWORK};
use super::process::quietly;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the CNI library notes what it made for which pod.
const RESULTS: &str = "/var/lib/cni/results";

/// The bridge's link-layer address, as the CNI plugin would derive it from [`HOST`].
const MAC: &str = "0a:58:0a:f4:00:01";

/// Makes the bridge and lets packets pass.
pub fn make() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("failed to allow the forwarding of packets")?;
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        quietly(Command::new("ip").args(["link", "add", BRIDGE, "type", "bridge"]))?;
    }
    // A bridge without an address of its own takes the lowest of its ports', and pods that know the old one lose the host.
    quietly(Command::new("ip").args(["link", "set", BRIDGE, "address", MAC]))?;
    // Both say nothing new where a killed `up` has been before.
    quietly(Command::new("ip").args(["address", "replace", &format!("{HOST}/16"), "dev", BRIDGE]))?;
    quietly(Command::new("ip").args(["link", "set", BRIDGE, "up"]))?;
    Ok(())
}

/// Removes the pods' network namespaces, with them their veth pairs, then the bridge and the rules.
pub fn remove() -> Result<()> {
    for entry in fs::read_dir(RESULTS).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{NETWORK}-")) {
            let result: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap_or_default()).unwrap_or_default();
            if let Some(namespace) = result["netns"].as_str().map(Path::new) {
                // It may be gone already: the pod ended as it should and only the note was left.
                let _ = quietly(Command::new("umount").arg("--lazy").arg(namespace));
                let _ = fs::remove_file(namespace);
            }
            fs::remove_file(entry.path()).with_context(|| format!("failed to remove {}", entry.path().display()))?;
        }
    }
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        quietly(Command::new("ip").args(["link", "delete", BRIDGE]))?;
    }
    for family in ["iptables", "ip6tables"] {
        let saved = quietly(&mut Command::new(format!("{family}-save")))?;
        let script = removal(&saved);
        if !script.is_empty() {
            restore(family, &script)?;
        }
    }
    Ok(())
}

fn restore(family: &str, script: &str) -> Result<()> {
    let program = format!("{family}-restore");
    let mut child = Command::new(&program)
        .args(["--noflush", "--wait", "10"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {program}"))?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(script.as_bytes())
        .with_context(|| format!("failed to write to {program}"))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} failed to remove the cluster's rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The commands that remove what kube-proxy, the kubelet and our pods' network added to the saved tables.
fn removal(saved: &str) -> String {
    let mut script = String::new();
    let mut table = vec![];
    for line in saved.lines() {
        if line == "COMMIT" {
            script.push_str(&removal_of_table(&table));
            table.clear();
        } else {
            table.push(line);
        }
    }
    script
}

fn removal_of_table(lines: &[&str]) -> String {
    let Some(table) = lines.iter().find(|line| line.starts_with('*')) else { return String::new() };
    let chains: BTreeSet<_> = lines.iter().filter_map(|line| line.strip_prefix(':')?.split_whitespace().next()).collect();
    let rules: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("-A ")).collect();
    let ours = our_chains(&chains, &rules);
    let mut commands = vec![];
    for rule in &rules {
        let mut words = rule.split_whitespace();
        let inside = words.next().is_some_and(|chain| ours.contains(chain));
        let leads = words.collect::<Vec<_>>().windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && ours.contains(pair[1]));
        if leads && !inside {
            commands.push(format!("-D {rule}"));
        }
    }
    // All are emptied before one is removed: they lead to each other.
    commands.extend(ours.iter().map(|chain| format!("-F {chain}")));
    commands.extend(ours.iter().map(|chain| format!("-X {chain}")));
    if commands.is_empty() { String::new() } else { format!("{table}\n{}\nCOMMIT\n", commands.join("\n")) }
}

/// Kubernetes' chains all; of the CNI plugins' those whose rules name our network, and the shared ones when no other network is left.
fn our_chains<'a>(chains: &BTreeSet<&'a str>, rules: &[&str]) -> BTreeSet<&'a str> {
    let named: Vec<_> = rules.iter().filter(|rule| rule.contains(&format!("\\\"{NETWORK}\\\""))).collect();
    let named_for = |chain: &str| named.iter().any(|rule| rule.split_whitespace().any(|word| word == chain));
    let shared = |chain: &str| chain.starts_with("CNI-HOSTPORT-") || chain == "CNI-FORWARD" || chain == "CNI-ADMIN";
    let mut ours: BTreeSet<_> = chains
        .iter()
        .copied()
        .filter(|chain| chain.starts_with("KUBE-") || (chain.starts_with("CNI-") && !shared(chain) && named_for(chain)))
        .collect();
    let others = chains.iter().any(|chain| chain.starts_with("CNI-") && !shared(chain) && !ours.contains(chain));
    if !others {
        ours.extend(chains.iter().copied().filter(|chain| shared(chain)));
    }
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated
*nat
:POSTROUTING ACCEPT [0:0]
:CNI-1111 - [0:0]
:CNI-2222 - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -m comment --comment "kubernetes" -j KUBE-SERVICES
-A POSTROUTING -s 10.244.0.9/32 -m comment --comment "name: \"gantry-cluster\" id: \"a\"" -j CNI-1111
-A POSTROUTING -s 10.1.0.9/32 -m comment --comment "name: \"podman\" id: \"b\"" -j CNI-2222
-A POSTROUTING -j MASQUERADE
-A CNI-1111 -d 10.244.0.0/16 -m comment --comment "name: \"gantry-cluster\" id: \"a\"" -j ACCEPT
-A CNI-2222 -m comment --comment "name: \"podman\" id: \"b\"" -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j DROP
COMMIT
"#;

    #[test]
    fn only_our_rules_and_chains_are_removed() {
        let expected = r#"*nat
-D POSTROUTING -m comment --comment "kubernetes" -j KUBE-SERVICES
-D POSTROUTING -s 10.244.0.9/32 -m comment --comment "name: \"gantry-cluster\" id: \"a\"" -j CNI-1111
-F CNI-1111
-F KUBE-SERVICES
-X CNI-1111
-X KUBE-SERVICES
COMMIT
"#;
        assert_eq!(removal(SAVED), expected);
    }

    #[test]
    fn shared_chains_go_with_the_last_network() {
        let alone: String = SAVED.lines().filter(|line| !line.contains("CNI-2222")).map(|line| format!("{line}\n")).collect();
        let script = removal(&alone);
        assert!(
            script.contains("-X CNI-HOSTPORT-MASQ\n") && script.contains("requiring masquerade\" -j CNI-HOSTPORT-MASQ\n"),
            "{script}"
        );
        assert!(!script.contains("MASQUERADE"), "{script}");
    }
}
