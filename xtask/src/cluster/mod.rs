//! `cargo xtask cluster`: a real Kubernetes of one node on this machine, for the scenarios and the benchmark.
//!
//! The control plane and the node are the genuine programs, started as plain processes: no Docker, no virtual machine, no registry.
//! What it is, its paths and its traps are described in `e2e/cluster/README.md`.

mod certificates;
mod components;
mod images;
mod leftovers;
mod network;
mod paths;
mod process;
mod programs;

use paths::Paths;

use crate::image::TestImage;
use crate::setup;
use anyhow::{Context, Result, bail};
use components::COMPONENTS;
use process::{quietly, running};
use programs::{Containerd, kubectl};
use std::fs;
use std::process::Command;
use std::time::Duration;

const USAGE: &str = "usage: cargo xtask cluster COMMAND

  up [--containerd 1|2]     starts what does not run and waits until the node is ready
  down                      ends what up started; the state stays
  purge [--cache]           down, and removes the state; with --cache the programs too
  kubeconfig                prints the kubeconfig's path
  images                    imports the images that were rebuilt
  restart COMPONENT [--down SECONDS]
                            ends a component, waits, starts it again and waits until it is ready";

/// How long a component may take to end by itself. The API server would wait for its watches for most of a minute; what it has to
/// keep is in etcd by then.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command that the words say.
pub fn main(words: &[String]) -> Result<()> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let paths = Paths::new()?;
    match words.as_slice() {
        ["kubeconfig"] => return print_kubeconfig(&paths),
        ["up" | "down" | "purge" | "images" | "restart", ..] if !setup::is_root() => {
            bail!("the cluster's kubelet and containerd need root")
        }
        _ => {}
    }
    match words.as_slice() {
        ["up"] => up(&paths, None),
        ["up", "--containerd", version] => up(&paths, Some(Containerd::parse(version)?)),
        ["down"] => down(&paths),
        ["purge"] => purge(&paths),
        ["purge", "--cache"] => purge(&paths).and_then(|()| programs::remove()),
        ["images"] => import_images(&paths),
        ["restart", name] => restart(&paths, name, 0),
        ["restart", name, "--down", seconds] => {
            restart(&paths, name, seconds.parse().with_context(|| format!("--down takes seconds, not {seconds}"))?)
        }
        _ => bail!("{USAGE}"),
    }
}

/// Whether `up` has been here and its API server runs.
pub fn is_up() -> Result<bool> {
    let paths = Paths::new()?;
    Ok(paths.kubeconfig().exists() && running(&paths, "apiserver").is_some())
}

fn print_kubeconfig(paths: &Paths) -> Result<()> {
    if !is_up()? {
        bail!("the cluster is not up (cargo xtask cluster up)");
    }
    println!("{}", paths.kubeconfig().display());
    Ok(())
}

fn up(paths: &Paths, wanted: Option<Containerd>) -> Result<()> {
    setup::cluster_packages()?;
    // Before the lock: the images hold the agent, whose build can take minutes.
    let images = crate::image::test_images()?;
    let _lock = paths.lock()?;
    forget_another_boot(paths)?;
    let recorded = recorded_containerd(paths)?;
    let containerd = wanted.or(recorded).unwrap_or(Containerd::One);
    if recorded.is_some_and(|recorded| recorded != containerd) {
        eprintln!("changing to containerd {}: ending what runs", containerd.digit());
        end(paths)?;
    }
    programs::ensure_kube_all()?;
    containerd.ensure()?;
    paths::write(&paths.state.join("containerd"), containerd.digit())?;
    if certificates::make(paths)? {
        eprintln!("certificates: made");
    }
    components::configure(paths, containerd)?;
    // Pods see what the kubelet mounts for them only when mounts reach other namespaces.
    quietly(Command::new("mount").args(["--make-rshared", "/"]))?;
    leftovers::make_cgroups()?;
    network::make()?;
    for name in COMPONENTS {
        if name == "kubelet" {
            import_all(paths, &images)?;
            forget_node(paths)?;
        }
        components::ensure(paths, name, containerd)?;
    }
    components::await_node(paths)?;
    components::await_service_account(paths)?;
    eprintln!("the cluster is up, with containerd {}", containerd.digit());
    println!("{}", paths.kubeconfig().display());
    Ok(())
}

