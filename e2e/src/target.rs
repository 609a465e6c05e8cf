//! Where scenarios are played: the embedded node, started here, or the cluster that is up.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Images that scenarios use, as variables of the project and as placeholders in lower case.
pub const IMAGES: [&str; 6] = ["BUSYBOX", "ALPINE", "DEBIAN_GIT", "NO_SHELL", "NONROOT", "HELPER"];
/// The helper image that the embedded node brings along.
const NODE_HELPER: &str = concat!("gantry-helper:", env!("CARGO_PKG_VERSION"));
/// Directory of the cluster's state.
const CLUSTER_DIRECTORY: &str = "/var/lib/gantry-cluster";
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// A Kubernetes API with pods behind it.
pub struct Target {
    /// `node` or `cluster`.
    pub name: &'static str,
    /// Address of this machine as pods see it.
    pub gateway: IpAddr,
    /// Port of this machine that pods may reach.
    pub port: u16,
    /// A client that may do everything.
    pub client: kube::Client,
    /// Address and certificates of the API.
    pub kubeconfig: Kubeconfig,
    /// The same as a file.
    pub kubeconfig_file: PathBuf,
    /// What image each of [`IMAGES`] is there.
    pub images: BTreeMap<&'static str, String>,
    /// What it can do beyond the least (`image-volumes`, `user-namespaces`).
    pub offers: BTreeSet<&'static str>,
    /// Where the cluster notes every request.
    pub audit_log: Option<PathBuf>,
    node: Option<Child>,
}

impl Target {
    /// Starts the embedded node; its files go to `directory`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn node(program: &Path, images: &TestImages, directory: &Path) -> Result<Self> {
        let (file, log) = (directory.join("node.kubeconfig"), directory.join("node.log"));
        let port = free_port()?;
        let mut command = gantry(program);
        command.args(["node", "--listen", "127.0.0.1:0", "--allow-port", &port.to_string(), "--kubeconfig"]).arg(&file);
        let mut child = spawn(command, &log)?;
        let begun = Instant::now();
        while !text_of(&log).contains("the node is ready") {
            if begun.elapsed() > START || child.try_wait()?.is_some() {
                bail!("the node did not start: {}", text_of(&log).trim());
            }
            tokio::time::sleep(LOOK).await;
        }
        let images = images.each(|image| format!("oci:{}", image.layout.display()), Some(NODE_HELPER))?;
        Self { node: Some(child), ..Self::reach("node", &file, port, images).await? }.checked()
    }

    /// The cluster that `cargo xtask cluster up` started.
    ///
    /// # Errors
    /// When there is none.
    pub async fn cluster(images: &TestImages) -> Result<Self> {
        let directory = std::env::var_os("GANTRY_CLUSTER_DIR").map_or_else(|| CLUSTER_DIRECTORY.into(), PathBuf::from);
        let file = directory.join("admin.conf");
        if !file.exists() {
            bail!("there is no cluster: {} is missing; try `cargo xtask cluster up`", file.display());
        }
        let images = images.each(|image| image.name.clone(), None)?;
        let target = Self::reach("cluster", &file, free_port()?, images).await?;
        Self { audit_log: Some(directory.join("log/audit.json")), ..target }.with_offers().await?.checked()
    }

    async fn reach(name: &'static str, file: &Path, port: u16, images: BTreeMap<&'static str, String>) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("failed to read {}", file.display()))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let nodes: Api<Node> = Api::all(client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list the nodes")?;
        let addresses = nodes.items.first().and_then(|node| node.status.as_ref()?.addresses.as_ref()).into_iter().flatten();
        let gateway = addresses.into_iter().find(|address| address.type_ == "InternalIP").context("a node has no address")?;
        let gateway = gateway.address.parse().context("a node's address is none")?;
        let (kubeconfig_file, offers) = (file.to_owned(), BTreeSet::new());
        Ok(Self { name, gateway, port, client, kubeconfig, kubeconfig_file, images, offers, audit_log: None, node: None })
    }

    async fn with_offers(mut self) -> Result<Self> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list the nodes")?;
        let info = nodes.items.first().and_then(|node| node.status.as_ref()?.node_info.as_ref());
        // The API's gate is set together with the runtime: `cargo xtask cluster up --containerd 2`.
        if info.is_some_and(|info| info.container_runtime_version.starts_with("containerd://2")) {
            self.offers.insert("image-volumes");
        }
        Ok(self)
    }

    fn checked(self) -> Result<Self> {
        if let Some(missing) = IMAGES.iter().find(|name| !self.images.contains_key(*name)) {
            bail!("the image {missing} is not there");
        }
        Ok(self)
    }

    /// The process of the node, if this is one.
    pub fn node_pid(&self) -> Option<u32> {
        self.node.as_ref()?.id()
    }

    /// Ends the node, if this is one.
    pub async fn stop(mut self) {
        if let Some(mut node) = self.node.take() {
            stop(&mut node).await;
        }
    }
}

