//! The network for real, in a network namespace of the test's own; needs root and is skipped, saying so, without.

use super::*;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// Runs something in a namespace on a thread that ends with it.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn new_namespace() -> Option<File> {
    std::thread::spawn(|| {
        // SAFETY: unsharing the network of this thread changes no memory.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
        File::open("/proc/thread-self/ns/net").ok()
    })
    .join()
    .unwrap()
}

/// Runs a test on a runtime of one thread, alone in a namespace; programs it starts are there too.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let Some(namespace) = new_namespace() else {
        eprintln!("skipped: needs root and network namespaces");
        return;
    };
    inside(&namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

fn path(namespace: &File) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", namespace.as_raw_fd()).into()
}

fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

async fn names() -> Vec<String> {
    let mut names = Netlink::here().unwrap().names().await.unwrap();
    names.retain(|name| name.starts_with('g') && !name.starts_with("gre"));
    names
}

/// An address that the machine keeps while gateways come and go.
fn another_address() -> std::net::IpAddr {
    let added = std::process::Command::new("ip").args(["address", "add", "192.0.2.9/32", "dev", "lo"]).status().unwrap();
    assert!(added.success(), "ip address add: {added}");
    std::net::Ipv4Addr::new(192, 0, 2, 9).into()
}

#[test]
fn a_pod_reaches_allowed_ports_of_the_machine_and_no_other_pod() {
    alone(|| async {
        let network = Network::create("0123abcd").await.unwrap();
        let (one, two) = (new_namespace().unwrap(), new_namespace().unwrap());
        let (first, second) = (network.connect(&path(&one)).await.unwrap(), network.connect(&path(&two)).await.unwrap());
        assert_ne!(first.address, second.address);
        let (open, closed) = (TcpListener::bind((network.gateway(), 0)), TcpListener::bind((network.gateway(), 0)));
        let (open, closed) = (open.unwrap(), closed.unwrap());
        let [allowed, other] = [&open, &closed].map(|listener| listener.local_addr().unwrap());
        network.allow_port(allowed.port()).await;
        assert!(inside(&one, || connects(allowed)), "an allowed port");
        let own = another_address();
        let listener = TcpListener::bind((own, allowed.port())).unwrap();
        assert!(inside(&one, || connects((own, allowed.port()).into())), "an allowed port of another address of the machine");
        drop(listener);
        if network.firewall.is_some() {
            assert!(!inside(&one, || connects(other)), "another port");
        }
        let other = inside(&two, || TcpListener::bind((second.address, 0)).unwrap());
        let address = other.local_addr().unwrap();
        assert!(inside(&two, || connects(address)), "itself");
        assert!(connects(address), "a pod from the machine");
        assert!(!inside(&one, || connects(address)), "another pod");
        network.disconnect(first).await;
        assert_eq!(names().await.len(), 2, "{:?}", names().await);
        network.disconnect(second).await;
        network.remove().await;
        assert_eq!(names().await, [""; 0]);
    });
}

#[test]
fn a_pod_reaches_other_networks_as_the_machine() {
    alone(|| async {
        let network = Network::create("0123abcd").await.unwrap();
        let (pod, far) = (new_namespace().unwrap(), new_namespace().unwrap());
        let link = network.connect(&path(&pod)).await.unwrap();
        // A second network serves as the world: this machine is its first pod and far its gateway, without routes.
        let world = Network { veths: "gvworld".to_owned(), ..Network::bridge("0000ffff").await.unwrap() };
        let netlink = Netlink::here().unwrap();
        netlink.up(world.index).await.unwrap();
        let outside = world.connect(&path(&far)).await.unwrap();
        let listener = inside(&far, || TcpListener::bind((outside.address, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, peer) = listener.accept().unwrap();
                stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
            });
            inside(&pod, || {
                let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            })
        });
        if network.firewall.is_some() {
            assert_eq!(answer, world.gateway().to_string(), "masqueraded");
            let own = inside(&pod, || TcpListener::bind((link.address, 0)).unwrap()).local_addr().unwrap();
            assert!(!inside(&far, || connects(own)), "nobody reaches a pod from outside");
        }
    });
}

#[test]
fn the_next_program_removes_what_a_killed_one_left() {
    alone(|| async {
        let network = Network::create("0123abcd").await.unwrap();
        let live = Network::create("0123abce").await.unwrap();
        assert_ne!(network.gateway(), live.gateway());
        let pods: Vec<_> = (0..3).map(|_| new_namespace().unwrap()).collect();
        let mut links = Vec::new();
        for pod in &pods {
            links.push(network.connect(&path(pod)).await.unwrap());
        }
        assert_eq!(Network::sweep("0123abc").await, 0);
        assert_eq!(Network::sweep("0123abcd").await, 4);
        assert_eq!(names().await, ["gy0123abce"]);
        assert_eq!(Network::sweep("0123abcd").await, 0);
    });
}

#[test]
fn a_connection_that_fails_leaves_nothing() {
    alone(|| async {
        let network = Network::create("0123abcd").await.unwrap();
        assert!(network.connect(Path::new("/no/such/namespace")).await.is_err());
        let pod = new_namespace().unwrap();
        let link = network.connect(&path(&pod)).await.unwrap();
        let error = network.connect(&path(&pod)).await.err().expect("eth0 is there already");
        assert!(error.to_string().starts_with("failed to make the network of pods"), "{error}");
        assert_eq!(names().await.len(), 2);
        network.disconnect(link).await;
        assert_eq!((0..).map_while(|_| network.pool.lease().map(std::mem::forget)).count(), 250);
        network.remove().await;
        network.remove().await;
    });
}

#[test]
fn interface_names_fit_and_are_found_by_their_instance() {
    let (bridge, prefix) = (bridge_name("0123abcd"), veth_prefix("0123abcd"));
    let names: std::collections::BTreeSet<_> = (0..=u8::MAX).map(|number| veth_name(&prefix, number)).collect();
    assert_eq!(names.len(), 256);
    assert!(bridge.len() <= 15 && names.iter().all(|name| name.len() <= 15 && name.starts_with(&prefix)));
    assert_eq!(veth_name(&prefix, 251), "gv0123abcd6z");
}
