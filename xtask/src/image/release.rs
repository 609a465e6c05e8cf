//! Gantry's own images: `gantry`, the manager, and `gantry-helper`, which runs beside each job.

use super::compile;
use super::debian::Debian;
use super::fixtures::{agent_layer, cache, lock};
use super::layer::{Layer, Layers, digest, file_digest, replace};
use super::layout::{self, Image};
use super::platform::Platform;
use super::sbom::Parts;
use super::tree::Tree;
use crate::{agent, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of the manager's image, as they lie on a node.
const MAX_MANAGER: u64 = 40 * 1000 * 1000;
/// GitLab Runner's user in its Alpine image, so that its chart's security context and its volumes fit.
const USER: (u64, u64) = (100, 65533);
const HOME: &str = "home/gitlab-runner";
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// What is made.
#[derive(Debug)]
pub struct Request {
    pub platforms: Vec<Platform>,
    /// Make the Debian again, with the updates of the day.
    pub fresh: bool,
}

/// Makes both images in `target/images` and prints what became of them.
pub fn make(request: &Request) -> Result<()> {
    for platform in &request.platforms {
        platform.check()?;
    }
    let cache = cache();
    let _lock = lock(&cache)?;
    let layers = Layers::at(&cache);
    let (mut managers, mut helpers) = (vec![], vec![]);
    for platform in request.platforms.iter().copied() {
        if request.fresh {
            Debian::forget(&layers, platform)?;
        }
        let debian = Debian::get(&layers, platform)?;
        managers.push((platform, vec![manager_layer(&layers, platform, &debian)?], debian.clone()));
        let agent = agent_layer(&layers, &compile::agent(platform)?)?;
        helpers.push((platform, vec![debian.layer.clone(), agent], debian));
    }
    let version = env!("CARGO_PKG_VERSION");
    let ours = Product {
        name: &format!("gantry:{version}"),
        title: "gantry",
        about: "Runs GitLab CI jobs as Kubernetes pods",
        program: "cli",
    };
    ours.write(manager_config(), managers, Some(&["ca-certificates"]))?;
    let helper = Product {
        name: &super::helper_name(),
        title: "gantry-helper",
        about: "Git, artifacts and caches beside a job that gantry runs",
        program: "agent",
    };
    helper.write(super::helper_config(), helpers, None)
}

struct Product<'a> {
    name: &'a str,
    title: &'a str,
    about: &'a str,
    program: &'a str,
}

impl Product<'_> {
    fn write(&self, mut config: Value, made: Vec<(Platform, Vec<Layer>, Debian)>, debian: Option<&[&str]>) -> Result<()> {
        let created = commit("--format=%cd")?;
        config["Labels"] = json!({
            "org.opencontainers.image.title": self.title,
            "org.opencontainers.image.description": self.about,
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            "org.opencontainers.image.created": created,
            "org.opencontainers.image.revision": commit("--format=%H")?,
        });
        let mut parts = Parts::default();
        let mut images = vec![];
        for (platform, layers, base) in made {
            parts.crates(self.program, platform)?;
            parts.debian(&fs::read_to_string(&base.status)?, debian);
            images.push(Image {
                architecture: platform.architecture(),
                created: created.clone(),
                config: config.clone(),
                layers,
            });
        }
        let directory = agent::target_directory().join("images");
        fs::create_dir_all(&directory)?;
        let fresh = tempfile::tempdir_in(&directory)?;
        let layout = directory.join(self.title);
        let digest = layout::write(fresh.path(), self.name, &images)?;
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        exchange(fresh.keep(), &layout)?;
        let sbom = layout.with_extension("spdx.json");
        let document = parts.document(self.name, &digest, &created);
        replace(&sbom, (serde_json::to_string_pretty(&document)? + "\n").as_bytes())?;
        let bytes: u64 = images.iter().flat_map(|image| &image.layers).map(|layer| layer.size).sum();
        println!("{}\t{digest}\t{bytes} bytes\t{}\t{}", self.name, layout.display(), sbom.display());
        Ok(())
    }
}

/// Puts a directory where another may be.
fn exchange(fresh: PathBuf, place: &Path) -> Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to remove {}", place.display()));
        }
        _ => {}
    }
    fs::rename(fresh, place).with_context(|| format!("failed to make {}", place.display()))
}

/// A field of the commit that is built, its times in UTC.
fn commit(format: &str) -> Result<String> {
    let output = Command::new("git")
        .args(["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", format])
        .env("TZ", "UTC0")
        .current_dir(root())
        .output()
        .context("failed to start git")?;
    if !output.status.success() {
        bail!("git log: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The whole of the manager's image: a program, certificates, and a user with a home.
fn manager_layer(layers: &Layers, platform: Platform, debian: &Debian) -> Result<Layer> {
    let program = compile::gantry(platform)?;
    let certificates = fs::read(&debian.certificates)?;
    let bytes = fs::metadata(&program)?.len() + certificates.len() as u64;
    if bytes > MAX_MANAGER {
        bail!("the manager's image has {bytes} bytes, more than its budget of {MAX_MANAGER}");
    }
    eprintln!("gantry: {}, static, {bytes} bytes with its certificates", platform.target());
    let key = format!("gantry-{}", &digest(format!("{} {}", file_digest(&program)?.0, digest(&certificates)).as_bytes())[7..23]);
    layers.get(&key, "gantry", || {
        let (user, group) = USER;
        let mut tree = Tree::default();
        tree.file("usr/bin/gantry", 0o755, fs::read(&program)?);
        tree.file(CERTIFICATES, 0o644, certificates);
        let passwd =
            format!("root:x:0:0:root:/root:/sbin/nologin\ngitlab-runner:x:{user}:{group}:gantry:/{HOME}:/sbin/nologin\n");
        tree.file("etc/passwd", 0o644, passwd);
        tree.file("etc/group", 0o644, format!("root:x:0:\ngitlab-runner:x:{group}:\n"));
        tree.directory("tmp", 0o1777);
        // Any user of the root group may use them too: some clusters run each namespace as a user of its own.
        for directory in [HOME, "home/gitlab-runner/.gitlab-runner", "etc/gitlab-runner"] {
            tree.directory(directory, 0o770);
            tree.own(directory, user, 0);
        }
        Ok(tree)
    })
}

fn manager_config() -> Value {
    let (user, group) = USER;
    json!({
        "User": format!("{user}:{group}"),
        "Env": ["PATH=/usr/bin", format!("HOME=/{HOME}"), format!("SSL_CERT_FILE=/{CERTIFICATES}")],
        "Entrypoint": ["/usr/bin/gantry"],
        "Cmd": ["run"],
        "WorkingDir": format!("/{HOME}"),
    })
}
