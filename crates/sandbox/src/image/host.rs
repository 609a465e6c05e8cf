//! The `host` image: this machine's programs on a root of their own.
//!
//! Not an overlay over `/`, because container root would read all of it: homes, state, password hashes. Instead a skeleton
//! with empty directories and a filtered `/etc`, an overlay over the real `/usr` (writable for the container alone, so that
//! packages can be installed), and the toolchains the user chose, read-only. Builtin images are this one with files laid in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::layers::Digesting;
use super::{BuiltinImage, HostOptions, ImageConfig, credentials, etc, paths};
use crate::{Bind, IdRange, Layer, Overlay, Rootfs};

/// Directories of the skeleton and their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
    ("var/lib", 0o755),
    ("var/cache", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
];
/// What a machine with a merged `/usr` has as links.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What package managers know about `/usr`: shown as they are and changed for the container alone.
const PACKAGE_DATABASES: &[&str] = &["/var/lib/dpkg", "/var/lib/rpm", "/var/lib/pacman"];
/// Directories of `/var` whose children packages expect, empty.
const STATE: &[&str] = &["/var/lib", "/var/cache", "/var/log", "/var/spool"];
const STATE_ENTRIES: usize = 1000;
const STANDARD_PATH: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Gives files to the range of ids that pods live in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(pub IdRange);

impl Owner {
    /// `uid` and `gid` as the image means them; who is outside the range becomes nobody.
    pub(super) fn give(self, path: &Path, uid: u32, gid: u32) -> Result<(), ImageError> {
        let shift = |id: u32| self.0.base + if id < self.0.size { id } else { (self.0.size - 1).min(65_534) };
        std::os::unix::fs::lchown(path, Some(shift(uid)), Some(shift(gid))).map_err(ImageError::disk("change the owner of", path))
    }
}

/// Where the parts of the host image lie in the store, made once for a process.
#[derive(Debug)]
pub(super) struct HostImage {
    rootfs: Rootfs,
    config: ImageConfig,
    directory: PathBuf,
    owner: Owner,
}

impl HostImage {
    /// Builds the skeleton in `directory`, which is made.
    pub(super) fn build(directory: &Path, ids: IdRange, options: &HostOptions) -> Result<HostImage, ImageError> {
        let owner = Owner(ids);
        let skeleton = directory.join("root");
        make_directory(&skeleton, 0o755, owner)?;
        for (name, mode) in DIRECTORIES {
            make_directory(&skeleton.join(name), *mode, owner)?;
        }
        link_merged_usr(&skeleton, owner)?;
        for (link, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
            make_link(&skeleton.join(link), Path::new(target), owner)?;
        }
        etc::copy(Path::new("/etc"), &skeleton.join("etc"), owner)?;
        empty_state(&skeleton, owner)?;
        let mut rootfs = Rootfs {
            overlays: vec![
                Overlay { at: PathBuf::from("/"), lower: vec![Layer { path: skeleton.clone(), idmap: false }] },
                Overlay { at: PathBuf::from("/usr"), lower: vec![Layer { path: PathBuf::from("/usr"), idmap: true }] },
            ],
            binds: Vec::new(),
        };
        for database in PACKAGE_DATABASES.iter().map(Path::new).filter(|path| path.is_dir()) {
            mount_point(&skeleton, database, owner)?;
            let lower = vec![Layer { path: database.to_owned(), idmap: true }];
            rootfs.overlays.push(Overlay { at: database.to_owned(), lower });
        }
        let shown = show_paths(directory, &skeleton, owner, options, &mut rootfs.binds)?;
        let config = ImageConfig { env: environment(options, &shown), working_dir: "/".to_owned(), ..ImageConfig::default() };
        Ok(HostImage { rootfs, config, directory: directory.to_owned(), owner })
    }

    /// The image without anything laid in.
    pub(super) fn image(&self) -> super::Image {
        super::Image { id: self.id("host", &[]), root: self.rootfs.clone(), config: self.config.clone() }
    }

