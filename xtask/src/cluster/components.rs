//! What runs: each component's command line, the order of starting, and how to see that one is ready.
//!
//! A command line is a function of the paths and the containerd in use, so that `restart` starts exactly what `up` started.

use super::paths::{BRIDGE, HOST, NETWORK, NODE, PAUSE, PODS, Paths, SERVICES, fill, write};
use super::process::{await_component, await_for, running, start};
use super::programs::{Containerd, kube_all, kubectl};
use anyhow::{Result, bail};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// All of them, in the order in which they start. `down` ends them in the reverse one.
pub const COMPONENTS: [&str; 7] = ["etcd", "apiserver", "controller-manager", "scheduler", "containerd", "kubelet", "proxy"];

/// Writes the configuration files.
pub fn configure(paths: &Paths, containerd: Containerd) -> Result<()> {
    let state = paths.state.display().to_string();
    let programs = containerd.directory().display().to_string();
    let resolv_conf = resolv_conf();
    let resolver = resolver(&fs::read_to_string(resolv_conf).unwrap_or_default());
    let values = [
        ("state", state.as_str()),
        ("programs", &programs),
        ("network", NETWORK),
        ("bridge", BRIDGE),
        ("host", HOST),
        ("pods", PODS),
        ("pause", PAUSE),
        ("resolver", &resolver),
        ("resolv-conf", resolv_conf),
    ];
    for (file, template) in [
        ("etcd.yaml", include_str!("../../../e2e/cluster/config/etcd.yaml")),
        ("audit.yaml", include_str!("../../../e2e/cluster/config/audit.yaml")),
        ("containerd-1.toml", include_str!("../../../e2e/cluster/config/containerd-1.toml")),
        ("containerd-2.toml", include_str!("../../../e2e/cluster/config/containerd-2.toml")),
        ("kubelet.yaml", include_str!("../../../e2e/cluster/config/kubelet.yaml")),
    ] {
        write(&paths.config(file), &fill(template, &values)?)?;
    }
    let network = fill(include_str!("../../../e2e/cluster/config/bridge.conflist"), &values)?;
    write(&paths.state.join("cni/10-bridge.conflist"), &network)
}

/// The file with the node's name servers. Where systemd-resolved answers on a loopback address, which a pod cannot reach, its own.
fn resolv_conf() -> &'static str {
    let real = "/run/systemd/resolve/resolv.conf";
    if Path::new(real).exists() { real } else { "/etc/resolv.conf" }
}

/// The node's name server, which pods ask too: there is no name service for the cluster's own names.
fn resolver(resolv_conf: &str) -> String {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
    servers
        .filter_map(|server| server.parse::<IpAddr>().ok())
        .find(|server| !server.is_loopback())
        .map_or(HOST.to_owned(), |server| server.to_string())
}

/// Starts one component, if it does not run, and waits until it is ready.
pub fn ensure(paths: &Paths, name: &str, containerd: Containerd) -> Result<()> {
    let words = command(paths, name, containerd)?;
    if running(paths, name).is_none() {
        await_port(name)?;
    }
    if start(paths, name, &words)? {
        eprintln!("{name}: started");
    } else {
        eprintln!("{name}: runs");
    }
    await_component(paths, name, 90, || ready(paths, name))
}

/// Another program on the port would answer for a component that died of it. One of ours that just ended may need a moment.
fn await_port(name: &str) -> Result<()> {
    let port = match name {
        "etcd" => 2379,
        "apiserver" => 6443,
        "controller-manager" => 10257,
        "scheduler" => 10259,
        "kubelet" => 10250,
        "proxy" => 10256,
        _ => return Ok(()),
    };
    await_for(&format!("port {port} to be free for {name}: another program listens there"), 5, || {
        Ok(TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1)).is_err())
    })
}

