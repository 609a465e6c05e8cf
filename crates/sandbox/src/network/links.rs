//! Interfaces, addresses and routes, through netlink sockets.
//!
//! A netlink socket belongs to the network namespace it was opened in, whoever uses it: a short-lived thread opens one
//! inside the pod's namespace, and no thread of the runtime ever changes its own.

use super::addresses::Net;
use crate::Error;
use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoBridgePort, InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, IntoRawFd as _};

/// The pod's end of a veth pair, in the pod.
const POD_END: &str = "eth0";
/// The kernel makes it first in each namespace.
const LOOPBACK: u32 = 1;

/// One netlink socket.
pub(super) struct Netlink(Handle);

/// For `map_err`, with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |error| Error::Network { what, source: Some(error.into()) }
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

impl Netlink {
    /// In the machine's namespace.
    pub(super) fn here() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::system("open a netlink socket"))?;
        // Ends with the handle.
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// In the namespace behind a file.
    pub(super) async fn inside(namespace: File) -> Result<Self, Error> {
        let (answer, opened) = tokio::sync::oneshot::channel();
        let open = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
            Socket::new(NETLINK_ROUTE)
        };
        // The thread dies with its namespace: it is given back to nobody.
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let _ = answer.send(open());
            })
            .map_err(Error::system("start a thread"))?;
        let socket = opened
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread ended")))
            .map_err(Error::system("open a netlink socket in a pod"))?;
        // SAFETY: the descriptor was just given up by its owner, and nobody else knows it.
        let socket = unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) };
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// All networks that routes and addresses of the machine are in.
    pub(super) async fn taken(&self) -> Result<Vec<Net>, Error> {
        let mut taken = Vec::new();
        let mut routes = self.0.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(route) = routes.try_next().await.map_err(failed("list routes"))? {
            let prefix = route.header.destination_prefix_length;
            for attribute in &route.attributes {
                // A default route is on every machine.
                if let (RouteAttribute::Destination(RouteAddress::Inet(address)), 1..) = (attribute, prefix) {
                    taken.push(Net { address: *address, prefix });
                }
            }
        }
        let mut addresses = self.0.address().get().execute();
        while let Some(found) = addresses.try_next().await.map_err(failed("list addresses"))? {
            for attribute in &found.attributes {
                if let AddressAttribute::Address(IpAddr::V4(address)) | AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                    taken.push(Net { address: *address, prefix: found.header.prefix_len.max(1) });
                }
            }
        }
        Ok(taken)
    }

    /// Names of all interfaces.
    pub(super) async fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut links = self.0.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("list interfaces"))? {
            names.extend(link.attributes.into_iter().filter_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            }));
        }
        Ok(names)
    }

    async fn index(&self, name: &str) -> Result<u32, Error> {
        let mut links = self.0.link().get().match_name(name).execute();
        let link = links.try_next().await.map_err(failed(format!("find interface {name}")))?;
        link.map(|link| link.header.index)
            .ok_or_else(|| Error::Network { what: format!("interface {name} is missing"), source: None })
    }

    /// Adds a bridge with its address, still down; answers its index.
    pub(super) async fn add_bridge(&self, name: &str, address: Ipv4Addr) -> Result<u32, Error> {
        // Without an address of its own the bridge takes that of a port, and changes it when the port goes.
        let message = LinkBridge::new(name).address(hardware_address(address)).down().build();
        self.0.link().add(message).execute().await.map_err(failed(format!("add bridge {name}")))?;
        let ready = async {
            let index = self.index(name).await?;
            let added = self.0.address().add(index, address.into(), 24).execute().await;
            added.map_err(failed(format!("add address {address} to {name}")))?;
            Ok(index)
        };
        let ready = ready.await;
        if ready.is_err() {
            self.remove(name).await?;
        }
        ready
    }

    /// Adds a veth pair between a bridge and a namespace.
    pub(super) async fn add_veth(&self, name: &str, bridge: u32, address: Ipv4Addr, namespace: &File) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_END)
            .address(hardware_address(address))
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let message = LinkVeth::new(name, POD_END).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).controller(bridge).build();
        self.0.link().add(message).execute().await.map_err(failed(format!("add interface {name}")))?;
        let index = self.index(name).await?;
        // Before it is up: not one packet goes to another pod.
        let isolated = LinkBridgePort::new(index).append_info_data(InfoBridgePort::Isolated(true)).build();
        self.0.link().set_port(isolated).execute().await.map_err(failed(format!("isolate interface {name}")))?;
        self.up(index).await
    }

    /// Gives a pod's interfaces their addresses and brings them up.
    pub(super) async fn configure(&self, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Error> {
        self.up(LOOPBACK).await?;
        let index = self.index(POD_END).await?;
        let added = self.0.address().add(index, address.into(), 24).execute().await;
        added.map_err(failed(format!("add address {address} to a pod")))?;
        self.up(index).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        self.0.route().add(route).execute().await.map_err(failed("add a pod's default route"))
    }

    /// Brings an interface up.
    pub(super) async fn up(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.0.link().set(message).execute().await.map_err(failed("bring an interface up"))
    }

    /// Removes an interface; answers whether there was one.
    pub(super) async fn remove(&self, name: &str) -> Result<bool, Error> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.0.link().del_with_message(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is(&error, libc::ENODEV) => Ok(false),
            Err(error) => Err(failed(format!("remove interface {name}"))(error)),
        }
    }
}

/// Follows from the address, so that neighbours' tables stay right when another pod gets it.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0x0a, 0x67];
    bytes.extend(address.octets());
    bytes
}
