//! One Lease for each manager and cluster: who is alive, seen by all who share a namespace.
//!
//! Nobody leads. Each manager renews its own Lease and lists all of them, every ten seconds: twelve requests a minute,
//! however many jobs there are. A Lease that does not change for its duration is expired, by the clock of who looks:
//! what time others believe it is does not matter. While we could not look ourselves nobody's time runs.
//!
//! The Lease bears the name of the system id and is held by one process. A second process with the same id takes it
//! over, so that a restart need not wait; the first one finds that out at its next renewal and lets go of everything.

use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use crate::note;
use crate::wiring::Manager;
use agent_contract::names;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a Lease is good without a renewal.
pub const DURATION: Duration = Duration::from_secs(30);
/// Between renewals.
const RENEWAL: Duration = Duration::from_secs(10);
/// After one that did not succeed; then longer, up to [`RENEWAL`].
const AGAIN: Duration = Duration::from_secs(1);
/// A renewal that takes longer is better tried again.
const CALL: Duration = Duration::from_secs(5);
/// Who has not looked for this long does not know who is alive.
const BLIND: Duration = Duration::from_secs(25);
/// Nobody is waited for longer, whatever stands in a Lease.
const LONGEST: Duration = Duration::from_secs(600);
/// A Lease that nobody renews is kept for this long.
const BURIAL: Duration = Duration::from_secs(240);
/// Longest time that the end of the manager is held up.
const RELEASING: Duration = Duration::from_secs(1);

/// A stretch of time in which our Lease was good without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term(u64);

/// What is known of the Leases of a cluster.
#[derive(Debug, Default)]
pub struct Leases {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When our Lease was renewed last, counted from before the call.
    renewed: Option<Instant>,
    term: u64,
    /// Its version then.
    version: Option<String>,
    /// When all were listed last.
    listed: Option<Instant>,
    /// By owner.
    others: BTreeMap<String, Other>,
}

/// Another manager's.
#[derive(Clone, Debug)]
struct Other {
    version: Option<String>,
    /// It is like that at least since then.
    since: Instant,
    duration: Duration,
    /// Its end was noticed.
    told: bool,
}

impl Other {
    fn is_good(&self) -> bool {
        self.since.elapsed() <= self.duration
    }
}

impl Leases {
    /// The stretch without a gap that we are in; `None` when our Lease may have expired in the eyes of others.
    pub fn term(&self) -> Option<Term> {
        let known = self.lock();
        known.renewed.is_some_and(|at| at.elapsed() < DURATION).then_some(Term(known.term))
    }

    /// Whether a manager may be alive: as far as Leases tell, and whoever cannot be seen may be.
    pub fn is_alive(&self, owner: &str) -> bool {
        let known = self.lock();
        known.listed.is_none_or(|at| at.elapsed() > BLIND) || known.others.get(owner).is_some_and(Other::is_good)
    }

    /// How many others are alive, and how many of them come before `owner`.
    pub fn alive(&self, owner: &str) -> (usize, usize) {
        let known = self.lock();
        let alive: Vec<_> = known.others.iter().filter(|(_, other)| other.is_good()).map(|(name, _)| name).collect();
        (alive.len(), alive.iter().filter(|name| name.as_str() < owner).count())
    }

    fn renewed(&self, began: Instant, version: Option<String>) {
        let mut known = self.lock();
        if known.renewed.is_none_or(|before| before.elapsed() >= DURATION) {
            known.term += 1;
        }
        (known.renewed, known.version) = (Some(began), version);
    }

