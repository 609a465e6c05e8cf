//! `gantry node`: the embedded node alone, with its Kubernetes API over TLS.

use crate::arguments::NodeArguments;
use crate::{agent_binary, ci};
use anyhow::{Context, Result};
use kube_server::tls::{Serving, serve_tls};
use node::{Node, NodeOptions};
use std::path::Path;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Where the live state of all nodes of this machine lies.
pub const RUN_DIRECTORY: &str = "/run/gantry";
/// Where images and certificates lie.
pub const DATA_DIRECTORY: &str = "/var/lib/gantry";

/// Runs the node until it is told to stop.
///
/// # Errors
/// When this machine cannot run pods, or the address is taken.
pub fn run(arguments: &NodeArguments) -> Result<ExitCode> {
    node::enter()?;
    telemetry::start("info", telemetry::Format::Text)?;
    ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    runtime.block_on(serve(arguments))?;
    Ok(ExitCode::SUCCESS)
}

/// What a node of this machine is made with.
///
/// # Errors
/// When the static agent cannot be found.
pub fn options(host_paths: &[std::path::PathBuf]) -> Result<NodeOptions> {
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    let search = std::env::var("PATH").unwrap_or_default();
    let chosen = node::choose_host_paths(&search, Path::new(&home));
    for (path, reason) in &chosen.left_out {
        tracing::info!(path = %path.display(), "the host image does not show this directory of PATH: {reason}");
    }
    let mut paths = chosen.paths;
    for path in host_paths {
        let absolute = path.canonicalize().with_context(|| format!("failed to find --host-path {}", path.display()))?;
        paths.push(absolute);
    }
    Ok(NodeOptions {
        run_dir: RUN_DIRECTORY.into(),
        data_dir: DATA_DIRECTORY.into(),
        agent: Some(agent_binary::find()?),
        host_paths: paths,
        insecure_registries: Vec::new(),
    })
}

async fn serve(arguments: &NodeArguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Node::start(options(&[])?).await.context("failed to start the node")?;
    let serving = match listen(&node, arguments).await {
        Ok(serving) => serving,
        Err(error) => {
            node.shutdown().await;
            return Err(error);
        }
    };
    let swept = node.swept();
    if swept.instances > 0 {
        tracing::warn!(?swept, "removed what an earlier run had left");
    }
    for port in &arguments.allowed_ports {
        node.allow_port(*port);
    }
    let (address, gateway) = (serving.local_addr(), node.gateway());
    tracing::info!(%address, %gateway, ports = ?arguments.allowed_ports, "the node is ready");
    match &arguments.kubeconfig {
        Some(file) => tracing::info!("try: kubectl --kubeconfig {} get pods -A", file.display()),
        None => tracing::warn!("nobody can use the node without a kubeconfig; --kubeconfig FILE writes one"),
    }
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("stopping: pods are ended");
    tokio::select! {
        () = node.shutdown() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Serves the node's API to whoever has its kubeconfig.
async fn listen(node: &Node, arguments: &NodeArguments) -> Result<Serving> {
    let state = Path::new(DATA_DIRECTORY).join("tls");
    let serving = serve_tls(node.router(), arguments.listen, &state, arguments.kubeconfig.as_deref());
    serving.await.context("failed to serve the Kubernetes API")
}
