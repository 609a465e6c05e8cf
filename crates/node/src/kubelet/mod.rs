//! The loop: one watch over all pods, one task per pod that is on this node.
//!
//! Everything that happens to pods comes through the store: a pod without a node is placed or told why not, a pod
//! with a deletion time is asked to end, a pod that is gone is killed. The loop itself never waits for a pod.

mod eviction;
mod machine_facts;
pub mod schedule;
mod store_objects;

pub use machine_facts::{Facts, NODE};
pub use store_objects::StoreObjects;

use crate::clock;
use crate::pod::{self, Context, PodHandle};
use crate::removal::remove_directory;
use crate::status::Phase;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube_server::{ApiError, Kind, PodEvent, Selectors, Store, WatchEvent, WatchFrom};
use sandbox::image::ImageStore;
use schedule::{Amounts, Room, Unschedulable};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long all pods together may take to be gone when the node ends.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// What every pod of the node needs.
pub struct Shared {
    /// The objects.
    pub store: Store,
    /// The machine.
    pub machine: sandbox::Machine,
    /// The images.
    pub images: ImageStore,
    /// Host ids of the pods.
    pub ids: sandbox::IdRange,
    /// What the machine has.
    pub facts: Facts,
    /// Its address, as pods see it.
    pub host_ip: String,
    /// Directory of the pods of this process.
    pub directory: PathBuf,
}

/// A pod on the node.
struct Entry {
    handle: Arc<PodHandle>,
    /// What it asked for; empty once it has ended.
    uses: Amounts,
    task: Option<JoinHandle<()>>,
    has_ended: bool,
}

/// A pod without a node.
struct Pending {
    namespace: String,
    name: String,
    uid: String,
    pod: Pod,
    /// What its object says about why, so that it is not said again and again.
    told: Option<Unschedulable>,
}

/// The node's half of Kubernetes.
pub struct Kubelet {
    shared: Arc<Shared>,
    entries: Mutex<HashMap<String, Entry>>,
    /// In the order they came.
    pending: Mutex<Vec<Pending>>,
    freed: Notify,
}

