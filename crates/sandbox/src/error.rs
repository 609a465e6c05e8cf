//! What can go wrong with pods and containers.

use std::io;
use std::path::{Path, PathBuf};

/// A machine that cannot run pods, or a pod that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("pods on this machine need root; run it again with sudo env \"PATH=$PATH\"")]
    NotRoot,
    /// A system call failed.
    #[error("failed to {what}")]
    System {
        /// What was being done, and on what.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The network of pods could not be made.
    #[error("failed to make the network of pods: {what}")]
    Network {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A copy of this program that does the single-threaded work failed.
    #[error("failed to {what}: {message}")]
    Reexec {
        /// What it was to do.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// The name of a pod cannot be one.
    #[error("pod name {name:?} is not valid: {}", crate::spec::NAME_RULE)]
    Name {
        /// The name.
        name: String,
    },
    /// A container of this name is running, being started or not removed yet.
    #[error("the pod has a container {name:?} already")]
    InUse {
        /// The name.
        name: String,
    },
    /// This machine has no control groups that can be written.
    #[error("no control groups are mounted; pods need /sys/fs/cgroup")]
    NoCgroups,
}

impl Error {
    /// For `map_err`, with what was being done.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// For `map_err` on a path.
    pub(crate) fn path(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::system(format!("{verb} {}", path.display()))
    }

    /// The same for errors of rustix.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.into();
        move |errno| Self::System { what, source: errno.into() }
    }
}

/// A container that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The image has no such program.
    #[error("exec: \"{0}\": executable file not found")]
    CommandNotFound(String),
    /// The program is there but cannot be run.
    #[error("{0}")]
    CannotRun(String),
    /// A bind's source is missing.
    #[error("{} does not exist", .0.display())]
    NoSource(PathBuf),
    /// Anything below it.
    #[error(transparent)]
    Machine(#[from] Error),
}
