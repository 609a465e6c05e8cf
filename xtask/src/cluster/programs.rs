//! The programs of the cluster, cached by version: unpacked where somebody has built them before, built from their Go modules where not.
//!
//! There is no registry and no download page in this: the Go module proxy has all of Kubernetes, containerd and runc, by checksum.

use super::paths::cache;
use super::process::quietly;
use crate::{root, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufReader, copy};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub const KUBERNETES: &str = "1.34.4";

/// The one program with every component of Kubernetes in it.
pub fn kube_all() -> PathBuf {
    cache().join(format!("kube-all-{KUBERNETES}"))
}

/// kubectl of the same version, as the cluster's administrator.
pub fn kubectl(kubeconfig: &Path) -> Command {
    let mut command = Command::new(kube_all());
    command.arg("kubectl").arg("--kubeconfig").arg(kubeconfig);
    command
}

/// Removes all programs.
pub fn remove() -> Result<()> {
    for kept in [kube_all(), Containerd::Two.directory()] {
        if kept.is_dir() {
            fs::remove_dir_all(&kept).with_context(|| format!("failed to remove {}", kept.display()))?;
        } else if kept.exists() {
            fs::remove_file(&kept).with_context(|| format!("failed to remove {}", kept.display()))?;
        }
    }
    Ok(())
}

/// Makes `kube-all` when it is not there.
pub fn ensure_kube_all() -> Result<()> {
    let kept = kube_all();
    if kept.exists() {
        return Ok(());
    }
    let fresh = beside(&kept)?;
    let packed = root().join(format!("../shared/cluster/bin/kube-all-{KUBERNETES}.zst"));
    if packed.exists() {
        eprintln!("unpacking Kubernetes {KUBERNETES} into {}", kept.display());
        unpack(&packed, &fresh)?;
    } else {
        eprintln!("building Kubernetes {KUBERNETES} from its Go modules into {}: 10 to 15 minutes on two cores", kept.display());
        let version = "k8s.io/component-base/version";
        let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
        let flags = format!("-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}");
        go(&root().join("e2e/cluster/kubernetes"), &["-trimpath", "-ldflags", &flags], ".", &fresh, &[("CGO_ENABLED", "0")])?;
    }
    let said = quietly(Command::new(&fresh).args(["kubelet", "--version"]))?;
    if !said.contains(KUBERNETES) {
        bail!("{} is not Kubernetes {KUBERNETES} but {}", fresh.display(), said.trim());
    }
    fs::rename(&fresh, &kept).with_context(|| format!("failed to move {}", fresh.display()))
}

/// A name beside the final one, so that a broken build is never taken for a program.
fn beside(kept: &Path) -> Result<PathBuf> {
    let directory = kept.parent().context("the cache has no parent directory")?;
    fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    let mut name = kept.file_name().context("the program has no name")?.to_owned();
    name.push(format!(".new-{}", std::process::id()));
    Ok(directory.join(name))
}

fn unpack(packed: &Path, into: &Path) -> Result<()> {
    let shown = || format!("failed to unpack {}", packed.display());
    let mut decoder = zstd::Decoder::new(BufReader::new(File::open(packed).with_context(shown)?)).with_context(shown)?;
    let mut out = File::create(into).with_context(shown)?;
    copy(&mut decoder, &mut out).with_context(shown)?;
    fs::set_permissions(into, fs::Permissions::from_mode(0o755)).with_context(shown)
}

/// Builds one package of a Go module and says how long it took.
fn go(module: &Path, flags: &[&str], package: &str, into: &Path, environment: &[(&str, &str)]) -> Result<()> {
    if Command::new("go").arg("version").output().is_err() {
        bail!("Go is not installed, and {} has to be built; install Go 1.26 or newer", module.display());
    }
    let began = Instant::now();
    let mut command = Command::new("go");
    command.arg("-C").arg(module).arg("build").args(flags).arg("-o").arg(into).arg(package).envs(environment.iter().copied());
    run(&mut command)?;
    eprintln!("built in {} s", began.elapsed().as_secs());
    Ok(())
}

/// Which containerd runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// Debian's 1.6 with its runc.
    One,
    /// 2.x and a newer runc from their Go modules: user namespaces for pods, and image volumes.
    Two,
}

/// The versions that `e2e/cluster/containerd2` and `e2e/cluster/runc` pin.
const CONTAINERD_2: &str = "2.2.9";
const RUNC: &str = "1.3.6";

impl Containerd {
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "1" => Ok(Self::One),
            "2" => Ok(Self::Two),
            other => bail!("--containerd takes 1 or 2, not {other}"),
        }
    }

    pub fn digit(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
        }
    }

    pub fn config(self) -> String {
        format!("containerd-{}.toml", self.digit())
    }

    /// Where its programs lie.
    pub fn directory(self) -> PathBuf {
        match self {
            Self::One => PathBuf::from("/usr/bin"),
            Self::Two => cache().join(format!("containerd-{CONTAINERD_2}-runc-{RUNC}")),
        }
    }

    pub fn program(self, name: &str) -> String {
        self.directory().join(name).display().to_string()
    }

    /// Makes its programs when they are not there.
    pub fn ensure(self) -> Result<()> {
        let kept = self.directory();
        if self == Self::One || kept.exists() {
            return Ok(());
        }
        crate::setup::containerd_packages()?;
        eprintln!("building containerd {CONTAINERD_2} and runc {RUNC} from their Go modules into {}", kept.display());
        let fresh = beside(&kept)?;
        fs::create_dir_all(&fresh).with_context(|| format!("failed to make {}", fresh.display()))?;
        let module = root().join("e2e/cluster/containerd2");
        let package = "github.com/containerd/containerd/v2";
        let flags = format!("-s -w -X {package}/version.Version=v{CONTAINERD_2}");
        for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
            let source = format!("{package}/cmd/{program}");
            go(&module, &["-trimpath", "-ldflags", &flags], &source, &fresh.join(program), &[("CGO_ENABLED", "0")])?;
        }
        let flags = format!("-s -w -X main.version={RUNC}");
        let runc = root().join("e2e/cluster/runc");
        go(
            &runc,
            &["-trimpath", "-ldflags", &flags],
            "github.com/opencontainers/runc",
            &fresh.join("runc"),
            &[("CGO_ENABLED", "1")],
        )?;
        fs::rename(&fresh, &kept).with_context(|| format!("failed to move {}", fresh.display()))
    }
}