fn command(paths: &Paths, name: &str, containerd: Containerd) -> Result<Vec<String>> {
    let kube = kube_all().display().to_string();
    let kubeconfig = format!("--kubeconfig={}", paths.kubeconfig().display());
    // Image volumes are off by default until 1.35; only containerd 2.1 and later can mount them.
    let gates = (containerd == Containerd::Two).then(|| "--feature-gates=ImageVolume=true".to_owned());
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Ok(match name {
        "etcd" => own(&[&kube, "etcd", &paths.text("config/etcd.yaml")]),
        "apiserver" => api_server(paths, &kube).into_iter().chain(gates).collect(),
        "controller-manager" => own(&[
            &kube,
            "controller-manager",
            &kubeconfig,
            &format!("--service-account-private-key-file={}", paths.text("pki/sa.key")),
            &format!("--root-ca-file={}", paths.text("pki/ca.crt")),
            "--leader-elect=false",
            "--use-service-account-credentials=false",
            "--allocate-node-cidrs=false",
        ]),
        "scheduler" => own(&[&kube, "scheduler", &kubeconfig, "--leader-elect=false"]),
        "containerd" => own(&[
            // It looks for its shim and for runc there, and Debian's shim knows no user namespaces.
            "env",
            &format!("PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", containerd.directory().display()),
            &containerd.program("containerd"),
            "--config",
            &paths.text(&format!("config/{}", containerd.config())),
        ]),
        "kubelet" => own(&[
            &kube,
            "kubelet",
            &kubeconfig,
            &format!("--config={}", paths.text("config/kubelet.yaml")),
            &format!("--root-dir={}", paths.text("kubelet")),
            &format!("--node-ip={HOST}"),
            &format!("--hostname-override={NODE}"),
        ])
        .into_iter()
        .chain(gates)
        .collect(),
        "proxy" => own(&[
            &kube,
            "proxy",
            &kubeconfig,
            &format!("--cluster-cidr={PODS}"),
            "--proxy-mode=iptables",
            &format!("--hostname-override={NODE}"),
            // Raising the limit needs a writable /proc/sys, which containers lack; the machine's own is enough.
            "--conntrack-max-per-core=0",
        ]),
        _ => bail!("there is no component {name}; there are {}", COMPONENTS.join(", ")),
    })
}

fn api_server(paths: &Paths, kube: &str) -> Vec<String> {
    let pki = |flag: &str, file: &str| format!("--{flag}={}", paths.text(&format!("pki/{file}")));
    vec![
        kube.to_owned(),
        "apiserver".to_owned(),
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={HOST}"),
        "--secure-port=6443".to_owned(),
        pki("tls-cert-file", "apiserver.crt"),
        pki("tls-private-key-file", "apiserver.key"),
        pki("client-ca-file", "ca.crt"),
        pki("service-account-key-file", "sa.pub"),
        pki("service-account-signing-key-file", "sa.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        // For logs and exec, which the API server asks of the kubelet.
        pki("kubelet-client-certificate", "admin.crt"),
        pki("kubelet-client-key", "admin.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--audit-policy-file={}", paths.text("config/audit.yaml")),
        format!("--audit-log-path={}", paths.audit_log().display()),
        "--audit-log-maxsize=500".to_owned(),
        "--audit-log-maxbackup=2".to_owned(),
    ]
}

fn ready(paths: &Paths, name: &str) -> bool {
    match name {
        "etcd" => healthy(2379, "/health"),
        "apiserver" => succeeds(kubectl(&paths.kubeconfig()).args(["get", "--raw", "/readyz"])),
        "containerd" => succeeds(Command::new("ctr").arg("--address").arg(paths.socket()).arg("version")),
        "kubelet" => healthy(10248, "/healthz"),
        "proxy" => healthy(10256, "/livez"),
        // These two answer with certificates of their own; that they work is seen by what they make.
        _ => true,
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Whether a health endpoint on this machine answers with 200.
fn healthy(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split_whitespace().nth(1) == Some("200"))
}

/// Waits until the node takes pods.
pub fn await_node(paths: &Paths) -> Result<()> {
    let template = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    await_for("the node to be Ready", 90, || {
        let output =
            kubectl(&paths.kubeconfig()).args(["get", "node", NODE, "--output", template]).stderr(Stdio::null()).output()?;
        Ok(output.stdout == b"True")
    })
}

/// Waits until a pod in the default namespace can be admitted.
pub fn await_service_account(paths: &Paths) -> Result<()> {
    await_for("the default service account", 60, || {
        Ok(succeeds(kubectl(&paths.kubeconfig()).args(["get", "serviceaccount", "default"])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_ask_the_first_name_server_they_can_reach() {
        assert_eq!(resolver("search x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\n"), "10.0.0.2");
        assert_eq!(resolver("nameserver ::1\n"), HOST);
    }

    #[test]
    fn every_component_has_a_command_and_every_template_its_values() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { state: directory.path().to_owned() };
        paths.make_directories().unwrap();
        configure(&paths, Containerd::Two).unwrap();
        for name in COMPONENTS {
            assert!(command(&paths, name, Containerd::Two).unwrap().len() > 1, "{name}");
        }
        assert!(command(&paths, "apiserver", Containerd::Two).unwrap().iter().any(|word| word.contains("ImageVolume")));
        assert!(!command(&paths, "apiserver", Containerd::One).unwrap().iter().any(|word| word.contains("ImageVolume")));
    }
}
