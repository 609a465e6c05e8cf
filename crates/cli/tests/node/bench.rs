//! A node in a process of its own, and what is asked of it.

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The pods of two nodes at once would only make both slow.
static TURN: Mutex<()> = Mutex::new(());

/// Tells why a test is not run; not captured, so that it is seen among the passed ones.
pub fn skip(why: &str) {
    // In one write, because other tests print too; nobody may be reading.
    let _ = std::io::stderr().write_all(format!("skipped, because {why}\n").as_bytes());
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The `gantry` program, without what the environment of this test would tell it.
pub fn gantry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.env_remove("KUBECONFIG").env_remove("CONFIG_FILE").env_remove("GANTRY_LOG");
    command.env_remove("KUBERNETES_SERVICE_HOST").stdin(Stdio::null());
    command
}

/// A program at work, killed when it is dropped; its output is shown when a test failed.
pub struct Program {
    child: std::process::Child,
    log: PathBuf,
}

impl Program {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// All that it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The most memory it has ever had, in KiB (`VmHWM` of proc(5)).
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How it ended, which must be soon.
    pub fn ends_within(&mut self, most: Duration) -> ExitStatus {
        let until = Instant::now() + most;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it still runs after {most:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- {} ---\n{}", self.log.display(), self.output());
        }
    }
}

/// A node and a client of it.
pub struct Bench {
    pub node: Program,
    pub directory: TempDir,
    pub kubeconfig: PathBuf,
    /// Two ports of the gateway that pods may reach, kept free for us on another address.
    pub ports: [u16; 2],
    pub gateway: IpAddr,
    pub runtime: tokio::runtime::Runtime,
    client: kube::Client,
    _kept: [TcpListener; 2],
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// A fresh node, unless there cannot be one here.
    pub fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("pods need root");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let kept = [0; 2].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let ports = [0, 1].map(|index: usize| kept[index].local_addr().unwrap().port());
        let log = directory.path().join("node.log");
        let mut node = Program::start(node_command("127.0.0.1:0", &kubeconfig, ports), &log);
        // The node says so when all of it is ready.
        wait_for("the node", || (node.output().contains("the node is ready") || node.has_ended()).then_some(()));
        if node.has_ended() {
            assert!(std::env::var_os("CI").is_none(), "a machine of CI must be able to run a node");
            skip(&format!("no node starts here: {}", node.output().trim()));
            return None;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        cli::ci::install_crypto();
        let client = runtime.block_on(client(&kubeconfig));
        let gateway = runtime.block_on(gateway(&client));
        Some(Self { node, directory, kubeconfig, ports, gateway, runtime, client, _kept: kept, _turn: turn })
    }

    /// Kills the node and starts another one in its place.
    pub fn another_node(&mut self) {
        let text = self.node.output();
        let (_, after) = text.split_once("the node is ready address=").unwrap();
        let address = after.split_whitespace().next().unwrap().to_owned();
        self.node.signal(Signal::KILL);
        self.node.ends_within(PATIENCE);
        let log = self.path("another-node.log");
        self.node = Program::start(node_command(&address, &self.kubeconfig, self.ports), &log);
        wait_for("another node", || self.node.output().contains("the node is ready").then_some(()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn pods(&self) -> Vec<Pod> {
        let api: Api<Pod> = Api::default_namespaced(self.client.clone());
        self.runtime.block_on(api.list(&ListParams::default())).unwrap().items
    }

    pub fn secrets(&self) -> Vec<Secret> {
        let api: Api<Secret> = Api::default_namespaced(self.client.clone());
        self.runtime.block_on(api.list(&ListParams::default())).unwrap().items
    }

    /// Waits until nothing of any job is left in the cluster.
    pub fn is_clean(&self) {
        wait_for("the end of pod and Secret", || (self.pods().is_empty() && self.secrets().is_empty()).then_some(()));
    }

    /// Name and phase of the one pod there is.
    pub fn only_pod(&self) -> (String, String) {
        let pods = self.pods();
        assert_eq!(pods.len(), 1, "one job has one pod");
        let phase = pods[0].status.as_ref().and_then(|status| status.phase.clone());
        (pods[0].metadata.name.clone().unwrap(), phase.unwrap_or_default())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A killed node would leave its bridge for the next one to sweep.
        if !self.node.has_ended() {
            self.node.signal(Signal::TERM);
            let until = Instant::now() + PATIENCE;
            while !self.node.has_ended() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn node_command(listen: &str, kubeconfig: &Path, ports: [u16; 2]) -> Command {
    let mut command = gantry();
    command.args(["node", "--listen", listen, "--kubeconfig"]).arg(kubeconfig);
    command.args(ports.iter().flat_map(|port| ["--allow-port".to_owned(), port.to_string()]));
    command
}

async fn client(kubeconfig: &Path) -> kube::Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// The address of the machine as pods see it: the node's own in the API.
async fn gateway(client: &kube::Client) -> IpAddr {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await.unwrap();
    let addresses = nodes.items[0].status.as_ref().unwrap().addresses.as_ref().unwrap();
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP").unwrap();
    internal.address.parse().unwrap()
}
