//! One pod, from its binding to the end of its sandbox.
//!
//! Flow: sandbox and volumes are made while the first containers already get their images; init containers run one
//! after another and sidecars from their turn on; then the containers, all at once; when they have ended, the sidecars
//! end in reverse order, and the sandbox goes.
//! Guarantees: a pod that is asked to end ends within its grace period, wherever it is in this flow. Its final status
//! is written when its last process has ended; sandbox, mounts and directories go right after, logs with the object.

mod blueprint;
mod container;
mod credentials;
mod handle;
mod pull;
mod stop;
mod termination;
mod unserved;

pub use handle::PodHandle;

use crate::kubelet::{Shared, StoreObjects};
use crate::removal::remove_directory;
use crate::spec::fields::Addresses;
use crate::spec::security;
use crate::status::is_sidecar;
use crate::volumes::{self, Mounts, Owner, Question, Volumes};
use container::{Restart, Task};
use k8s_openapi::api::core::v1::Container;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stop::{Backoff, Stop, Stopped};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Waiting times between tries to make sandbox or volumes.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Longest host name in a pod.
const MOST_HOSTNAME: usize = 63;

/// A pod and the node it is on.
#[derive(Clone)]
pub struct Context {
    /// The node.
    pub shared: Arc<Shared>,
    /// The pod.
    pub handle: Arc<PodHandle>,
    /// Directory of the pod.
    pub directory: PathBuf,
}

/// What containers of a pod share.
pub struct Prepared {
    /// Their namespaces.
    pub pod: sandbox::Pod,
    /// Their volumes.
    pub volumes: Volumes,
    /// Mounts made for them.
    pub mounts: Arc<Mounts>,
    /// Addresses.
    pub addresses: Addresses,
    /// Name.
    pub hostname: String,
}

/// An error with its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Runs a pod to its end.
pub async fn run(context: Context) {
    let handle = context.handle.clone();
    let unserved = unserved::unserved(&handle.pod);
    if !unserved.is_empty() {
        handle.warn("Unserved", format!("this node does not do what these ask for: {}", unserved.join(", ")));
    }
    handle.update(|_| {});
    let deadline = context.spawn_deadline();
    let mounts = Arc::new(Mounts::default());
    let (sender, prepared) = watch::channel(None);
    let preparing = prepare(&context, &mounts, &sender);
    let playing = play(&context, prepared);
    // The containers wait for what is being prepared, never the other way round.
    let ((), ()) = tokio::join!(preparing, playing);
    if let Some(deadline) = deadline {
        deadline.abort();
    }
    let last = sender.borrow().clone();
    clean(&context, last, &mounts).await;
    handle.update(|record| {
        record.ended = true;
        record.sandbox_is_ready = false;
    });
    if handle.is_being_deleted() == Some(true) {
        handle.remove_object();
    }
}

/// Takes away everything but the logs.
async fn clean(context: &Context, prepared: Option<Arc<Prepared>>, mounts: &Arc<Mounts>) {
    if let Some(prepared) = prepared
        && let Err(error) = prepared.pod.remove().await
    {
        tracing::warn!(pod.name = %context.handle.name, error = %chain(&error), "failed to remove the sandbox of a pod");
    }
    let (mounts, directory) = (mounts.clone(), context.directory.clone());
    let work = move || {
        mounts.clear();
        ["sandbox", "volumes"].iter().try_for_each(|part| remove_directory(&directory.join(part)))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(pod.name = %context.handle.name, %error, "failed to remove the files of a pod"),
        Err(error) => tracing::warn!(pod.name = %context.handle.name, %error, "failed to clean up after a pod"),
    }
}

impl Context {
    fn spawn_deadline(&self) -> Option<JoinHandle<()>> {
        let seconds = u64::try_from(self.handle.spec().active_deadline_seconds?).ok()?;
        let handle = self.handle.clone();
        Some(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let message = "Pod was active on the node longer than the specified deadline";
            handle.warn("DeadlineExceeded", message);
            handle.fail("DeadlineExceeded", message, handle.grace());
        }))
    }

    fn task(
        &self,
        container: &Container,
        restart: Restart,
        stopped: Stopped,
        prepared: &Prepares,
    ) -> (Task, watch::Receiver<bool>) {
        let (started, has_started) = watch::channel(false);
        let container = container.clone();
        (Task { context: self.clone(), container, restart, stopped, prepared: prepared.clone(), started }, has_started)
    }
}

type Prepares = watch::Receiver<Option<Arc<Prepared>>>;

