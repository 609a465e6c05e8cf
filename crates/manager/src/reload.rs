//! The configuration, at the start and whenever another takes its place.
//!
//! A namespace that is new is first looked at and gone on with, then jobs are asked for, so the start is the change from
//! a configuration that says nothing. One that cannot be used changes nothing: at the start the manager ends, later it
//! goes on as before. Jobs that run go on as they began; they share with the new version of their entry its room and its
//! connections to GitLab. An entry that asks in another way from now on (token, certificates, cluster, number of
//! questions) lets go of its open questions as a manager does that stops, and asks anew.

use crate::clusters::Cluster;
use crate::wiring::{Manager, RunnerSide, Setup};
use crate::{Change, Error, adopt, cluster, features, lease, permissions, places, poll, recover};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

/// First questions are this far apart: a server holds all of them equally long, and many that end in the same instant
/// would leave their entries without an open question for longer than one that ends alone.
const BETWEEN_FIRST_QUESTIONS: Duration = Duration::from_millis(10);
/// The last of the first questions is asked by then.
const FIRST_QUESTIONS: Duration = Duration::from_secs(2);

/// Works by the newest configuration until the stop.
pub async fn keep_up(manager: &Arc<Manager>, first: Change, mut changes: Option<Receiver<Change>>) -> Result<(), Error> {
    let mut coming = Some(Arc::new(next(manager, first)?));
    let mut works = false;
    loop {
        let wanted = coming.clone();
        let entered = async {
            match wanted {
                Some(setup) => enter(manager, setup).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = manager.stop.cancelled() => return Ok(()),
            entered = entered => match entered {
                Ok(()) => (coming, works) = (None, true),
                Err(error) if !works => return Err(error),
                Err(error) => {
                    coming = None;
                    refused(&error);
                }
            },
            // What is half done is begun anew with the newer one: each step finds its own work of before.
            change = newer(&mut changes) => match next(manager, change) {
                Ok(setup) => coming = Some(Arc::new(setup)),
                Err(error) => refused(&error),
            },
        }
    }
}

fn next(manager: &Manager, change: Change) -> Result<Setup, Error> {
    manager.setup().next(change.config, change.clusters, manager)
}

fn refused(error: &Error) {
    tracing::error!(error = cluster::chain(error), "the changed configuration cannot be used, the one before stays");
}

async fn newer(changes: &mut Option<Receiver<Change>>) -> Change {
    if let Some(receiver) = changes
        && let Some(change) = receiver.recv().await
    {
        return change;
    }
    *changes = None;
    std::future::pending().await
}

/// Puts a configuration to work.
async fn enter(manager: &Arc<Manager>, setup: Arc<Setup>) -> Result<(), Error> {
    let new: Vec<_> = setup.places().into_iter().filter(|(cluster, namespace)| !cluster.is_watched(namespace)).collect();
    look(&setup, &new).await?;
    put(manager, &setup);
    hold(manager, &setup).await;
    manager.make_room();
    recover::recover(manager, &new).await;
    look_after(manager, &setup);
    keep_places(manager, &setup).await;
    let (runners, concurrent) = (setup.runners.len(), setup.concurrent);
    tracing::info!(runners, concurrent, "configuration loaded");
    let begin: Vec<_> = setup.runners.iter().filter(|runner| runner.asking.begins()).cloned().collect();
    ask(manager, &begin);
    Ok(())
}

/// Takes our Lease in each cluster and renews it from then on: no job is asked for before.
async fn hold(manager: &Arc<Manager>, setup: &Setup) {
    let new = setup.clusters.iter().filter(|cluster| setup.is_used(cluster) && !cluster.is_held.load(Ordering::Relaxed));
    for cluster in new {
        lease::take(manager, cluster).await;
        cluster.is_held.store(true, Ordering::Relaxed);
        let (one, cluster) = (manager.clone(), cluster.clone());
        manager.attend(async move { lease::keep(&one, &cluster).await });
    }
}

/// Looks after what others leave in each cluster, once what is ours there is in our hands.
fn look_after(manager: &Arc<Manager>, setup: &Setup) {
    let used = setup.clusters.iter().filter(|cluster| setup.is_used(cluster));
    for cluster in used.filter(|cluster| !cluster.is_looked_after.swap(true, Ordering::Relaxed)) {
        let (one, cluster) = (manager.clone(), cluster.clone());
        manager.attend(async move { adopt::keep(&one, &cluster).await });
    }
}

/// What has to be known of namespaces before the first job.
async fn look(setup: &Setup, new: &[(Arc<Cluster>, String)]) -> Result<(), Error> {
    let missing = permissions::missing(new, setup.clusters.len()).await;
    if !missing.is_empty() {
        for one in &missing {
            tracing::error!(hint = "`gantry rbac` prints the manifest", "{one}");
        }
        return Err(Error::Permissions(missing));
    }
    for (cluster, namespace) in new {
        if features::is_missing(cluster, namespace).await {
            return Err(Error::Namespace { namespace: namespace.clone(), cluster: cluster.name.clone() });
        }
    }
    for cluster in setup.clusters.iter().filter(|cluster| !cluster.is_known()) {
        features::ask(cluster, &setup.home(cluster)).await;
    }
    Ok(())
}

/// From now on the configuration is this one, for whatever is looked up.
fn put(manager: &Manager, setup: &Arc<Setup>) {
    let old = manager.replace(setup.clone());
    manager.make_room();
    let asks = |setup: &Setup, one: &RunnerSide| setup.runners.iter().any(|other| Arc::ptr_eq(&other.asking, &one.asking));
    for gone in old.runners.iter().filter(|runner| !asks(setup, runner)) {
        gone.asking.end.cancel();
    }
    for changed in setup.runners.iter().filter(|one| !old.runners.iter().any(|other| Arc::ptr_eq(one, other))) {
        if let Err(error) = changed.connect_anew(manager) {
            tracing::error!(
                runner.name = changed.config.name,
                error = cluster::chain(&error),
                "jobs that run keep their connections"
            );
        }
    }
}

/// Notes where jobs may still be although no entry puts them there any more: the next start has to look there.
async fn keep_places(manager: &Manager, setup: &Setup) {
    for cluster in setup.clusters.iter().filter(|cluster| setup.is_used(cluster)) {
        let named = setup.namespaces(cluster);
        for namespace in cluster.watched().difference(&named) {
            if let Err(error) = places::keep(manager, cluster, namespace).await {
                let error = cluster::chain(&error);
                tracing::warn!(namespace, error, "a namespace of jobs that run could not be noted for the next start");
            }
        }
    }
}

fn ask(manager: &Arc<Manager>, runners: &[Arc<RunnerSide>]) {
    let questions = runners.iter().flat_map(|runner| (0..runner.questions).map(move |_| runner));
    let many = u32::try_from(questions.clone().count()).unwrap_or(u32::MAX);
    let between = BETWEEN_FIRST_QUESTIONS.min(FIRST_QUESTIONS / many.max(1));
    for (turn, runner) in (0..).zip(questions) {
        let (manager, runner) = (manager.clone(), runner.clone());
        manager.clone().spawn(async move { poll::poll(&manager, &runner, between * turn).await });
    }
}