/// A state from before the machine's last start is removed: its processes are gone, its pods too, and etcd did not sync.
fn forget_another_boot(paths: &Paths) -> Result<()> {
    let now = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("failed to read the boot's id")?;
    let record = paths.state.join("boot");
    if fs::read_to_string(&record).is_ok_and(|then| then != now) {
        eprintln!("the state is from before the machine started: it is removed");
        end(paths)?;
        empty(paths)?;
    }
    paths::write(&record, &now)
}

fn recorded_containerd(paths: &Paths) -> Result<Option<Containerd>> {
    fs::read_to_string(paths.state.join("containerd")).ok().map(|text| Containerd::parse(&text)).transpose()
}

/// A node from before the last `down` would look ready at once, by its old conditions.
fn forget_node(paths: &Paths) -> Result<()> {
    if running(paths, "kubelet").is_none() {
        quietly(kubectl(&paths.kubeconfig()).args(["delete", "node", paths::NODE, "--ignore-not-found", "--timeout=30s"]))?;
    }
    Ok(())
}

fn down(paths: &Paths) -> Result<()> {
    let _lock = paths.lock()?;
    end(paths)?;
    eprintln!("the cluster is down; its state stays in {}", paths.state.display());
    Ok(())
}

/// Pods first, while there is a kubelet that ends them as it should; then the components; then what is left of either.
fn end(paths: &Paths) -> Result<()> {
    if ["apiserver", "containerd", "kubelet"].iter().all(|name| running(paths, name).is_some()) {
        end_pods(paths);
    }
    for name in COMPONENTS.iter().rev() {
        if process::stop(paths, name, GRACE)? {
            eprintln!("{name}: ended");
        }
    }
    leftovers::remove(paths)?;
    network::remove()?;
    let _ = fs::remove_dir_all(paths.state.join("ipam"));
    Ok(())
}

/// A best effort with a limit: what resists is ended by force afterwards.
fn end_pods(paths: &Paths) {
    eprintln!("pods: ending");
    let _ = quietly(kubectl(&paths.kubeconfig()).args([
        "delete",
        "pods",
        "--all",
        "--all-namespaces",
        "--grace-period=0",
        "--force",
        "--request-timeout=20s",
        "--wait=false",
    ]));
    let none_left = || Ok(quietly(images::ctr(paths).args(["tasks", "list", "--quiet"]))?.trim().is_empty());
    if let Err(error) = process::await_for("the pods' end", 20, none_left) {
        eprintln!("pods: {error:#}; ended by force");
    }
}

fn purge(paths: &Paths) -> Result<()> {
    let lock = paths.lock()?;
    end(paths)?;
    empty(paths)?;
    fs::remove_dir_all(&paths.state).with_context(|| format!("failed to remove {}", paths.state.display()))?;
    drop(lock);
    eprintln!("the cluster is gone");
    Ok(())
}

/// Removes all of the state but the lock, which we hold.
fn empty(paths: &Paths) -> Result<()> {
    for entry in fs::read_dir(&paths.state).with_context(|| format!("failed to read {}", paths.state.display()))? {
        let entry = entry?;
        let removed = match entry.file_name() {
            name if name == "lock" => Ok(()),
            _ if entry.file_type()?.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
        removed.with_context(|| format!("failed to remove {}", entry.path().display()))?;
    }
    // The lock's own directories are expected by what follows.
    paths.make_directories()
}

fn import_images(paths: &Paths) -> Result<()> {
    let images = crate::image::test_images()?;
    let _lock = paths.lock()?;
    if running(paths, "containerd").is_none() {
        bail!("the cluster is not up (cargo xtask cluster up)");
    }
    import_all(paths, &images)
}

fn import_all(paths: &Paths, all: &[TestImage]) -> Result<()> {
    for image in all {
        images::import(paths, &image.name, &image.layout)?;
    }
    Ok(())
}

fn restart(paths: &Paths, name: &str, seconds: u64) -> Result<()> {
    let _lock = paths.lock()?;
    let containerd = recorded_containerd(paths)?.context("the cluster is not up (cargo xtask cluster up)")?;
    if !COMPONENTS.contains(&name) {
        bail!("there is no component {name}; there are {}", COMPONENTS.join(", "));
    }
    process::stop(paths, name, GRACE)?;
    eprintln!("{name}: ended");
    std::thread::sleep(Duration::from_secs(seconds));
    components::ensure(paths, name, containerd)?;
    if ["apiserver", "kubelet", "containerd"].contains(&name) {
        components::await_node(paths)?;
    }
    Ok(())
}