    /// Learns a whole list; answers whether it shows that somebody has gone.
    fn learn(&self, ours: &str, leases: Vec<Lease>) -> bool {
        let (mut known, now) = (self.lock(), Instant::now());
        let was_blind = known.listed.is_none_or(|at| now.duration_since(at) > BLIND);
        known.listed = Some(now);
        let mut before = std::mem::take(&mut known.others);
        for lease in leases {
            let owner = note::label(&lease.metadata, names::LABEL_OWNER);
            if owner.is_empty() || owner == ours {
                continue;
            }
            let seconds =
                lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).and_then(|one| u64::try_from(one).ok());
            let duration = seconds.map_or(DURATION, Duration::from_secs).min(LONGEST);
            let version = lease.metadata.resource_version.clone();
            let same = before.remove(owner).filter(|other| other.version == version && !was_blind);
            let other = same.unwrap_or(Other { version, since: now, duration, told: false });
            known.others.insert(owner.to_owned(), other);
        }
        let mut has_gone = !before.is_empty();
        for other in known.others.values_mut().filter(|other| !other.is_good() && !other.told) {
            (other.told, has_gone) = (true, true);
        }
        has_gone
    }

    /// Owners whose Lease is out of date for long, with its version.
    fn buried(&self) -> Vec<(String, Option<String>)> {
        let long = |other: &Other| other.since.elapsed() > other.duration + BURIAL;
        let known = self.lock();
        let dead = known.others.iter().filter(|(_, other)| long(other));
        dead.map(|(owner, other)| (owner.clone(), other.version.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why our Lease could not be taken or renewed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another process holds it.
    #[error("Lease {name} is held by {holder}")]
    Held { name: String, holder: String },
}

/// Name of the Lease of a manager, and the beginning of the names of what else belongs to no job.
pub fn name(owner: &str) -> String {
    format!("gantry-{}", owner.to_ascii_lowercase().replace(['_', '.'], "-"))
}

/// Takes our Lease, whoever has it; tries until it succeeds.
pub async fn take(manager: &Manager, cluster: &Cluster) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    while let Err(error) = Box::pin(take_once(manager, cluster)).await {
        let (error, pause) = (cluster::chain(&error), backoff.pause());
        tracing::warn!(cluster = cluster.name, error, "failed to take the manager's Lease; no job is asked for until then");
        tokio::time::sleep(pause).await;
    }
}

async fn take_once(manager: &Manager, cluster: &Cluster) -> Result<(), Trouble> {
    let (api, name, began) = (api(manager, cluster), name(&manager.owner), Instant::now());
    let leases = list(&api).await?;
    let found = leases.iter().find(|lease| lease.metadata.name.as_ref() == Some(&name));
    let lease = match found {
        None => create(manager, &api, &name).await?,
        Some(lease) if note::label(&lease.metadata, names::LABEL_OWNER) != manager.owner => {
            let holder = note::label(&lease.metadata, names::LABEL_OWNER).to_owned();
            return Err(Trouble::Held { name, holder });
        }
        Some(lease) => {
            let before = holder(lease);
            if before != manager.identity() {
                tracing::info!(lease = name, before, "the manager's Lease is taken over from the process before");
            }
            renew(manager, &api, &name, before).await?
        }
    };
    cluster.leases.renewed(began, lease.metadata.resource_version);
    cluster.leases.learn(&manager.owner, leases);
    Ok(())
}

/// Renews our Lease until the manager ends; cancels `lost` when another process has taken it.
pub async fn keep(manager: &Manager, cluster: &Cluster) {
    let (mut next, mut in_trouble) = (Instant::now() + RENEWAL, false);
    let mut backoff = Backoff::new(AGAIN, RENEWAL);
    loop {
        tokio::time::sleep_until(next).await;
        let began = Instant::now();
        next = began + RENEWAL;
        match Box::pin(round(manager, cluster)).await {
            Ok(()) if in_trouble => {
                in_trouble = false;
                backoff.reset();
                tracing::info!(cluster = cluster.name, "the manager's Lease is renewed again");
            }
            Ok(()) => {}
            Err(Trouble::Held { name, holder }) => {
                let message =
                    "two managers have one system id: the newer one has taken our Lease, and this one lets go of everything";
                tracing::error!(
                    system.id = manager.system_id,
                    lease = name,
                    holder,
                    hint = "give each manager a system id of its own",
                    "{message}"
                );
                manager.lost.cancel();
                return;
            }
            Err(Trouble::Call(error)) => {
                if !in_trouble {
                    let (error, cluster) = (cluster::chain(&error), &cluster.name);
                    tracing::warn!(cluster, error, "the manager's Lease could not be renewed; after 30 s others adopt its jobs");
                }
                (in_trouble, next) = (true, Instant::now() + backoff.pause());
            }
        }
    }
}

async fn round(manager: &Manager, cluster: &Cluster) -> Result<(), Trouble> {
    let (api, name, began) = (api(manager, cluster), name(&manager.owner), Instant::now());
    let lease = match renew(manager, &api, &name, &manager.identity()).await {
        Ok(lease) => lease,
        Err(error) if error.is_missing() => create(manager, &api, &name).await?,
        Err(error) if error.is_unmet() => {
            let leases = list(&api).await?;
            let ours = leases.iter().find(|lease| lease.metadata.name.as_ref() == Some(&name));
            let holder = ours.map(|lease| holder(lease).to_owned()).unwrap_or_default();
            return Err(Trouble::Held { name, holder });
        }
        Err(error) => return Err(error.into()),
    };
    cluster.leases.renewed(began, lease.metadata.resource_version);
    let leases = list(&api).await?;
    if !leases.iter().any(|lease| lease.metadata.name.as_ref() == Some(&name)) {
        // A list that lacks the Lease that was just renewed says nothing of the others either.
        return Err(CallError::Unreadable("list the Leases").into());
    }
    if cluster.leases.learn(&manager.owner, leases) {
        cluster.look.notify_one();
    }
    // Replicas come and go: what one may take changes with them.
    manager.make_room();
    Ok(())
}

/// Gives our Lease back, so that others need not wait for its end.
pub async fn release(manager: &Manager, cluster: &Cluster) {
    let (api, name) = (api(manager, cluster), name(&manager.owner));
    let released = async {
        let mut version = cluster.leases.lock().version.clone();
        while version.is_some() {
            let preconditions = Preconditions { resource_version: version, uid: None };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match cluster::call("give the Lease back", api.delete(&name, &parameters)).await {
                // A renewal was under way at the stop, or another process has it now.
                Err(error) if error.is_outdated() => {
                    let leases = list(&api).await?;
                    let ours = leases.into_iter().find(|lease| holder(lease) == manager.identity());
                    version = ours.and_then(|lease| lease.metadata.resource_version);
                }
                Err(error) if !error.is_missing() => return Err(error),
                _ => return Ok(()),
            }
        }
        Ok(())
    };
    let error = match tokio::time::timeout(RELEASING, released).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => cluster::chain(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(cluster = cluster.name, error, "the manager's Lease was not given back; it expires in 30 s");
}

/// Deletes the Leases of those who are gone and of whom nothing is left.
pub async fn bury(manager: &Manager, cluster: &Cluster, have_something: &BTreeSet<String>) {
    let api = api(manager, cluster);
    for (owner, version) in cluster.leases.buried() {
        if have_something.contains(&owner) {
            continue;
        }
        let (name, preconditions) = (name(&owner), Preconditions { resource_version: version, uid: None });
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match quick("delete a Lease", api.delete(&name, &parameters)).await {
            Err(error) if !error.is_missing() && !error.is_outdated() => {
                tracing::warn!(
                    lease = name,
                    error = cluster::chain(&error),
                    "the Lease of a manager that is gone could not be deleted"
                );
            }
            _ => tracing::info!(lease = name, "the Lease of a manager that is gone was deleted"),
        }
    }
}

/// Waits until nobody holds our Lease any more.
pub async fn until_free(manager: &Manager, cluster: &Cluster) {
    let (api, name) = (api(manager, cluster), name(&manager.owner));
    let mut last: Option<(Option<String>, Instant)> = None;
    loop {
        match list(&api).await {
            Ok(leases) => {
                let ours = leases.into_iter().find(|lease| lease.metadata.name.as_ref() == Some(&name));
                let Some(ours) = ours else { return };
                let version = ours.metadata.resource_version;
                match &last {
                    Some((before, since)) if *before == version && since.elapsed() > DURATION => return,
                    Some((before, _)) if *before == version => {}
                    _ => last = Some((version, Instant::now())),
                }
            }
            // What cannot be seen is no reason to believe anything.
            Err(_) => last = None,
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

fn api(manager: &Manager, cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), &cluster.home(manager))
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

async fn list(api: &Api<Lease>) -> Result<Vec<Lease>, CallError> {
    let parameters = ListParams::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGED_BY_VALUE));
    Ok(quick("list the Leases", api.list(&parameters)).await?.items)
}

async fn create(manager: &Manager, api: &Api<Lease>, name: &str) -> Result<Lease, CallError> {
    let labels = [(names::MANAGED_BY, names::MANAGED_BY_VALUE), (names::LABEL_OWNER, manager.owner.as_str())];
    let now = MicroTime(Timestamp::now());
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(manager.identity()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    quick("make the Lease", api.create(&PostParams::default(), &lease)).await
}

/// Renews the Lease if `before` holds it.
async fn renew(manager: &Manager, api: &Api<Lease>, name: &str, before: &str) -> Result<Lease, CallError> {
    let (identity, now) = (manager.identity(), MicroTime(Timestamp::now()));
    let mut operations = vec![
        json!({"op": "test", "path": "/spec/holderIdentity", "value": before}),
        json!({"op": "add", "path": "/spec/holderIdentity", "value": identity}),
        json!({"op": "add", "path": "/spec/leaseDurationSeconds", "value": DURATION.as_secs()}),
        json!({"op": "add", "path": "/spec/renewTime", "value": now}),
    ];
    if before != identity {
        operations.push(json!({"op": "add", "path": "/spec/acquireTime", "value": now}));
    }
    let patch: Patch<()> = Patch::Json(serde_json::from_value(operations.into()).unwrap_or_default());
    quick("renew the Lease", api.patch(name, &PatchParams::default(), &patch)).await
}

async fn quick<T>(what: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    tokio::time::timeout(CALL, cluster::call(what, call)).await.unwrap_or(Err(CallError::TimedOut(what)))
}