impl Kubelet {
    /// A kubelet that does nothing until [`Kubelet::run`].
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), entries: Mutex::default(), pending: Mutex::default(), freed: Notify::new() })
    }

    /// The pod with this uid, if it is or was on this node and its object is still there.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodHandle>> {
        lock(&self.entries).get(uid).map(|entry| entry.handle.clone())
    }

    /// Pods whose containers may still run.
    fn running(&self) -> Vec<Arc<PodHandle>> {
        lock(&self.entries).values().filter(|entry| !entry.has_ended).map(|entry| entry.handle.clone()).collect()
    }

    /// Follows the store and the disk until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.clone().follow() => {}
            () = eviction::watch(self.clone()) => {}
        }
    }

    async fn follow(self: Arc<Self>) {
        loop {
            let watch = self.shared.store.watch(Kind::Pod, None, Selectors::default(), WatchFrom::Now);
            let Ok(mut watch) = watch else { return };
            self.forget_missing();
            loop {
                let event = tokio::select! {
                    () = self.freed.notified() => {
                        self.place_pending();
                        continue;
                    }
                    event = watch.next() => event,
                };
                match event {
                    Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => self.seen(&pod),
                    Some(Ok(WatchEvent::Deleted(pod))) => self.gone(text(&pod, "/metadata/uid")),
                    // Read too slowly: look at everything anew.
                    Some(Err(_)) => break,
                    None => return,
                }
            }
        }
    }

    /// Kills all pods and waits until nothing of them is left.
    pub async fn end_all(&self) {
        let (handles, tasks): (Vec<_>, Vec<_>) = {
            let mut entries = lock(&self.entries);
            entries.values_mut().map(|entry| (entry.handle.clone(), entry.task.take())).unzip()
        };
        for handle in handles.iter().filter(|handle| !status_is_final(handle)) {
            handle.fail("Terminated", "Pod was terminated in response to imminent node shutdown.", Duration::ZERO);
        }
        let all = futures::future::join_all(tasks.into_iter().flatten());
        if tokio::time::timeout(SHUTDOWN, all).await.is_err() {
            tracing::warn!("pods that were killed have not ended; what is left of them goes with the machine");
        }
    }

    fn seen(self: &Arc<Self>, object: &Arc<Value>) {
        let uid = text(object, "/metadata/uid").to_owned();
        let deleting = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
        if let Some(handle) = self.pod(&uid) {
            if deleting {
                let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0);
                handle.stop.within(Duration::from_secs(grace));
            }
            return;
        }
        let ended = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
        match text(object, "/spec/nodeName") {
            _ if ended => {}
            "" if deleting => {}
            "" => self.wants_node(object, uid),
            // Somebody named this node without asking the scheduler.
            NODE => self.start(object, Amounts::new()),
            _ => {}
        }
    }

    fn gone(&self, uid: &str) {
        lock(&self.pending).retain(|pending| pending.uid != uid);
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get(uid) else { return };
        entry.handle.stop.within(Duration::ZERO);
        if entry.has_ended {
            entries.remove(uid);
            drop(entries);
            self.remove_files(uid);
        }
    }

    /// After a gap in the watch, what is not there any more is gone.
    fn forget_missing(&self) {
        let (pods, _) = self.shared.store.list(Kind::Pod, None, &Selectors::default());
        let there: std::collections::HashSet<_> = pods.iter().map(|pod| text(pod, "/metadata/uid")).collect();
        let known: Vec<_> = lock(&self.entries).keys().cloned().collect();
        let pending: Vec<_> = lock(&self.pending).iter().map(|pending| pending.uid.clone()).collect();
        for uid in known.iter().chain(&pending).filter(|uid| !there.contains(uid.as_str())) {
            self.gone(uid);
        }
    }

    fn wants_node(self: &Arc<Self>, object: &Value, uid: String) {
        if lock(&self.pending).iter().any(|pending| pending.uid == uid) {
            return;
        }
        let pod = match serde_json::from_value::<Pod>(object.clone()) {
            Ok(pod) => pod,
            Err(error) => return self.refuse(object, &error.to_string()),
        };
        let (namespace, name) = (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned());
        let mut pending = Pending { namespace, name, uid, pod, told: None };
        if !self.try_place(&mut pending) {
            lock(&self.pending).push(pending);
        }
    }

    fn place_pending(self: &Arc<Self>) {
        let mut waiting = std::mem::take(&mut *lock(&self.pending));
        waiting.retain_mut(|pending| !self.try_place(pending));
        lock(&self.pending).splice(0..0, waiting);
    }

    /// Binds a pod if there is room; `true` when it needs no further look.
    fn try_place(self: &Arc<Self>, pending: &mut Pending) -> bool {
        match schedule::place(&pending.pod, &self.room()) {
            Ok(amounts) => {
                // What cannot be bound is gone, or was bound by somebody else.
                if let Ok(bound) = self.bind(pending) {
                    let message = format!("Successfully assigned {}/{} to {NODE}", pending.namespace, pending.name);
                    self.say(pending, "Scheduled", message, false);
                    self.start(&bound, amounts);
                }
                true
            }
            Err(why) => {
                if pending.told.as_ref() != Some(&why) {
                    self.unschedulable(pending, &why);
                    pending.told = Some(why);
                }
                false
            }
        }
    }

    fn room(&self) -> Room {
        let entries = lock(&self.entries);
        let mut used = Amounts::new();
        for (name, amount) in entries.values().flat_map(|entry| &entry.uses) {
            *used.entry(name.clone()).or_insert(0) += amount;
        }
        let pods = entries.values().filter(|entry| !entry.has_ended).count();
        Room { name: NODE.to_owned(), labels: Facts::labels(), capacity: self.shared.facts.amounts(), used, pods }
    }

    fn bind(&self, pending: &Pending) -> Result<Arc<Value>, ApiError> {
        self.update(pending, |pod| {
            pod["spec"]["nodeName"] = json!(NODE);
            set_scheduled(pod, "True", None);
        })
    }

    fn unschedulable(&self, pending: &Pending, why: &Unschedulable) {
        // A pod that is gone meanwhile needs no condition.
        let _ = self.update(pending, |pod| set_scheduled(pod, "False", Some(why)));
        self.say(pending, "FailedScheduling", why.message.clone(), true);
    }

    /// Changes a pod that still has no node.
    fn update(&self, pending: &Pending, change: impl FnOnce(&mut Value)) -> Result<Arc<Value>, ApiError> {
        self.shared.store.update(Kind::Pod, &pending.namespace, &pending.name, |pod| {
            let unbound = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
            if !unbound || pod["metadata"]["uid"].as_str() != Some(&pending.uid) {
                return Err(ApiError::not_found(Kind::Pod.resource(), &pending.name));
            }
            change(pod);
            Ok(())
        })
    }

    /// A pod whose fields have wrong types: the store does not look at all of them.
    fn refuse(&self, object: &Value, why: &str) {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let _ = self.shared.store.update(Kind::Pod, namespace, name, |pod| {
            pod["status"]["phase"] = json!(Phase::Failed.word());
            pod["status"]["reason"] = json!("UnexpectedAdmissionError");
            pod["status"]["message"] = json!(format!("the pod is malformed: {why}"));
            Ok(())
        });
    }

    fn say(&self, pending: &Pending, reason: &str, message: String, warning: bool) {
        self.shared.store.record_event(&PodEvent {
            namespace: pending.namespace.clone(),
            pod: pending.name.clone(),
            uid: pending.uid.clone(),
            reason: reason.to_owned(),
            message,
            warning,
            component: "default-scheduler",
        });
    }

    fn start(self: &Arc<Self>, object: &Value, uses: Amounts) {
        let pod = match serde_json::from_value::<Pod>(object.clone()) {
            Ok(pod) => pod,
            Err(error) => return self.refuse(object, &error.to_string()),
        };
        let handle = PodHandle::new(self.shared.store.clone(), pod, self.shared.host_ip.clone());
        let uid = handle.uid.clone();
        let directory = self.shared.directory.join(&uid);
        let context = Context { shared: self.shared.clone(), handle: handle.clone(), directory };
        let mut entries = lock(&self.entries);
        let kubelet = self.clone();
        let task_uid = uid.clone();
        let task = tokio::spawn(async move {
            pod::run(context).await;
            kubelet.ended(&task_uid);
        });
        entries.insert(uid, Entry { handle, uses, task: Some(task), has_ended: false });
    }

    fn ended(&self, uid: &str) {
        let is_gone = {
            let mut entries = lock(&self.entries);
            let Some(entry) = entries.get_mut(uid) else { return };
            entry.has_ended = true;
            entry.uses.clear();
            let is_gone = entry.handle.is_being_deleted().is_none();
            if is_gone {
                entries.remove(uid);
            }
            is_gone
        };
        if is_gone {
            self.remove_files(uid);
        }
        self.freed.notify_one();
    }

    fn remove_files(&self, uid: &str) {
        let directory = self.shared.directory.join(uid);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = remove_directory(&directory) {
                tracing::warn!(path = %directory.display(), %error, "failed to remove the directory of a pod");
            }
        });
    }
}

fn status_is_final(handle: &PodHandle) -> bool {
    crate::status::phase(handle.spec(), &handle.record()).is_final()
}

fn set_scheduled(pod: &mut Value, status: &str, why: Option<&Unschedulable>) {
    let now = clock::text();
    let mut condition = json!({"type": "PodScheduled", "status": status, "lastProbeTime": null, "lastTransitionTime": now});
    if let Some(why) = why {
        condition["reason"] = json!(why.reason);
        condition["message"] = json!(why.message);
    }
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let same = |one: &Value| one["status"] == condition["status"] && one["message"] == condition["message"];
    if conditions.iter().any(|one| one["type"] == "PodScheduled" && same(one)) {
        return;
    }
    conditions.retain(|one| one["type"] != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = json!(conditions);
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