    /// The image with the files of `builtin`, copied into layers of their own.
    pub(super) fn with_files(&self, builtin: &BuiltinImage) -> Result<super::Image, ImageError> {
        let mut root = self.rootfs.clone();
        let mut parts = Vec::new();
        for overlay in &mut root.overlays {
            // A colon would end the directory's name in the kernel's list of layers.
            let name = builtin.name.replace([':', '/'], "_");
            let layer = self.directory.join(format!("{name}{}", overlay.at.to_string_lossy().replace('/', "_")));
            let mut any = false;
            for (here, there) in builtin.files.iter().filter(|(_, there)| overlay_of(&self.rootfs, there) == Some(&overlay.at)) {
                let inside = there.strip_prefix(&overlay.at).unwrap_or(there);
                if !any {
                    make_directory(&layer, 0o755, self.owner)?;
                }
                lay_in(here, &layer, inside, self.owner)?;
                parts.push(content_id(here)?);
                any = true;
            }
            if any {
                overlay.lower.insert(0, Layer { path: layer, idmap: false });
            }
        }
        Ok(super::Image { id: self.id(&builtin.name, &parts), root, config: self.config.clone() })
    }

    fn id(&self, name: &str, parts: &[String]) -> String {
        let mut hash = Sha256::new();
        hash.update(name);
        for part in parts
            .iter()
            .map(String::as_bytes)
            .chain(self.rootfs.binds.iter().map(|bind| bind.target.as_os_str().as_encoded_bytes()))
        {
            hash.update([0]);
            hash.update(part);
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }
}

fn content_id(path: &Path) -> Result<String, ImageError> {
    let file = fs::File::open(path).map_err(ImageError::disk("open", path))?;
    let mut content = Digesting::new(file, u64::MAX);
    io::copy(&mut content, &mut io::sink()).map_err(ImageError::disk("read", path))?;
    Ok(content.finish())
}

/// The innermost overlay that `path` lies in.
fn overlay_of<'a>(rootfs: &'a Rootfs, path: &Path) -> Option<&'a PathBuf> {
    rootfs.overlays.iter().map(|overlay| &overlay.at).filter(|at| path.starts_with(at)).max_by_key(|at| at.components().count())
}

fn lay_in(here: &Path, layer: &Path, inside: &Path, owner: Owner) -> Result<(), ImageError> {
    if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(ImageError::Host { reason: format!("{} is no place for a file", inside.display()) });
    }
    if let Some(parent) = inside.parent() {
        mount_point(layer, parent, owner)?;
    }
    let target = layer.join(inside);
    fs::copy(here, &target).map_err(ImageError::disk("copy", here))?;
    owner.give(&target, 0, 0)?;
    let mode = if executable(here) { 0o755 } else { 0o644 };
    fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(ImageError::disk("set the mode of", &target))
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o111 != 0)
}

fn make_directory(path: &Path, mode: u32, owner: Owner) -> Result<(), ImageError> {
    fs::create_dir_all(path).map_err(ImageError::disk("make", path))?;
    owner.give(path, 0, 0)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(ImageError::disk("set the mode of", path))
}

fn make_link(path: &Path, target: &Path, owner: Owner) -> Result<(), ImageError> {
    symlink(target, path).map_err(ImageError::disk("make", path))?;
    owner.give(path, 0, 0)
}

/// A directory below `root` at `path` to mount something on, with its parents. Parents that were private are opened: what is
/// mounted below must be reachable for every user of the container.
fn mount_point(root: &Path, path: &Path, owner: Owner) -> Result<PathBuf, ImageError> {
    let mut at = root.to_owned();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        at.push(name);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() && metadata.mode() & 0o055 == 0o055 => {}
            _ => make_directory(&at, 0o755, owner)?,
        }
    }
    Ok(at)
}

fn link_merged_usr(skeleton: &Path, owner: Owner) -> Result<(), ImageError> {
    for name in MERGED {
        let here = Path::new("/").join(name);
        let Ok(metadata) = fs::symlink_metadata(&here) else { continue };
        if !metadata.is_symlink() {
            let reason =
                format!("/{name} is a directory of its own here; it needs a merged /usr, where /{name} is a link into it");
            return Err(ImageError::Host { reason });
        }
        let target = fs::read_link(&here).map_err(ImageError::disk("read", &here))?;
        make_link(&skeleton.join(name), &target, owner)?;
    }
    Ok(())
}