/// Makes sandbox and volumes, again and again, until they are there or the pod has to end.
async fn prepare(context: &Context, mounts: &Arc<Mounts>, done: &watch::Sender<Option<Arc<Prepared>>>) {
    let handle = &context.handle;
    let mut stopped = handle.stop.watch();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let hostname = hostname(handle);
    let pod = loop {
        let error = match create(context, &hostname).await {
            Ok(pod) => break pod,
            Err(error) => error,
        };
        handle.warn("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
        if !stopped.sleep(backoff.take()).await {
            return;
        }
    };
    let addresses = Addresses {
        pod: pod.ip().map(|ip| ip.to_string()).or_else(|| Some(context.shared.host_ip.clone())),
        host: context.shared.host_ip.clone(),
    };
    handle.update(|record| {
        record.pod_ip.clone_from(&addresses.pod);
        record.sandbox_is_ready = true;
    });
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let volumes = loop {
        let (context, mounts, addresses) = (context.clone(), mounts.clone(), addresses.clone());
        let work = tokio::task::spawn_blocking(move || make_volumes(&context, &addresses, &mounts));
        match work.await {
            Ok(Ok(volumes)) => break Some(volumes),
            Ok(Err(error)) => handle.warn("FailedMount", error),
            Err(error) => handle.warn("FailedMount", error.to_string()),
        }
        if !stopped.sleep(backoff.take()).await {
            break None;
        }
    };
    // Even without volumes it has to be known, so that its sandbox is removed.
    let volumes = volumes.unwrap_or_default();
    done.send_replace(Some(Arc::new(Prepared { pod, volumes, mounts: mounts.clone(), addresses, hostname })));
}

async fn create(context: &Context, hostname: &str) -> Result<sandbox::Pod, String> {
    let options = options(context, hostname);
    std::fs::create_dir_all(&options.run_dir)
        .map_err(|error| format!("failed to make {}: {error}", options.run_dir.display()))?;
    context.shared.machine.create_pod(options).await.map_err(|error| chain(&error))
}

fn make_volumes(context: &Context, addresses: &Addresses, mounts: &Mounts) -> Result<Volumes, String> {
    mounts.clear();
    let handle = &context.handle;
    let objects = StoreObjects { store: context.shared.store.clone(), namespace: handle.namespace.clone() };
    let capacity = &context.shared.facts.capacity;
    let question = Question { pod: &handle.pod, addresses, capacity, objects: &objects };
    // A group that cannot be one is told with the first container, as a mistake of its description.
    let fs_group = security::fs_group(&handle.pod).unwrap_or(None);
    let owner = Owner { base: context.shared.ids.base, fs_group };
    volumes::prepare(&question, &context.directory.join("volumes"), owner, mounts).map_err(|error| error.to_string())
}

fn hostname(handle: &PodHandle) -> String {
    let name = handle.spec().hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&handle.name);
    name.chars().take(MOST_HOSTNAME).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

fn options(context: &Context, hostname: &str) -> sandbox::PodOptions {
    let spec = context.handle.spec();
    let aliases = spec.host_aliases.iter().flatten().filter_map(|alias| {
        let ip: Option<IpAddr> = alias.ip.parse().ok();
        ip.map(|ip| (ip, alias.hostnames.clone().unwrap_or_default()))
    });
    sandbox::PodOptions {
        id: context.handle.uid.clone(),
        hostname: hostname.to_owned(),
        host_aliases: aliases.collect(),
        host_network: spec.host_network == Some(true),
        run_dir: context.directory.join("sandbox"),
    }
}

/// A sidecar that was started.
struct Sidecar {
    stop: Stop,
    task: JoinHandle<Option<i32>>,
}

/// Plays the containers in their order.
async fn play(context: &Context, prepared: Prepares) {
    let mut sidecars = Vec::new();
    if initialize(context, &prepared, &mut sidecars).await {
        let restart = Restart::parse(context.handle.spec().restart_policy.as_deref());
        let mut tasks = JoinSet::new();
        for container in &context.handle.spec().containers {
            let (task, _) = context.task(container, restart, context.handle.stop.watch(), &prepared);
            tasks.spawn(task.run());
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(pod.name = %context.handle.name, %error, "the task of a container ended");
            }
        }
    }
    context.handle.update(|record| record.ended = true);
    end(context, sidecars).await;
}

/// Runs the init containers; `false` when the pod goes no further.
async fn initialize(context: &Context, prepared: &Prepares, sidecars: &mut Vec<Sidecar>) -> bool {
    let handle = &context.handle;
    // An init container that failed is tried again unless the policy is never; one that succeeded never is.
    let restart = match Restart::parse(handle.spec().restart_policy.as_deref()) {
        Restart::Never => Restart::Never,
        Restart::OnFailure | Restart::Always => Restart::OnFailure,
    };
    for container in handle.spec().init_containers.iter().flatten() {
        let mut stopped = handle.stop.watch();
        if is_sidecar(container) {
            let stop = Stop::default();
            let (task, mut has_started) = context.task(container, Restart::Always, stop.watch(), prepared);
            sidecars.push(Sidecar { stop, task: tokio::spawn(task.run()) });
            tokio::select! {
                () = stopped.asked() => return false,
                started = has_started.wait_for(|started| *started) => if started.is_err() { return false },
            }
        } else {
            let (task, _) = context.task(container, restart, stopped, prepared);
            if task.run().await != Some(0) {
                return false;
            }
        }
    }
    true
}

/// Ends the sidecars, last one first, within what is left of the grace period.
async fn end(context: &Context, sidecars: Vec<Sidecar>) {
    let mut stopped = context.handle.stop.watch();
    let own = tokio::time::Instant::now() + context.handle.grace();
    for mut sidecar in sidecars.into_iter().rev() {
        sidecar.stop.at(stopped.deadline().unwrap_or(own).min(own));
        let ended = tokio::select! {
            ended = &mut sidecar.task => ended,
            () = stopped.expired() => {
                sidecar.stop.within(Duration::ZERO);
                sidecar.task.await
            }
        };
        if let Err(error) = ended {
            tracing::error!(pod.name = %context.handle.name, %error, "the task of a sidecar ended");
        }
    }
}
