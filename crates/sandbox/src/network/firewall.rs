//! The firewall around pods, as one nftables table of the instance.
//!
//! The rules are loaded by one run of `nft`, as a transaction: there is never half a firewall. What changes later is
//! only the set of ports.

use super::addresses::Net;
use crate::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The table of an instance.
pub(super) struct Firewall {
    nft: PathBuf,
    table: String,
}

impl Firewall {
    /// Finds `nft`.
    pub(super) fn find(instance: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let nft = usual.into_iter().chain(std::env::split_paths(&path)).map(|directory| directory.join("nft"));
        Some(Self { nft: { nft }.find(|file| file.is_absolute() && file.is_file())?, table: format!("gantry_{instance}") })
    }

    /// Loads the rules.
    pub(super) async fn install(&self, bridge: &str, subnet: Net) -> Result<(), Error> {
        self.run(&rules(&self.table, bridge, subnet)).await
    }

    /// Adds a port of this machine that pods may reach, at whichever of its addresses.
    pub(super) async fn allow_port(&self, port: u16) -> Result<(), Error> {
        self.run(&format!("add element inet {} ports {{ {port} }}\n", self.table)).await
    }

    /// Removes the table, if there is one.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        self.run(&format!("table inet {0} {{}}\ndelete table inet {0}\n", self.table)).await
    }

    async fn run(&self, rules: &str) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, load(&self.nft, rules)).await.unwrap_or_else(|_elapsed| {
            Err(Error::Network { what: format!("nft did not answer in {} s", PATIENCE.as_secs()), source: None })
        })
    }
}

async fn load(nft: &Path, rules: &str) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Network { what: "run nft".to_owned(), source: Some(source.into()) };
    let mut command = tokio::process::Command::new(nft);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::Network { what: format!("nft: {}", message.lines().next().unwrap_or("failed").trim()), source: None })
}

/// The rules: `inet`, so that IPv6 on the bridge is as closed as IPv4.
///
/// The metadata service of clouds hands out the machine's credentials; some clouds run their resolver on the same
/// address, so that names stay resolvable.
fn rules(table: &str, bridge: &str, subnet: Net) -> String {
    format!(
        r#"table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set ports {{ type inet_service; }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {subnet} oifname != "{bridge}" masquerade
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{bridge}" ip saddr != {subnet} drop
        iifname "{bridge}" ip daddr 169.254.169.254 udp dport 53 accept
        iifname "{bridge}" ip daddr 169.254.169.254 tcp dport 53 accept
        iifname "{bridge}" ip daddr 169.254.169.254 drop
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" drop
        iifname "{bridge}" accept
    }}
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname != "{bridge}" accept
        ip saddr != {subnet} drop
        ct state established,related accept
        tcp dport @ports accept
        meta l4proto icmp accept
        drop
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_table_replaces_an_older_one_and_closes_everything_by_default() {
        let subnet = Net { address: Ipv4Addr::new(10, 88, 4, 0), prefix: 24 };
        let text = rules("gantry_0123abcd", "gy0123abcd", subnet);
        assert!(text.starts_with("table inet gantry_0123abcd {}\ndelete table inet gantry_0123abcd\n"), "{text}");
        let input = text.split_once("chain input").unwrap().1;
        let last = input.lines().map(str::trim).rfind(|line| !matches!(*line, "}" | ""));
        assert_eq!(last, Some("drop"));
        assert!(text.contains("ip saddr 10.88.4.0/24 oifname != \"gy0123abcd\" masquerade"));
    }
}
