//! The manager: asks for jobs, makes pods, watches them, explains failures, cleans up.
//!
//! ```text
//!  reload ─▶ permissions ─▶ features ─▶ lease ─▶ recover ─▶ sweep     at the start and for what a changed configuration
//!   ┌─────────────────────────────────────────┘      ▲                adds: go on with what the clusters hold
//!   │                                       adopt ───┘                every five minutes, and when another manager goes
//!  poll ─▶ admit ─▶ store ─▶ confirm ─▶ launch ─▶ follow ─▶ finish
//!   ▲      slot,    plan     PUT         pod ▲     │  ▲        │ trace, state, Secret, pod
//!   └ next plan     Secret   running   retry ┴─────┤  │        ▼
//!                                       diagnose ◀─┘  watch   gone
//! ```
//!
//! Nothing is kept that is not in the cluster. Which step a job has reached is read from there, so that another
//! manager (or this one after a crash) goes on from it:
//!
//! | plan Secret | pod | step | who comes next does |
//! | --- | --- | --- | --- |
//! | none | none | not ours (yet, or any more) | nothing; GitLab hands an unconfirmed job out again |
//! | `stored` | none | stored, perhaps confirmed | confirm (again), launch; a refusal deletes the Secret |
//! | any | there | launched | follow |
//! | `launched` | none | the pod went away unseen | report, clean |
//! | `again-N-P` | N or none | pod N is to be made, P of those before could not pull | delete the one before, launch N |
//! | `launched-N-P` | N or none | as `launched`, for pod N | follow N, or report, clean |
//! | `telling-N-I` | any | instance I writes the last line at offset N of the trace | write it unless it is there, report, clean |
//! | none | there | told to GitLab | delete the pod |
//!
//! Who comes next is this manager after a crash, or another one once our Lease is gone or out of date. Each note is a
//! patch that holds only while owner and step are those that the writer knows, so that two who believe they own a job
//! do not both go on: who is refused lets go of it without a word. `docs/recovery.md` has each step with its test.
//!
//! The manager writes to a job's trace only while no agent has started, or after the pod can do no more; it never
//! touches a byte of a running job's log. An agent whose log is to say something of services leaves the last line to it.

pub mod diagnose;
pub mod permissions;
pub mod runners;

mod admit;
mod adopt;
mod authority;
mod backoff;
mod calm;
mod cluster;
mod clusters;
mod confirm;
mod events;
mod features;
mod finish;
mod follow;
mod hands;
mod health;
mod launch;
mod lease;
mod note;
mod numbers;
mod places;
mod poll;
mod recover;
mod reload;
mod retry;
mod room;
mod services;
mod steps;
mod store;
mod sweep;
mod throttle;
mod trace;
mod waiting;
mod watch;
mod wiring;

pub use clusters::Clusters;
pub use diagnose::{Cure, Diagnosis, Finding, diagnose};

use crate::wiring::Manager;
use gitlab_client::{Client, ClientConfig, ClientError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long calls in flight have to come to an end after `stop`.
const STOPPING: Duration = Duration::from_secs(3);

/// What a manager works with.
pub struct Options {
    /// The configuration, already read.
    pub config: runner_config::Config,
    /// Configurations that take its place, one after another, while the manager runs.
    pub changes: Option<mpsc::Receiver<Change>>,
    /// Where pods go, in memory or over TLS.
    pub clusters: Clusters,
    /// Which manager this is; the same after a restart, different for each replica.
    pub system_id: String,
    /// Image of the helper container where the configuration names none.
    pub helper_image: String,
    /// Version, as jobs' logs and GitLab show it.
    pub version: String,
    /// How GitLab is reached; by default over the network.
    pub connect: Connect,
    /// Ends [`run`]: no more jobs are asked for, running pods are left alone.
    pub stop: CancellationToken,
}

type MakeClient = dyn Fn(&ClientConfig) -> Result<Client, ClientError> + Send + Sync;

/// Makes the client of a GitLab.
#[derive(Clone)]
pub struct Connect(Arc<MakeClient>);

impl Connect {
    /// By a function: GitLab is in the same process.
    pub fn by(connect: impl Fn(&ClientConfig) -> Result<Client, ClientError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self::by(Client::new)
    }
}

/// A configuration in the place of the one before. Jobs that run go on as they began.
pub struct Change {
    /// The configuration, already read.
    pub config: runner_config::Config,
    /// The clusters of its entries: those of before, and then new ones.
    pub clusters: Clusters,
}

/// Why a manager cannot start, or cannot take another configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of a runner entry cannot be used.
    #[error("runner \"{runner}\" cannot reach GitLab")]
    Gitlab {
        /// Name of the entry.
        runner: String,
        /// Why.
        #[source]
        source: gitlab_client::ClientError,
    },
    /// A file with certificates or a key of a runner entry cannot be used.
    #[error("runner \"{runner}\": failed to read {key} {file}")]
    Certificates {
        /// Name of the entry.
        runner: String,
        /// Which file.
        key: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system id leaves nothing that Kubernetes takes for a label.
    #[error("system id \"{0}\" has no letter or digit")]
    SystemId(String),
    /// The cluster does not allow what the manager has to do.
    #[error("{}", permissions::sentences(.0))]
    Permissions(Vec<permissions::Missing>),
    /// A namespace of the configuration is not there.
    #[error("namespace {namespace} does not exist in cluster {cluster}")]
    Namespace {
        /// Its name.
        namespace: String,
        /// Where it was looked for.
        cluster: String,
    },
    /// Another process with this system id took over, and is gone now.
    #[error("another manager had system id \"{0}\" and is gone: this one may start again")]
    TakenOver(String),
}

/// Runs until `stop`, and returns within seconds of it.
///
/// # Errors
/// When the first configuration cannot be used at all, a permission is missing, or another manager with the same system id
/// took over; whatever else goes wrong is retried and logged.
pub async fn run(options: Options) -> Result<(), Error> {
    let Options { config, changes, clusters, system_id, helper_image, version, connect, stop } = options;
    let manager = wiring::make(wiring::Identity { system_id, helper_image, version, connect }, stop)?;
    // Whoever drops this future wants everything to end, as after a crash.
    let halt = manager.halt.clone().drop_guard();
    tracing::info!(system.id = manager.system_id, runners = config.runners.len(), "manager started");
    tokio::select! {
        biased;
        () = manager.lost.cancelled() => {
            drop(halt);
            return wait_for_the_other(&manager).await;
        }
        ended = reload::keep_up(&manager, Change { config, clusters }, changes) => ended?,
    }
    manager.tasks.close();
    if tokio::time::timeout(STOPPING, manager.tasks.wait()).await.is_err() {
        tracing::warn!("calls in flight did not end in time; what they left is gone on with at the next start");
    }
    drop(halt);
    futures::future::join_all(manager.clusters().iter().map(|cluster| lease::release(&manager, cluster))).await;
    tracing::info!("manager stopped");
    Ok(())
}

/// Does nothing until the stop, or until the manager that has our system id is gone.
async fn wait_for_the_other(manager: &Manager) -> Result<(), Error> {
    let clusters = manager.clusters();
    let held = clusters.iter().filter(|cluster| cluster.is_held.load(Ordering::Relaxed));
    let others = held.map(|cluster| lease::until_free(manager, cluster));
    tokio::select! {
        biased;
        () = manager.stop.cancelled() => Ok(()),
        _ = futures::future::join_all(others) => Err(Error::TakenOver(manager.system_id.clone())),
    }
}