/// The directories that installed packages have below `/var`, without anything in them.
fn empty_state(skeleton: &Path, owner: Owner) -> Result<(), ImageError> {
    for parent in STATE {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten().take(STATE_ENTRIES) {
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_dir() || entry.file_name() == "gantry" {
                continue;
            }
            let target = skeleton.join(&parent[1..]).join(entry.file_name());
            make_directory(&target, metadata.mode() & 0o7777, owner)?;
            owner.give(&target, metadata.uid(), metadata.gid())?;
        }
    }
    for needed in ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
        mount_point(skeleton, Path::new(needed), owner)?;
    }
    Ok(())
}

/// Binds for the chosen paths and the masks over their credentials. What was really there is returned.
fn show_paths(
    directory: &Path,
    skeleton: &Path,
    owner: Owner,
    options: &HostOptions,
    binds: &mut Vec<Bind>,
) -> Result<Vec<PathBuf>, ImageError> {
    let empty_directory = directory.join("empty-directory");
    make_directory(&empty_directory, 0o555, owner)?;
    let empty_file = directory.join("empty-file");
    fs::write(&empty_file, b"").map_err(ImageError::disk("write", &empty_file))?;
    owner.give(&empty_file, 0, 0)?;
    let mask = |target: PathBuf, whole: bool| Bind {
        source: if whole { empty_directory.clone() } else { empty_file.clone() },
        target,
        read_only: true,
        idmap: false,
    };
    let mut chosen = options.paths.clone();
    paths::fold(&mut chosen);
    let mut shown = Vec::new();
    for path in chosen {
        let Ok(source) = path.canonicalize() else {
            tracing::warn!(path = %path.display(), "not shown to jobs: it is not there any more");
            continue;
        };
        let file = !source.is_dir();
        if file {
            mount_point(skeleton, path.parent().unwrap_or(&path), owner)?;
            let target = skeleton.join(path.strip_prefix("/").unwrap_or(&path));
            fs::write(&target, b"").map_err(ImageError::disk("write", &target))?;
            owner.give(&target, 0, 0)?;
        } else {
            mount_point(skeleton, &path, owner)?;
        }
        binds.push(Bind { source: source.clone(), target: path.clone(), read_only: true, idmap: true });
        if !file {
            binds.extend(credentials::find(&source).into_iter().map(|it| mask(path.join(it.path), it.directory)));
        }
        binds.extend(masks_given(options, &path).map(|target| mask(target.clone(), target.is_dir())));
        shown.push(path);
    }
    let local = Path::new("/usr/local");
    binds.extend(credentials::find(local).into_iter().map(|it| mask(local.join(it.path), it.directory)));
    Ok(shown)
}

fn masks_given<'a>(options: &'a HostOptions, below: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
    options.mask.iter().filter(move |path| path.starts_with(below) && path.exists())
}

/// `PATH` with what can be seen of it, and where version managers are when that is not below the container's home.
fn environment(options: &HostOptions, shown: &[PathBuf]) -> Vec<(String, String)> {
    let path = options.path.clone().or_else(|| std::env::var("PATH").ok()).unwrap_or_default();
    let visible = |entry: &str| entry.starts_with("/usr/") || shown.iter().any(|root| Path::new(entry).starts_with(root));
    let mut entries: Vec<&str> = Vec::new();
    for entry in path.split(':').filter(|entry| visible(entry)).chain(STANDARD_PATH.iter().copied()) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let mut env = BTreeMap::from([("PATH".to_owned(), entries.join(":"))]);
    for (name, variable) in [(".rustup", "RUSTUP_HOME"), (".pyenv", "PYENV_ROOT"), (".nvm", "NVM_DIR"), (".rbenv", "RBENV_ROOT")]
    {
        if let Some(root) = shown.iter().find(|root| root.ends_with(name)) {
            env.insert(variable.to_owned(), root.display().to_string());
        }
    }
    env.into_iter().collect()
}
