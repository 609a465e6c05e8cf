//! What a pod and a container are made of, as values.
//!
//! Everything here is resolved: names of users have become numbers, quantities bytes, images directories. The words
//! are Linux' own, so that a reader can look each up in a manual page.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

/// Host ids of the users inside pods: container id `n` is host id `base + n`.
///
/// One range serves all pods of a machine, so that an image is unpacked once. A process that escapes is nobody on the
/// host, and pods are kept apart by their other namespaces and by directories that nobody else can enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First host id.
    pub base: u32,
    /// How many there are.
    pub size: u32,
}

impl Default for IdRange {
    /// Above everything that `useradd` gives out by default (subordinate ids end at 600,100,000, see login.defs).
    fn default() -> Self {
        Self { base: 1_879_048_192, size: 65_536 }
    }
}

impl IdRange {
    /// The host id of a container's id, if the range has it.
    pub fn host(&self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.base + id)
    }
}

/// What [`is_name`] asks for, in words.
pub(crate) const NAME_RULE: &str = "a name is 1 to 63 lower case letters, digits and dashes";

/// Whether this may be part of the path of a control group or a directory.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// How a pod is made.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Unique on this machine; 1 to 63 lower case letters, digits and dashes.
    pub id: String,
    /// Host name in the pod.
    pub hostname: String,
    /// Extra lines of `/etc/hosts`.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// Use the host's network.
    pub host_network: bool,
    /// A directory of the pod's own, made by the caller, who removes it after the pod.
    pub run_dir: PathBuf,
}

/// How a container is started.
#[derive(Debug)]
pub struct ContainerSpec {
    /// Unique in the pod; 1 to 63 lower case letters, digits and dashes.
    pub name: String,
    /// Its root filesystem.
    pub root: Rootfs,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment, complete.
    pub env: Vec<(String, String)>,
    /// Working directory; made when missing.
    pub cwd: String,
    /// Who runs it.
    pub user: User,
    /// What it may do beyond or short of the default.
    pub capabilities: Capabilities,
    /// All capabilities inside the pod's user namespace.
    pub privileged: bool,
    /// setuid programs gain nothing.
    pub no_new_privileges: bool,
    /// The root filesystem cannot be written.
    pub read_only_root: bool,
    /// Volumes and single files.
    pub binds: Vec<Bind>,
    /// Limits.
    pub resources: Resources,
    /// Where standard output goes.
    pub stdout: File,
    /// Where standard error goes.
    pub stderr: File,
}

/// Ids inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Changes to the default set of capabilities; names without `CAP_`, or `ALL`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Added.
    pub add: Vec<String>,
    /// Taken away; wins over the default, loses against `add`.
    pub drop: Vec<String>,
}

/// Limits of a container; `None` means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Microseconds of CPU per 100 ms.
    pub cpu_quota_us: Option<u64>,
    /// Relative weight of CPU, 1024 a core.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A root filesystem; mounted afresh for each container, with a writable layer of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rootfs {
    /// Overlays, the one at `/` first.
    pub overlays: Vec<Overlay>,
    /// Directories and files of this machine shown in it.
    pub binds: Vec<Bind>,
}

/// One overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Where in the root filesystem: `/`, `/usr`.
    pub at: PathBuf,
    /// Directories below the writable one, topmost first.
    pub lower: Vec<Layer>,
}

/// A directory of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The directory.
    pub path: PathBuf,
    /// Whether its files are owned by ids of the host, which are shown as the same ids in the pod.
    pub idmap: bool,
}

/// A file or directory of this machine, shown in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// What.
    pub source: PathBuf,
    /// Where; made when missing.
    pub target: PathBuf,
    /// Cannot be written.
    pub read_only: bool,
    /// Owned by ids of the host, which are shown as the same ids in the pod.
    pub idmap: bool,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for lack of memory.
    pub oom_killed: bool,
}

/// A further program in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables besides those of the container.
    pub env: Vec<(String, String)>,
    /// Working directory; that of the container when `None`.
    pub cwd: Option<String>,
    /// With a terminal.
    pub tty: bool,
    /// Who runs it; the container's user when `None`.
    pub user: Option<User>,
}

/// What was removed of dead instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Programs that were killed without cleaning up.
    pub instances: usize,
    /// Processes that were still running.
    pub processes: usize,
    /// Control groups.
    pub cgroups: usize,
    /// Network interfaces.
    pub interfaces: usize,
    /// Directories.
    pub directories: usize,
}
