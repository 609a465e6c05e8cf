//! This machine's `/etc`, without what is nobody's business in a job.
//!
//! Container root reads every file that is mounted, whatever its mode, so privacy has to come from leaving things out: files
//! the world may not read, password hashes, host keys, configuration of runners, networks and clusters. Programs that look
//! for `/etc/shadow` find one without passwords.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::credentials;
use super::error::ImageError;
use super::host::Owner;

/// Left out by path below `/etc`, whatever their mode is.
const PRIVATE: &[&str] = &[
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    "sudoers",
    "sudoers.d",
    "security/opasswd",
    "krb5.keytab",
    "ssl/private",
    "pki/tls/private",
    "letsencrypt",
    "gantry",
    "gitlab-runner",
    "NetworkManager/system-connections",
    "wpa_supplicant",
    "wireguard",
    "openvpn",
    "ipsec.secrets",
    "ipsec.d",
    "ppp",
    "docker",
    "kubernetes",
    "rancher",
    "ceph",
    "vault.d",
    "apt/auth.conf",
    "apt/auth.conf.d",
    "machine-id",
    "hosts",
    "hostname",
    "resolv.conf",
];
/// More than this is no configuration.
const FILE_BYTES: u64 = 16 << 20;
const DEPTH: usize = 16;

/// Copies `/etc` of this machine (`from`) to `to`, which is made.
pub(super) fn copy(from: &Path, to: &Path, owner: Owner) -> Result<(), ImageError> {
    copy_directory(from, Path::new(""), to, owner, DEPTH)?;
    for name in ["hosts", "hostname", "resolv.conf", "machine-id"] {
        // mount points, and on many machines links that lead out of here
        write(&to.join(name), b"", 0o644, 0, 0, owner)?;
    }
    shadow(to, owner)
}

fn copy_directory(from: &Path, inside: &Path, to: &Path, owner: Owner, depth: usize) -> Result<(), ImageError> {
    let source = from.join(inside);
    let metadata = fs::symlink_metadata(&source).map_err(ImageError::disk("look at", &source))?;
    let target = to.join(inside);
    fs::create_dir_all(&target).map_err(ImageError::disk("make", &target))?;
    if depth > 0 && metadata.mode() & 0o005 == 0o005 {
        let entries = fs::read_dir(&source).map_err(ImageError::disk("read", &source))?;
        for entry in entries.flatten() {
            copy_entry(from, inside, &entry, to, owner, depth)?;
        }
    }
    owner.give(&target, metadata.uid(), metadata.gid())?;
    set_mode(&target, metadata.mode())
}

fn copy_entry(from: &Path, inside: &Path, entry: &DirEntry, to: &Path, owner: Owner, depth: usize) -> Result<(), ImageError> {
    let inside = inside.join(entry.file_name());
    if is_private(&inside) {
        return Ok(());
    }
    // what vanishes while we look was being changed; the next image has it
    let Ok(metadata) = entry.metadata() else { return Ok(()) };
    let target = to.join(&inside);
    if metadata.is_dir() {
        return copy_directory(from, &inside, to, owner, depth - 1);
    }
    if metadata.is_symlink() {
        let Ok(leads_to) = fs::read_link(entry.path()) else { return Ok(()) };
        symlink(leads_to, &target).map_err(ImageError::disk("make", &target))?;
        return owner.give(&target, metadata.uid(), metadata.gid());
    }
    if is_shown(&entry.path(), &metadata) {
        let Ok(content) = fs::read(entry.path()) else { return Ok(()) };
        write(&target, &content, metadata.mode(), metadata.uid(), metadata.gid(), owner)?;
    }
    Ok(())
}

fn is_private(inside: &Path) -> bool {
    let host_key = inside.parent() == Some(Path::new("ssh"))
        && inside.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"));
    host_key || PRIVATE.iter().any(|path| inside == Path::new(path))
}

fn is_shown(path: &Path, metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & 0o004 != 0 && metadata.len() <= FILE_BYTES && !credentials::is_credential(path)
}

fn write(path: &Path, content: &[u8], mode: u32, uid: u32, gid: u32, owner: Owner) -> Result<(), ImageError> {
    fs::write(path, content).map_err(ImageError::disk("write", path))?;
    owner.give(path, uid, gid)?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)).map_err(ImageError::disk("set the mode of", path))
}

/// `/etc/shadow` and `/etc/gshadow` with every account of passwd and group, none of which has a password.
fn shadow(to: &Path, owner: Owner) -> Result<(), ImageError> {
    let group = read(&to.join("group"))?;
    let gid = group.lines().find_map(|line| line.strip_prefix("shadow:")?.split(':').nth(1)?.parse().ok()).unwrap_or(0);
    let passwd = read(&to.join("passwd"))?;
    let accounts: String = names(&passwd).map(|name| format!("{name}:*:19000:0:99999:7:::\n")).collect();
    write(&to.join("shadow"), accounts.as_bytes(), 0o640, 0, gid, owner)?;
    let groups: String = names(&group).map(|name| format!("{name}:*::\n")).collect();
    write(&to.join("gshadow"), groups.as_bytes(), 0o640, 0, gid, owner)
}

fn names(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).filter(|name| !name.is_empty())
}

fn read(path: &Path) -> Result<String, ImageError> {
    match fs::read(path) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(ImageError::disk("read", path)(error)),
    }
}
