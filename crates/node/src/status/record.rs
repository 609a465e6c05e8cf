//! What the node knows of a pod while it runs.

use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// State of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not started, or not again.
    Waiting {
        /// `ContainerCreating`, `ErrImagePull`, …
        reason: &'static str,
        /// For people; may be empty.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended.
    Terminated(Termination),
}

impl State {
    /// A waiting state.
    pub fn waiting(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Waiting { reason, message: message.into() }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// 0 to 255; 128 and the number for signals.
    pub exit_code: i32,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: &'static str,
    /// What it left as its termination message.
    pub message: String,
    /// When it started; `None` when it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// `gantry://…`.
    pub container_id: Option<String>,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Its state now.
    pub state: State,
    /// How it ended before it was started again.
    pub last: Option<Termination>,
    /// How often it was started again.
    pub restarts: u32,
    /// Digest of its image, once known.
    pub image_id: String,
    /// `gantry://…`, once it was made.
    pub container_id: Option<String>,
}

impl Default for ContainerRecord {
    fn default() -> Self {
        Self {
            state: State::waiting("ContainerCreating", ""),
            last: None,
            restarts: 0,
            image_id: String::new(),
            container_id: None,
        }
    }
}

/// Why the node ended a pod as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted`, `Terminated`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRecord {
    /// When the node took it.
    pub started_at: Option<Timestamp>,
    /// Whether its sandbox is there.
    pub sandbox_is_ready: bool,
    /// Address of the pod.
    pub pod_ip: Option<String>,
    /// Address of the node.
    pub host_ip: String,
    /// Why the node ended it.
    pub verdict: Option<Verdict>,
    /// Nothing will be started any more.
    pub ended: bool,
    /// Names of the init containers.
    pub init_names: BTreeSet<String>,
    /// Containers whose turn has come, by name.
    pub containers: BTreeMap<String, ContainerRecord>,
}

impl PodRecord {
    /// State of a container; one whose turn has not come waits.
    pub fn state(&self, name: &str) -> State {
        self.containers.get(name).map_or_else(|| self.before_its_turn(), |one| one.state.clone())
    }

    /// A kubelet's word for a container that is not looked at yet: init containers may hold it up.
    pub fn before_its_turn(&self) -> State {
        State::waiting(if self.init_names.is_empty() { "ContainerCreating" } else { "PodInitializing" }, "")
    }

    /// Whether a container was started at least once.
    pub fn has_started(&self, name: &str) -> bool {
        self.containers.get(name).is_some_and(|one| match one.state {
            State::Waiting { .. } => one.last.is_some(),
            State::Running { .. } | State::Terminated(_) => true,
        })
    }
}
