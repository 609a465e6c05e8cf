//! One layer into one directory, in the format overlays read.
//!
//! The directory starts empty and every name is resolved by the kernel inside it, so nothing outside can be reached however
//! the layer is made: links are followed only as far as they stay inside, and never by what removes. Owners are shifted into
//! the range of pods here, once, and not at each mount.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tarball::{Entry, Kind, Tarball};
use crate::IdRange;

/// What one layer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of the tar stream.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Limits {
    /// Larger than any image meant for use, small enough to end.
    fn default() -> Self {
        Limits { bytes: 128 << 30, entries: 4_000_000 }
    }
}

/// User and group of what a layer does not mention.
const ROOT: (u64, u64) = (0, 0);
const NAME_BYTES: usize = 255;
const PATH_BYTES: usize = 4095;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Why a layer was not unpacked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The layer's fault.
    Layer(String),
    /// This machine's: what was done, and why it failed.
    Disk(String, io::Error),
}

type Result<T> = std::result::Result<T, Failure>;

/// Unpacks the tar stream `reader` into `directory`, which exists and is empty. The stream is left behind the last entry.
pub(super) fn unpack<R: Read>(reader: R, directory: &Path, ids: IdRange, limits: Limits) -> Result<R> {
    let root = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(disk("open", directory.as_os_str().as_bytes()))?;
    let mut unpacker = Unpacker { root, ids, parent: None, directories: Vec::new() };
    unpacker.own(unpacker.root.as_fd(), ROOT, 0o755, b".")?;
    let mut tarball = Tarball::new(reader);
    let mut count = 0;
    while let Some(entry) = tarball.next().map_err(stream)? {
        count += 1;
        if count > limits.entries {
            return Err(Failure::Layer(format!("a layer has more than {} entries", limits.entries)));
        }
        if entry.size > limits.bytes {
            return Err(Failure::Layer(format!("{} is said to have {} bytes", shown(&entry.path), entry.size)));
        }
        unpacker.entry(&entry, &mut tarball)?;
    }
    unpacker.finish();
    Ok(tarball.into_inner())
}

struct Unpacker {
    root: OwnedFd,
    ids: IdRange,
    /// Where the last entry went: most entries are beside each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories and their times, set when nothing more is put into them.
    directories: Vec<(PathBuf, i64)>,
}

impl Unpacker {
    fn entry(&mut self, entry: &Entry, content: &mut impl Read) -> Result<()> {
        let path = inside(&entry.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return match entry.kind {
                Kind::Directory => self.fill_directory(self.open_root()?, entry, Path::new("")),
                _ => Err(Failure::Layer("its top is not a directory".to_owned())),
            };
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(parent, name.as_bytes());
        }
        if entry.kind == Kind::Device {
            tracing::debug!(path = shown(&entry.path), "device left out of a layer");
            return Ok(());
        }
        self.enter(parent, &entry.path)?;
        if entry.kind == Kind::Directory {
            return self.directory(entry, &path, &name);
        }
        self.clear(&name, &entry.path)?;
        match entry.kind {
            Kind::File => self.file(entry, &name, content),
            Kind::HardLink => self.hard_link(entry, &name),
            Kind::SymbolicLink => self.symbolic_link(entry, &name),
            _ => self.fifo(entry, &name),
        }
    }

