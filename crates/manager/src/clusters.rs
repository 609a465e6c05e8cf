//! The clusters that runner entries put their pods into, and what is known of each.
//!
//! Entries with the same connection share a cluster: one client, one watch for each namespace, one set of answers about
//! what the cluster offers.

use crate::adopt::Suspects;
use crate::hands::Hands;
use crate::lease::Leases;
use crate::watch::{self, Hub};
use crate::wiring::Manager;
use pod_spec::Features;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// Which clusters there are, and which entry uses which.
#[derive(Clone)]
pub struct Clusters {
    known: Vec<(String, kube::Client)>,
    of_runners: Vec<usize>,
}

impl Clusters {
    /// One cluster for all entries; the name is for people.
    pub fn one(name: &str, client: kube::Client) -> Self {
        Self { known: vec![(name.to_owned(), client)], of_runners: Vec::new() }
    }

    /// All clusters with their names, and for each entry, in the order of the configuration, the index of its own. Where
    /// they take the place of others, the first ones are those.
    pub fn several(known: Vec<(String, kube::Client)>, of_runners: Vec<usize>) -> Self {
        Self { known, of_runners }
    }

    /// Each cluster, of which some are known already, and the index of each entry's.
    pub(crate) fn open(self, before: &[Arc<Cluster>], runners: usize) -> (Vec<Arc<Cluster>>, Vec<usize>) {
        let new = self.known.into_iter().skip(before.len()).map(|(name, client)| Arc::new(Cluster::new(name, client)));
        let all: Vec<_> = before.iter().cloned().chain(new).collect();
        let last = all.len().saturating_sub(1);
        let of_runners = (0..runners).map(|runner| self.of_runners.get(runner).copied().unwrap_or(0).min(last)).collect();
        (all, of_runners)
    }
}

/// One cluster at work.
pub(crate) struct Cluster {
    /// For people.
    pub name: String,
    /// Calls to it.
    pub client: kube::Client,
    /// Who follows which pod.
    pub hub: Arc<Hub>,
    /// Which jobs somebody has.
    pub hands: Arc<Hands>,
    /// Which managers are alive.
    pub leases: Leases,
    /// Asks for a look at what is left of others.
    pub look: Notify,
    /// What belonged to no job at the looks before.
    suspects: Mutex<Suspects>,
    /// Plans that cannot be gone on with, told once.
    hopeless: Mutex<BTreeSet<(String, String)>>,
    home: OnceLock<String>,
    /// Our Lease was taken and is renewed.
    pub is_held: AtomicBool,
    /// Somebody looks after what is left there.
    pub is_looked_after: AtomicBool,
    /// Set when the cluster did not take a plan: no job is asked for until it answers again.
    pub is_down: AtomicBool,
    features: OnceLock<Features>,
    /// A node could not do what the API server offers.
    no_image_volumes: AtomicBool,
    watched: Mutex<BTreeSet<String>>,
}

impl Cluster {
    fn new(name: String, client: kube::Client) -> Self {
        Self {
            name,
            client,
            hub: Arc::default(),
            hands: Arc::default(),
            leases: Leases::default(),
            look: Notify::new(),
            suspects: Mutex::default(),
            hopeless: Mutex::default(),
            home: OnceLock::new(),
            is_held: AtomicBool::new(false),
            is_looked_after: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            features: OnceLock::new(),
            no_image_volumes: AtomicBool::new(false),
            watched: Mutex::default(),
        }
    }

    /// What may stand in a pod; nothing special before the cluster was asked.
    pub fn features(&self) -> Features {
        let known = self.features.get().copied().unwrap_or_default();
        Features { image_volumes: known.image_volumes && !self.no_image_volumes.load(Ordering::Relaxed), ..known }
    }

    /// Whether the cluster was asked what it offers.
    pub fn is_known(&self) -> bool {
        self.features.get().is_some()
    }

    /// Keeps what the cluster answered.
    pub fn keep(&self, features: Features) {
        let _ = self.features.set(features);
    }

    /// The namespace of what belongs to no job, as it was at first: who comes and goes is seen in one place.
    pub fn home(&self, manager: &Manager) -> String {
        self.home.get_or_init(|| manager.home(self)).clone()
    }

    /// What belonged to no job at the looks before.
    pub fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was known before that nobody can go on with this plan; from now on it is.
    pub fn is_known_as_hopeless(&self, namespace: &str, first: &str) -> bool {
        let mut hopeless = self.hopeless.lock().unwrap_or_else(PoisonError::into_inner);
        !hopeless.insert((namespace.to_owned(), first.to_owned()))
    }

    /// From now on no volume is an image.
    pub fn give_up_image_volumes(&self) {
        self.no_image_volumes.store(true, Ordering::Relaxed);
    }

    /// Every namespace whose pods are watched.
    pub fn watched(&self) -> BTreeSet<String> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the pods of a namespace are watched.
    pub fn is_watched(&self, namespace: &str) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).contains(namespace)
    }

    /// Watches the pods of a namespace until the manager stops, unless that is done already. The watch begins with a
    /// list, so the followers of pods that are there have to be there before.
    pub fn watch(&self, manager: &Manager, namespace: &str) {
        if !self.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.to_owned()) {
            return;
        }
        let (hub, client, selector) = (self.hub.clone(), self.client.clone(), manager.selector());
        let (halt, stop, namespace) = (manager.halt.clone(), manager.stop.clone(), namespace.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = halt.cancelled() => {},
                () = stop.cancelled() => {},
                () = watch::pods(hub, client, namespace, selector) => {}
            }
        });
    }
}
