//! One watch for all pods of a manager in a namespace, handed on to whoever follows a pod.
//!
//! A follower gets the newest state only: states in between are coalesced, so a slow follower costs one pod's status.
//! The library's watcher lists again after `410 Gone` and lost connections; a pod that such a list lacks is marked as
//! missing, and its follower asks for the truth before it believes it.

use crate::cluster;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as start_watcher};
use kube::{Api, Client};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// After this long without a word the pods are listed: a connection may be dead without anybody's telling.
const SILENCE: Duration = Duration::from_secs(300);

/// What is known of a pod.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its last state; of the spec only the node.
    pub pod: Option<Arc<Pod>>,
    /// It was seen to go.
    pub deleted: bool,
    /// A list did not have it; perhaps it is gone, perhaps it was not there yet.
    pub missing: bool,
}

type Key = (String, String);

/// Who follows which pod.
#[derive(Default)]
pub struct Hub {
    followers: Mutex<BTreeMap<Key, watch::Sender<Seen>>>,
}

/// One pod's states; ends its entry in the hub when dropped.
pub struct Following {
    hub: Arc<Hub>,
    key: Key,
    states: watch::Receiver<Seen>,
}

impl Hub {
    /// Begins to follow a pod, which need not exist yet; `None` when somebody does already.
    pub fn follow(self: &Arc<Self>, namespace: &str, pod: &str) -> Option<Following> {
        let key = (namespace.to_owned(), pod.to_owned());
        let mut followers = self.lock();
        if followers.contains_key(&key) {
            return None;
        }
        let (sender, states) = watch::channel(Seen::default());
        followers.insert(key.clone(), sender);
        Some(Following { hub: self.clone(), key, states })
    }

    fn tell(&self, namespace: &str, mut pod: Pod, deleted: bool) -> Option<String> {
        let name = pod.metadata.name.clone()?;
        // Followers need identity and status; thousands of specs would be most of the memory.
        let node_name = pod.spec.take().and_then(|spec| spec.node_name);
        pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
        (pod.metadata.managed_fields, pod.metadata.annotations) = (None, None);
        if let Some(sender) = self.lock().get(&(namespace.to_owned(), name.clone())) {
            sender.send_replace(Seen { pod: Some(Arc::new(pod)), deleted, missing: false });
        }
        Some(name)
    }

    fn tell_missing(&self, namespace: &str, listed: &HashSet<String>) {
        for ((its_namespace, name), sender) in self.lock().iter() {
            if its_namespace == namespace && !listed.contains(name) {
                sender.send_modify(|seen| seen.missing = true);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, watch::Sender<Seen>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    /// The newest state.
    pub fn newest(&mut self) -> Seen {
        self.states.borrow_and_update().clone()
    }

    /// What is known may be nothing: the pod is asked for itself.
    pub fn doubt(&self) {
        if let Some(sender) = self.hub.lock().get(&self.key) {
            sender.send_modify(|seen| seen.missing = true);
        }
    }

    /// Comes back when there is a newer one.
    pub async fn changed(&mut self) {
        if self.states.changed().await.is_err() {
            // The sender lives as long as the entry, which we hold.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.key);
    }
}

/// Watches the pods of a namespace until it is dropped.
pub async fn pods(hub: Arc<Hub>, client: Client, namespace: String, selector: String) {
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().labels(&selector);
    loop {
        let mut events = start_watcher(api.clone(), config.clone()).default_backoff().boxed();
        let mut listed = HashSet::new();
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
            tell(&hub, &namespace, &mut listed, event);
        }
        tracing::debug!(namespace, "nothing was heard of pods for a while, listing them");
    }
}

fn tell(hub: &Hub, namespace: &str, listed: &mut HashSet<String>, event: watcher::Result<Event<Pod>>) {
    match event {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(pod)) => listed.extend(hub.tell(namespace, pod, false)),
        Ok(Event::InitDone) => hub.tell_missing(namespace, &std::mem::take(listed)),
        Ok(Event::Apply(pod)) => drop(hub.tell(namespace, pod, false)),
        Ok(Event::Delete(pod)) => drop(hub.tell(namespace, pod, true)),
        Err(error) => {
            tracing::warn!(namespace, error = cluster::chain(&error), "the watch for pods broke off, beginning anew")
        }
    }
}
