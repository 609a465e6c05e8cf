//! The network of pods: one bridge of this instance, a veth pair for each pod, a firewall around them.
//!
//! Pods reach what the machine reaches, through masquerading, but neither each other (isolated ports) nor the machine
//! (an input chain that knows the few ports they may reach). Everything carries the instance in its name, so that the
//! next program finds what a killed one left ([`Network::sweep`]).
//!
//! We decided against a user-space network for root: it is slower and one more program that must be installed.

mod addresses;
mod firewall;
mod links;

use crate::Error;
use addresses::{Lease, Pool};
use firewall::Firewall;
use links::Netlink;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// One bridge of this instance.
pub(crate) struct Network {
    bridge: String,
    index: u32,
    veths: String,
    pool: Pool,
    firewall: Option<Firewall>,
}

/// A pod's connection.
pub(crate) struct Link {
    /// The pod's address.
    pub(crate) address: IpAddr,
    name: String,
    /// Frees the address on drop.
    _lease: Lease,
}

impl Network {
    /// Makes the bridge and the firewall. `instance` is 8 lower case hexadecimal characters.
    pub(crate) async fn create(instance: &str) -> Result<Self, Error> {
        let network = Self::bridge(instance).await?;
        if let Err(error) = network.protect().await {
            network.remove().await;
            return Err(error);
        }
        Ok(network)
    }

    async fn bridge(instance: &str) -> Result<Self, Error> {
        let netlink = Netlink::here()?;
        let subnet = addresses::choose(instance, &netlink.taken().await?).ok_or_else(|| Error::Network {
            what: "every network of 10.88.0.0/13 is in use on this machine".to_owned(),
            source: None,
        })?;
        let bridge = bridge_name(instance);
        let pool = Pool::new(subnet);
        let index = netlink.add_bridge(&bridge, pool.gateway()).await?;
        let firewall = Firewall::find(instance);
        Ok(Self { bridge, index, veths: veth_prefix(instance), pool, firewall })
    }

    /// Everything around the bridge that stands between pods and the machine; pods come after it.
    async fn protect(&self) -> Result<(), Error> {
        // A link-local IPv6 address on the bridge would be one more way to the machine.
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.bridge);
        if Path::new(&ipv6).exists() {
            std::fs::write(&ipv6, "1").map_err(Error::path("write", Path::new(&ipv6)))?;
        }
        match &self.firewall {
            Some(firewall) => firewall.install(&self.bridge, self.pool.subnet()).await?,
            None => {
                tracing::warn!("nft was not found: pods reach no other network, and every port of this machine; install nftables")
            }
        }
        Netlink::here()?.up(self.index).await?;
        forward_packets();
        Ok(())
    }

    /// Address of this machine as pods see it.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.pool.gateway().into()
    }

    /// Connects a pod's network namespace: `eth0` with an address and a default route, `lo` up.
    pub(crate) async fn connect(&self, netns: &Path) -> Result<Link, Error> {
        let lease = self.pool.lease().ok_or_else(|| Error::Network {
            what: format!("all {} addresses are in use by pods", addresses::PODS),
            source: None,
        })?;
        let address = lease.address();
        let link = Link { address: address.into(), name: veth_name(&self.veths, lease.number()), _lease: lease };
        let namespace = std::fs::File::open(netns).map_err(Error::path("open network namespace", netns))?;
        match self.wire(&link.name, address, namespace).await {
            Ok(()) => Ok(link),
            Err(error) => {
                self.disconnect(link).await;
                Err(error)
            }
        }
    }

    async fn wire(&self, name: &str, address: Ipv4Addr, namespace: std::fs::File) -> Result<(), Error> {
        let netlink = Netlink::here()?;
        // Left by a connection that was given up halfway; its address is free, so nobody uses it.
        netlink.remove(name).await?;
        netlink.add_veth(name, self.index, address, &namespace).await?;
        Netlink::inside(namespace).await?.configure(address, self.pool.gateway()).await
    }

    /// Removes a pod's connection and frees its address.
    pub(crate) async fn disconnect(&self, link: Link) {
        let removed = match Netlink::here() {
            Ok(netlink) => netlink.remove(&link.name).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(interface = link.name, error = &error as &dyn std::error::Error, "failed to disconnect a pod");
        }
    }

    /// Lets pods reach a TCP port of this machine.
    pub(crate) async fn allow_port(&self, port: u16) {
        if let Some(firewall) = &self.firewall
            && let Err(error) = firewall.allow_port(port).await
        {
            tracing::warn!(port, error = &error as &dyn std::error::Error, "pods will not reach a port of this machine");
        }
    }

    /// Removes the bridge and the firewall, and what is still connected.
    pub(crate) async fn remove(&self) {
        let removed = remove_links(&self.bridge, &self.veths).await;
        if let Some(firewall) = &self.firewall
            && let Err(error) = firewall.remove().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to remove the firewall of pods");
        }
        if let Err(error) = removed {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to remove the network of pods");
        }
    }

    /// Removes what a dead instance left; answers how many interfaces there were.
    pub(crate) async fn sweep(instance: &str) -> usize {
        // Anything may lie where instances leave their names; a shorter one would match interfaces of others.
        if instance.len() != 8 || !instance.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return 0;
        }
        if let Some(firewall) = Firewall::find(instance)
            && let Err(error) = firewall.remove().await
        {
            tracing::warn!(instance, error = &error as &dyn std::error::Error, "failed to remove a dead firewall");
        }
        remove_links(&bridge_name(instance), &veth_prefix(instance)).await.unwrap_or_else(|error| {
            tracing::warn!(instance, error = &error as &dyn std::error::Error, "failed to remove dead interfaces");
            0
        })
    }
}

/// Removes a bridge and all veth pairs of an instance.
async fn remove_links(bridge: &str, veths: &str) -> Result<usize, Error> {
    let netlink = Netlink::here()?;
    let mut count = 0;
    for name in netlink.names().await?.iter().filter(|name| *name == bridge || name.starts_with(veths)) {
        count += usize::from(netlink.remove(name).await?);
    }
    Ok(count)
}

/// Lets the kernel pass packets on between the bridge and other interfaces.
fn forward_packets() {
    const FILE: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(FILE).is_ok_and(|text| text.trim() == "1") {
        return;
    }
    if let Err(error) = std::fs::write(FILE, "1") {
        tracing::warn!(error = &error as &dyn std::error::Error, "pods reach no other network: failed to write {FILE}");
    }
}

fn bridge_name(instance: &str) -> String {
    format!("gy{instance}")
}

fn veth_prefix(instance: &str) -> String {
    format!("gv{instance}")
}

/// The host's end of a pod's veth pair: the instance and the pod's number in base 36, 12 characters (15 are allowed).
fn veth_name(prefix: &str, number: u8) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 36).unwrap_or('0');
    format!("{prefix}{}{}", digit(number / 36), digit(number % 36))
}

#[cfg(test)]
mod tests;