/// An image that `cargo xtask image --test` made.
#[derive(Clone, Debug)]
pub struct TestImage {
    /// Its name in a registry.
    pub name: String,
    /// Its OCI layout.
    pub layout: PathBuf,
}

/// All of them, by the name's last word (`debian-git`).
#[derive(Clone, Debug)]
pub struct TestImages(BTreeMap<String, TestImage>);

impl TestImages {
    /// Makes them where they are not there; `GANTRY_TEST_IMAGES` may name a file with what `cargo xtask image --test`
    /// printed, where several runs follow one another.
    ///
    /// # Errors
    /// When `cargo xtask image --test` fails.
    pub async fn make() -> Result<Self> {
        if let Some(file) = std::env::var_os("GANTRY_TEST_IMAGES") {
            return Self::parse(&std::fs::read_to_string(file).context("failed to read GANTRY_TEST_IMAGES")?);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["run", "--quiet", "--package", "xtask", "--", "image", "--test"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.stderr(Stdio::inherit()).output().await.context("failed to start cargo xtask")?;
        if !output.status.success() {
            bail!("cargo xtask image --test: {}", output.status);
        }
        Self::parse(&String::from_utf8(output.stdout)?)
    }

    /// Reads what `cargo xtask image --test` printed: a name, a tab and a layout in each line.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let images = text.lines().filter_map(|line| {
            let (name, layout) = line.split_once('\t')?;
            let short = name.rsplit('/').next()?.split(':').next()?;
            Some((short.to_owned(), TestImage { name: name.to_owned(), layout: layout.into() }))
        });
        let images: BTreeMap<_, _> = images.collect();
        if images.is_empty() {
            bail!("no images: {text:?}");
        }
        Ok(Self(images))
    }

    fn each(&self, name: impl Fn(&TestImage) -> String, helper: Option<&str>) -> Result<BTreeMap<&'static str, String>> {
        let found = IMAGES.iter().map(|&word| {
            let short = if word == "HELPER" { "gantry-helper".to_owned() } else { word.to_lowercase().replace('_', "-") };
            let image = self.0.get(&short).with_context(|| format!("`cargo xtask image --test` made no {short}"))?;
            let own = helper.filter(|_| word == "HELPER").map(str::to_owned);
            Ok((word, own.unwrap_or_else(|| name(image))))
        });
        found.collect()
    }
}

/// The program: `GANTRY`, or what was built beside this test.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GANTRY") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    // A test lies one directory deeper than the programs.
    let path = here.ancestors().skip(1).take(2).map(|directory| directory.join("gantry")).find(|path| path.is_file());
    path.with_context(|| format!("there is no gantry beside {}: `cargo build --package cli` makes it", here.display()))
}

/// The program without what the environment of a test would tell it.
pub fn gantry(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["KUBECONFIG", "CONFIG_FILE", "GANTRY_LOG", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Starts a program with its output in a file.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    command.spawn().with_context(|| format!("failed to start {:?}", command.as_std().get_program()))
}

/// SIGTERM, and whether the program then ended well in time.
pub async fn stop(child: &mut Child) -> bool {
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
        // It may have ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    matches!(tokio::time::timeout(Duration::from_secs(20), child.wait()).await, Ok(Ok(status)) if status.success())
}

/// What a file holds so far.
pub fn text_of(file: &Path) -> String {
    std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The last words of a log.
pub fn tail(text: &str) -> &str {
    let from = text.char_indices().rev().nth(1500).map_or(0, |(at, _)| at);
    &text[from..]
}

/// A port nobody listens at now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