    fn file(&mut self, entry: &Entry, name: &OsStr, content: &mut impl Read) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.at(), name, flags, Mode::from_raw_mode(0o600)).map_err(disk("make", &entry.path))?;
        let mut file = std::fs::File::from(fd);
        copy(content, &mut file, &entry.path)?;
        self.own(file.as_fd(), (entry.uid, entry.gid), entry.mode, &entry.path)?;
        self.xattrs(file.as_fd(), entry)?;
        let times = times(entry.mtime);
        rustix::fs::futimens(&file, &times).map_err(disk("set the time of", &entry.path))
    }

    fn directory(&mut self, entry: &Entry, path: &Path, name: &OsStr) -> Result<()> {
        let made = match self.kind(name, &entry.path)? {
            Some((FileType::Directory, _)) => None,
            Some((kind, device)) => {
                self.clear(name, &entry.path)?;
                Some(kind == FileType::CharacterDevice && device == 0)
            }
            None => Some(false),
        };
        if made.is_some() {
            rustix::fs::mkdirat(self.at(), name, Mode::from_raw_mode(0o700)).map_err(disk("make", &entry.path))?;
        }
        let fd = rustix::fs::openat(self.at(), name, DIRECTORY, Mode::empty()).map_err(disk("open", &entry.path))?;
        if made == Some(true) {
            // what it replaces was removed by this very layer, with all that was in it
            make_opaque(&fd, &entry.path)?;
        }
        self.fill_directory(fd, entry, path)
    }

    fn fill_directory(&mut self, fd: OwnedFd, entry: &Entry, path: &Path) -> Result<()> {
        self.own(fd.as_fd(), (entry.uid, entry.gid), entry.mode, &entry.path)?;
        self.xattrs(fd.as_fd(), entry)?;
        self.directories.push((path.to_owned(), entry.mtime));
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, name: &OsStr) -> Result<()> {
        let target = inside(&entry.link)?;
        let missing = || {
            Failure::Layer(format!(
                "{} is a hard link to {}, which the layer does not have",
                shown(&entry.path),
                shown(&entry.link)
            ))
        };
        let file = target.file_name().ok_or_else(missing)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = rustix::fs::openat2(&self.root, parent, flags, Mode::empty(), IN_ROOT).map_err(|_| missing())?;
        let kind = rustix::fs::statat(&parent, file, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
            return Err(Failure::Layer(format!("{} is a hard link to a directory", shown(&entry.path))));
        }
        rustix::fs::linkat(&parent, file, self.at(), name, AtFlags::empty()).map_err(disk("make", &entry.path))
    }

    fn symbolic_link(&mut self, entry: &Entry, name: &OsStr) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > PATH_BYTES {
            return Err(Failure::Layer(format!("{} is a link to nothing, or to a name too long", shown(&entry.path))));
        }
        rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), self.at(), name).map_err(disk("make", &entry.path))?;
        self.own_by_name(entry, name)
    }

    fn fifo(&mut self, entry: &Entry, name: &OsStr) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::mknodat(self.at(), name, FileType::Fifo, mode, 0).map_err(disk("make", &entry.path))?;
        self.own_by_name(entry, name)?;
        rustix::fs::chmodat(self.at(), name, mode, AtFlags::empty()).map_err(disk("set the mode of", &entry.path))
    }

    /// `.wh.NAME` hides what lower layers have under NAME; the opaque one hides all that they have in its directory.
    fn whiteout(&mut self, parent: &Path, name: &[u8]) -> Result<()> {
        let full = parent.join(OsStr::from_bytes(name));
        let full = full.as_os_str().as_bytes();
        // below a link there is nothing of the lower layers to hide, and what the link leads to is not meant
        let real = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match rustix::fs::openat2(&self.root, real, DIRECTORY, Mode::empty(), NO_LINKS) {
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(Errno::NOENT) | Ok(_) => self.enter(parent, full)?,
            Err(error) => return Err(disk("open", full)(error)),
        }
        if name == OPAQUE {
            let fd = rustix::fs::openat(self.at(), ".", DIRECTORY, Mode::empty()).map_err(disk("open", full))?;
            return make_opaque(&fd, full);
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if hidden.as_bytes().starts_with(WHITEOUT) {
            tracing::debug!(path = shown(full), "bookkeeping of another file system left out of a layer");
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(Failure::Layer(format!("{} hides no name", shown(full))));
        }
        match self.kind(hidden, full)? {
            None => {
                rustix::fs::mknodat(self.at(), hidden, FileType::CharacterDevice, Mode::empty(), 0).map_err(disk("make", full))
            }
            Some((FileType::Directory, _)) => {
                let fd = rustix::fs::openat(self.at(), hidden, DIRECTORY, Mode::empty()).map_err(disk("open", full))?;
                make_opaque(&fd, full)
            }
            // this layer has something else there already, which hides the same
            Some(_) => Ok(()),
        }
    }

    /// Makes `parent` the directory that [`Unpacker::at`] gives, making what is missing of it.
    fn enter(&mut self, parent: &Path, whole: &[u8]) -> Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::openat2(&self.root, path, flags, Mode::empty(), IN_ROOT);
        let mut fd = self.open_root()?;
        let mut path = PathBuf::new();
        for part in parent.components() {
            path.push(part);
            fd = match open(&path) {
                Err(Errno::NOENT) => {
                    // a link that leads nowhere is in the way of this
                    match rustix::fs::mkdirat(&fd, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) => {
                            let reason = format!("{} lies below a link that leads out of its layer", shown(whole));
                            return Err(Failure::Layer(reason));
                        }
                        other => other.map_err(disk("make", whole))?,
                    }
                    let made =
                        rustix::fs::openat(&fd, part.as_os_str(), DIRECTORY, Mode::empty()).map_err(disk("open", whole))?;
                    self.own(made.as_fd(), ROOT, 0o755, whole)?;
                    made
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(Failure::Layer(format!("{} lies below what is no directory", shown(whole))));
                }
                other => other.map_err(disk("open", whole))?,
            };
        }
        self.parent = Some((parent.to_owned(), fd));
        Ok(())
    }

    fn at(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.root, |(_, fd)| fd)
    }

    fn open_root(&self) -> Result<OwnedFd> {
        rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty()).map_err(disk("open", b"."))
    }

    fn kind(&self, name: &OsStr, whole: &[u8]) -> Result<Option<(FileType, u64)>> {
        match rustix::fs::statat(self.at(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat.st_rdev))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(disk("look at", whole)(error)),
        }
    }

    /// Removes what the layer itself put under `name` before; the later entry counts.
    fn clear(&mut self, name: &OsStr, whole: &[u8]) -> Result<()> {
        match self.kind(name, whole)? {
            None => Ok(()),
            Some((FileType::Directory, _)) => {
                let path = Path::new("/proc/self/fd").join(self.at().as_raw_fd().to_string()).join(name);
                std::fs::remove_dir_all(path).map_err(|error| Failure::Disk(format!("remove {}", shown(whole)), error))
            }
            Some(_) => rustix::fs::unlinkat(self.at(), name, AtFlags::empty()).map_err(disk("remove", whole)),
        }
    }

    fn shift(&self, uid: u64, gid: u64, whole: &[u8]) -> Result<(Uid, Gid)> {
        let shift = |id: u64| u32::try_from(id).ok().filter(|id| *id < self.ids.size).map(|id| self.ids.base + id);
        let (Some(user), Some(group)) = (shift(uid), shift(gid)) else {
            let most = self.ids.size - 1;
            return Err(Failure::Layer(format!("{} belongs to {uid}:{gid}, and ids end at {most} here", shown(whole))));
        };
        Ok((Uid::from_raw(user), Gid::from_raw(group)))
    }

    /// Owner first: changing it clears setuid bits and capabilities.
    fn own(&self, fd: impl AsFd, (uid, gid): (u64, u64), mode: u32, whole: &[u8]) -> Result<()> {
        let (uid, gid) = self.shift(uid, gid, whole)?;
        rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(disk("change the owner of", whole))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(disk("set the mode of", whole))
    }

    fn own_by_name(&self, entry: &Entry, name: &OsStr) -> Result<()> {
        let (uid, gid) = self.shift(entry.uid, entry.gid, &entry.path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(self.at(), name, Some(uid), Some(gid), flags).map_err(disk("change the owner of", &entry.path))?;
        rustix::fs::utimensat(self.at(), name, &times(entry.mtime), flags).map_err(disk("set the time of", &entry.path))
    }

    /// Attributes that mean the same in every layer. Those of overlays themselves would let a layer point elsewhere, and
    /// labels and lists of ids belong to the machine they were made on.
    fn xattrs(&self, fd: impl AsFd, entry: &Entry) -> Result<()> {
        for (name, value) in &entry.xattrs {
            let value = match name.as_str() {
                "security.capability" => rooted_capability(value, self.ids),
                _ if name.starts_with("user.") && !name.starts_with("user.overlay") => Some(value.clone()),
                _ => None,
            };
            let Some(value) = value else {
                tracing::debug!(path = shown(&entry.path), name, "attribute left out of a layer");
                continue;
            };
            match rustix::fs::fsetxattr(&fd, name.as_str(), &value, XattrFlags::empty()) {
                Err(Errno::NOTSUP | Errno::RANGE | Errno::TOOBIG | Errno::INVAL) => {
                    tracing::debug!(path = shown(&entry.path), name, "attribute this file system does not take");
                }
                other => other.map_err(disk("set an attribute of", &entry.path))?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        for (path, mtime) in self.directories.drain(..).rev() {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
            // one that was replaced since, or is only reached by a link, keeps the time it has
            let set = rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), NO_LINKS)
                .and_then(|fd| rustix::fs::futimens(&fd, &times(mtime)));
            if let Err(error) = set {
                tracing::debug!(path = %path.display(), %error, "time of a directory not set");
            }
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// The path of an entry, relative to the layer; a slash in front means the layer's top.
fn inside(path: &[u8]) -> Result<PathBuf> {
    let mut result = PathBuf::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Failure::Layer(format!("the name {} leads out of its directory", shown(path)))),
            _ if part.len() > NAME_BYTES || part.contains(&0) => {
                return Err(Failure::Layer(format!("a name of {} bytes is too long or not one", part.len())));
            }
            _ => result.push(OsStr::from_bytes(part)),
        }
    }
    if result.as_os_str().len() > PATH_BYTES {
        return Err(Failure::Layer(format!("a name of {} bytes is too long", result.as_os_str().len())));
    }
    Ok(result)
}

