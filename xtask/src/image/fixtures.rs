//! The images that tests play with, on the cluster and on the embedded node.
//!
//! There is no registry in a test, so each is made here: small ones from busybox and two C programs of `e2e/cluster`,
//! the ones with git from the Debian of the helper image. Each lies below the cache by what it was made from: a second
//! call costs the build of the agent and some hashes.

use super::debian::Debian;
use super::layer::{Layer, Layers, digest};
use super::layout::{self, Image};
use super::platform::Platform;
use super::tree::Tree;
use crate::agent;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// An image for tests, as an OCI layout.
#[derive(Clone, Debug)]
pub struct TestImage {
    /// The whole name: registry, path and tag.
    pub name: String,
    /// The directory of the layout.
    pub layout: PathBuf,
}

const BUSYBOX: &str = "/bin/busybox";
const CREATED: &str = "2025-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a version of an image is kept that nobody made again.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Makes what is missing and returns all images for tests.
pub fn test_images() -> Result<Vec<TestImage>> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let layers = Layers::at(&cache);
    let platform = Platform::here()?;
    let shell = json!({"Env": [PATH], "Cmd": ["/bin/sh"]});
    let busybox = busybox(&layers)?;
    let debian = Debian::get(&layers, platform)?;
    let agent = agent_layer(&layers, &agent::build()?)?;
    let pause = compiled(&layers, "pause", "usr/bin/pause")?;
    let hello = compiled(&layers, "hello", "hello")?;
    let helper = format!("docker.io/library/{}", super::helper_name());
    let with_bash = json!({"Env": [PATH], "Cmd": ["/bin/bash"]});
    [
        ("gantry.test/pause:1", json!({"Env": [PATH], "Entrypoint": ["/usr/bin/pause"]}), vec![pause]),
        ("docker.io/library/busybox:latest", shell.clone(), vec![busybox.clone()]),
        ("docker.io/library/alpine:latest", shell, vec![busybox.clone()]),
        ("docker.io/library/nonroot:latest", json!({"Env": [PATH], "Cmd": ["/bin/sh"], "User": "1000:1000"}), vec![busybox]),
        ("docker.io/library/no-shell:latest", json!({"Env": [PATH], "Entrypoint": ["/hello"]}), vec![hello]),
        ("docker.io/library/debian-git:latest", with_bash, vec![debian.layer.clone()]),
        (&helper, super::helper_config(), vec![debian.layer, agent]),
    ]
    .into_iter()
    .map(|(name, config, layers)| kept(&cache, name, platform, (config, layers)))
    .collect()
}

/// Where images are kept.
pub fn cache() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(|| PathBuf::from("/var/cache")).join("gantry/images")
}

/// One process at a time makes images.
pub fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("failed to make {}", cache.display()))?;
    let file = File::create(cache.join("lock"))?;
    file.lock().with_context(|| format!("failed to lock {}", cache.display()))?;
    Ok(file)
}

/// The helper image's upper layer.
pub fn agent_layer(layers: &Layers, agent: &Path) -> Result<Layer> {
    let content = fs::read(agent).with_context(|| format!("failed to read {}", agent.display()))?;
    let key = format!("agent-{}", &digest(&content)[7..23]);
    layers.get(&key, "gantry-agent", || {
        let mut tree = Tree::default();
        tree.file("usr/bin/gantry-agent", 0o755, content);
        Ok(tree)
    })
}

/// The layout of an image below the cache, made if it is not there.
fn kept(cache: &Path, name: &str, platform: Platform, (config, layers): (Value, Vec<Layer>)) -> Result<TestImage> {
    let image = Image { architecture: platform.architecture(), created: CREATED.to_owned(), config, layers };
    let made_from = format!("{name} {} {}", image.config, image.layers.iter().map(|it| it.digest.as_str()).collect::<String>());
    let short = name.rsplit('/').next().and_then(|last| last.split(':').next()).unwrap_or(name);
    let versions = cache.join(short);
    let layout = versions.join(&digest(made_from.as_bytes())[7..23]);
    if layout.join("oci-layout").exists() {
        File::open(&layout)?.set_modified(SystemTime::now())?;
    } else {
        fs::create_dir_all(&versions)?;
        let fresh = tempfile::tempdir_in(&versions)?;
        layout::write(fresh.path(), name, &[image])?;
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let fresh = fresh.keep();
        fs::rename(&fresh, &layout).with_context(|| format!("failed to keep {}", layout.display()))?;
        forget_old(&versions)?;
    }
    Ok(TestImage { name: name.to_owned(), layout })
}

fn forget_old(versions: &Path) -> Result<()> {
    for entry in fs::read_dir(versions)? {
        let entry = entry?;
        let is_old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > KEPT);
        if is_old {
            fs::remove_dir_all(entry.path()).with_context(|| format!("failed to remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A machine's static busybox with all its names, a root and a user 1000.
fn busybox(layers: &Layers) -> Result<Layer> {
    let program = fs::read(BUSYBOX).with_context(|| format!("failed to read {BUSYBOX} (apt-get install busybox-static)"))?;
    if !is_static(&program) {
        bail!("{BUSYBOX} is not static (apt-get install busybox-static)");
    }
    let key = format!("busybox-{}", &digest(&program)[7..23]);
    layers.get(&key, "busybox", || {
        let list = Command::new(BUSYBOX).arg("--list").output().with_context(|| format!("failed to start {BUSYBOX}"))?;
        let mut tree = Tree::default();
        for applet in String::from_utf8(list.stdout)?.lines().filter(|applet| *applet != "busybox") {
            tree.symlink(&format!("bin/{applet}"), "busybox");
        }
        tree.file("bin/busybox", 0o755, program);
        tree.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n");
        tree.file("etc/group", 0o644, "root:x:0:\nuser:x:1000:\n");
        tree.directory("tmp", 0o1777);
        tree.directory("root", 0o700);
        tree.directory("home/user", 0o755);
        tree.own("home/user", 1000, 1000);
        Ok(tree)
    })
}

/// Whether a 64-bit ELF program names no interpreter (a program header of type 3).
fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let kinds = || {
        let (start, step, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).map(|nth| number(usize::try_from(start + nth * step).ok()?, 4)).collect::<Option<Vec<_>>>()
    };
    program.starts_with(b"\x7fELF\x02") && kinds().is_some_and(|kinds| !kinds.contains(&INTERPRETER))
}

/// A C program of `e2e/cluster/images`, static and alone.
fn compiled(layers: &Layers, name: &str, at: &str) -> Result<Layer> {
    let source = crate::root().join("e2e/cluster/images").join(name).with_extension("c");
    let text = fs::read(&source).with_context(|| format!("failed to read {}", source.display()))?;
    let key = format!("{name}-{}", &digest(&text)[7..23]);
    layers.get(&key, name, || {
        let place = tempfile::tempdir()?;
        let program = place.path().join(name);
        let mut command = Command::new("musl-gcc");
        crate::run(command.args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source))?;
        let mut tree = Tree::default();
        tree.file(at, 0o755, fs::read(&program)?);
        Ok(tree)
    })
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert!(!is_static(&shell));
        assert!(!is_static(b"#!/bin/sh"));
    }
}
