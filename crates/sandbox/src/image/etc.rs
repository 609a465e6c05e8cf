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
    let copying = Copying { from, to, owner };
    copying.directory(Path::new(""), DEPTH)?;
    for name in ["hosts", "hostname", "resolv.conf", "machine-id"] {
        // mount points, and on many machines links that lead out of here
        copying.write(Path::new(name), b"", Attributes { mode: 0o644, uid: 0, gid: 0 })?;
    }
    copying.shadow()
}

/// One copy being made; paths in it are relative to both directories.
struct Copying<'a> {
    from: &'a Path,
    to: &'a Path,
    owner: Owner,
}

struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Attributes {
    fn of(metadata: &Metadata) -> Self {
        Attributes { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid() }
    }
}

impl Copying<'_> {
    fn directory(&self, inside: &Path, depth: usize) -> Result<(), ImageError> {
        let source = self.from.join(inside);
        let metadata = fs::symlink_metadata(&source).map_err(ImageError::disk("look at", &source))?;
        let target = self.to.join(inside);
        fs::create_dir_all(&target).map_err(ImageError::disk("make", &target))?;
        if depth > 0 && metadata.mode() & 0o005 == 0o005 {
            let entries = fs::read_dir(&source).map_err(ImageError::disk("read", &source))?;
            for entry in entries.flatten() {
                self.entry(&inside.join(entry.file_name()), &entry, depth - 1)?;
            }
        }
        self.own(&target, &Attributes::of(&metadata))
    }

    fn entry(&self, inside: &Path, entry: &DirEntry, depth: usize) -> Result<(), ImageError> {
        // what vanishes while we look was being changed; the next image has it
        let Ok(metadata) = entry.metadata() else { return Ok(()) };
        if is_private(inside) {
            return Ok(());
        }
        if metadata.is_dir() {
            return self.directory(inside, depth);
        }
        if metadata.is_symlink() {
            let Ok(leads_to) = fs::read_link(entry.path()) else { return Ok(()) };
            let target = self.to.join(inside);
            symlink(leads_to, &target).map_err(ImageError::disk("make", &target))?;
            return self.owner.give(&target, metadata.uid(), metadata.gid());
        }
        if is_shown(&entry.path(), &metadata) {
            let Ok(content) = fs::read(entry.path()) else { return Ok(()) };
            self.write(inside, &content, Attributes::of(&metadata))?;
        }
        Ok(())
    }

    /// `/etc/shadow` and `/etc/gshadow` with every account of passwd and group, none of which has a password.
    fn shadow(&self) -> Result<(), ImageError> {
        let group = read(&self.to.join("group"))?;
        let gid = group.lines().find_map(|line| line.strip_prefix("shadow:")?.split(':').nth(1)?.parse().ok()).unwrap_or(0);
        let passwd = read(&self.to.join("passwd"))?;
        let accounts: String = names(&passwd).map(|name| format!("{name}:*:19000:0:99999:7:::\n")).collect();
        self.write(Path::new("shadow"), accounts.as_bytes(), Attributes { mode: 0o640, uid: 0, gid })?;
        let groups: String = names(&group).map(|name| format!("{name}:*::\n")).collect();
        self.write(Path::new("gshadow"), groups.as_bytes(), Attributes { mode: 0o640, uid: 0, gid })
    }

    fn write(&self, inside: &Path, content: &[u8], attributes: Attributes) -> Result<(), ImageError> {
        let target = self.to.join(inside);
        fs::write(&target, content).map_err(ImageError::disk("write", &target))?;
        self.own(&target, &attributes)
    }

    fn own(&self, target: &Path, attributes: &Attributes) -> Result<(), ImageError> {
        self.owner.give(target, attributes.uid, attributes.gid)?;
        let mode = fs::Permissions::from_mode(attributes.mode & 0o7777);
        fs::set_permissions(target, mode).map_err(ImageError::disk("set the mode of", target))
    }
}

fn is_private(inside: &Path) -> bool {
    let host_key = inside.parent() == Some(Path::new("ssh"))
        && inside.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"));
    host_key || PRIVATE.iter().any(|path| inside == Path::new(path))
}

fn is_shown(path: &Path, metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & 0o004 != 0 && metadata.len() <= FILE_BYTES && !credentials::is_credential(path)
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
