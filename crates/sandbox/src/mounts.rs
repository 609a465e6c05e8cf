//! Mounts in our own mount namespace: overlays, binds, idmapped views.
//!
//! Everything a container sees is mounted here first, as real root, below the pod's own directory, and only then
//! handed to the runtime. So a container needs no right on the path of a source, and a mount that cannot be written
//! is made so where the container cannot undo it.

use crate::mount_table::mounts_at_or_below;
use crate::{Error, IdRange};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use std::ffi::CString;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// `MOUNT_ATTR_IDMAP` and `MOUNT_ATTR_RDONLY` of `mount_setattr(2)`.
const ATTR_IDMAP: u64 = 0x0010_0000;
const ATTR_RDONLY: u64 = 0x0000_0001;
/// The kernel takes one page of options, with a zero at its end.
const MOST_OPTIONS: usize = 4095;

/// How a bind is shown.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// Cannot be written.
    pub(crate) read_only: bool,
    /// Ids of the host become ids of this user namespace.
    pub(crate) idmap: Option<BorrowedFd<'a>>,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Shows `source` at `target`, which must exist and be of the same kind.
pub(crate) fn bind(source: &Path, target: &Path, view: View<'_>) -> Result<(), Error> {
    let what = || format!("show {} at {}", source.display(), target.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, source, flags).map_err(Error::errno(what()))?;
    let mut attributes = MountAttr { set: 0, clear: 0, propagation: 0, userns: 0 };
    if view.read_only {
        attributes.set |= ATTR_RDONLY;
    }
    if let Some(userns) = view.idmap {
        attributes.set |= ATTR_IDMAP;
        attributes.userns = u64::try_from(userns.as_raw_fd()).unwrap_or_default();
    }
    if attributes.set != 0 {
        set_attributes(&tree, &attributes).map_err(Error::system(what()))?;
    }
    attach(&tree, target).map_err(Error::errno(what()))
}

fn set_attributes(tree: &OwnedFd, attributes: &MountAttr) -> io::Result<()> {
    // SAFETY: the pointers are valid for the call, the size is that of the structure, and the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attach(mount: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(mount.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// An overlay of `lower` (topmost first) with a writable layer in `state`, at `target`.
///
/// Directories are named by descriptors: the names are short, so that 200 layers fit the page that the kernel takes
/// options in, and tell a container that reads its mounts nothing of this machine.
pub(crate) fn overlay(lower: &[PathBuf], state: &Path, target: &Path, ids: IdRange) -> Result<(), Error> {
    let (upper, work) = (state.join("upper"), state.join("work"));
    for directory in [&upper, &work] {
        std::fs::create_dir_all(directory).map_err(Error::path("make", directory))?;
        chown(directory, Some(ids.base), Some(ids.base)).map_err(Error::path("hand over", directory))?;
    }
    // A directory that shows through belongs to who owns the topmost one.
    copy_owner(lower.first(), &upper)?;
    let open = |path: &PathBuf| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(Error::errno(format!("open layer {}", path.display())))
    };
    let layers = lower.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&upper)?, open(&work)?);
    let name = |directory: &OwnedFd| format!("/proc/self/fd/{}", directory.as_raw_fd());
    let joined = layers.iter().map(name).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={joined},upperdir={},workdir={}", name(&upper), name(&work));
    let what = format!("mount an overlay of {} layers at {}", lower.len(), target.display());
    if options.len() > MOST_OPTIONS {
        return Err(Error::system(what)(io::ErrorKind::ArgumentListTooLong.into()));
    }
    let data = CString::new(options).map_err(|error| Error::system(what.as_str())(error.into()))?;
    rustix::mount::mount("overlay", target, "overlay", rustix::mount::MountFlags::empty(), Some(data.as_c_str()))
        .map_err(Error::errno(what))
}

/// The merged directory takes mode and owner from the upper one, so that one must be like the image's.
fn copy_owner(from: Option<&PathBuf>, to: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Some(from) = from else { return Ok(()) };
    let data = std::fs::metadata(from).map_err(Error::path("look at", from))?;
    chown(to, Some(data.uid()), Some(data.gid())).map_err(Error::path("hand over", to))?;
    let mode = std::fs::Permissions::from_mode(data.mode() & 0o7777);
    std::fs::set_permissions(to, mode).map_err(Error::path("set the mode of", to))
}

/// A tmpfs at `target`.
pub(crate) fn tmpfs(target: &Path, options: &str) -> Result<(), Error> {
    let data = CString::new(options).unwrap_or_default();
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, Some(data.as_c_str()))
        .map_err(Error::errno(format!("mount a tmpfs at {}", target.display())))
}

/// Takes a mount away, whatever still uses it; no error when there is none.
pub(crate) fn detach(target: &Path) {
    while unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

/// Takes every mount below a directory away, deepest first.
pub(crate) fn detach_below(top: &Path) -> Result<(), Error> {
    let found = mounts_at_or_below(top).map_err(Error::system("read /proc/self/mountinfo"))?;
    for point in found.iter().rev().filter(|point| *point != top) {
        detach(point);
    }
    Ok(())
}