/// Capabilities of a file, valid for the root of the pods' range alone: the layer's word must not count on the host.
fn rooted_capability(value: &[u8], ids: IdRange) -> Option<Vec<u8>> {
    const VERSION: u32 = 0xff00_0000;
    let magic = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    let sets = match magic & VERSION {
        0x0200_0000 if value.len() == 20 => &value[4..],
        0x0300_0000 if value.len() == 24 => &value[4..20],
        _ => return None,
    };
    let mut rooted = ((magic & !VERSION) | 0x0300_0000).to_le_bytes().to_vec();
    rooted.extend_from_slice(sets);
    rooted.extend_from_slice(&ids.base.to_le_bytes());
    Some(rooted)
}

fn make_opaque(fd: impl AsFd, whole: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(fd, OPAQUE_XATTR, b"y", XattrFlags::empty()).map_err(disk("hide what is below", whole))
}

fn copy(content: &mut impl Read, file: &mut std::fs::File, whole: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = content.read(&mut buffer).map_err(stream)?;
        if count == 0 {
            return Ok(());
        }
        io::Write::write_all(file, &buffer[..count]).map_err(|error| Failure::Disk(format!("write {}", shown(whole)), error))?;
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime.clamp(0, 1 << 33), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn stream(error: io::Error) -> Failure {
    Failure::Layer(error.to_string())
}

fn disk(action: &str, whole: &[u8]) -> impl FnOnce(Errno) -> Failure {
    let action = format!("{action} {}", shown(whole));
    move |error| Failure::Disk(action, error.into())
}

/// A name from a layer, fit for a message.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(200).collect();
    text.escape_debug().to_string()
}
