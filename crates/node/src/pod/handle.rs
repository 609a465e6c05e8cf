//! A pod of this node, as everybody in the node sees it: its state, its logs, what runs, and how to end it.

use super::stop::Stop;
use crate::clock;
use crate::logs::Log;
use crate::status::{self, ContainerRecord, Phase, PodRecord, State, Verdict};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube_server::{ApiError, Kind, PodEvent, Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who says what happens to pods (Kubernetes' word).
const COMPONENT: &str = "kubelet";
/// Logs kept of a container: of the run that goes on and the one before it, as a kubelet does.
const KEPT_LOGS: usize = 2;

/// A container that runs, for whoever wants to execute something in it.
#[derive(Clone)]
pub struct Running {
    /// The container itself.
    pub container: sandbox::Container,
    /// Environment of its process.
    pub env: Vec<(String, String)>,
}

/// A pod that was bound to this node and whose object is still there.
pub struct PodHandle {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The pod as it was bound.
    pub pod: Pod,
    /// Asks it to end.
    pub stop: Stop,
    store: Store,
    record: Mutex<PodRecord>,
    logs: Mutex<BTreeMap<String, Vec<Arc<Log>>>>,
    running: Mutex<BTreeMap<String, Running>>,
}

impl PodHandle {
    /// A handle of a pod that has just been bound.
    pub fn new(store: Store, pod: Pod, host_ip: String) -> Arc<Self> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let record = PodRecord {
            started_at: Some(clock::now()),
            host_ip,
            init_names: init.map(|one| one.name.clone()).collect(),
            ..PodRecord::default()
        };
        Arc::new(Self {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            pod,
            stop: Stop::default(),
            store,
            record: Mutex::new(record),
            logs: Mutex::default(),
            running: Mutex::default(),
        })
    }

    /// Its spec.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// How long its containers have to end when nobody says otherwise.
    pub fn grace(&self) -> Duration {
        let seconds = self.spec().termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Tells what happened.
    pub fn event(&self, reason: &str, message: impl Into<String>) {
        self.say(reason, message.into(), false);
    }

    /// Tells what went wrong.
    pub fn warn(&self, reason: &str, message: impl Into<String>) {
        self.say(reason, message.into(), true);
    }

    fn say(&self, reason: &str, message: String, warning: bool) {
        self.store.record_event(&PodEvent {
            namespace: self.namespace.clone(),
            pod: self.name.clone(),
            uid: self.uid.clone(),
            reason: reason.to_owned(),
            message,
            warning,
            component: COMPONENT,
        });
    }

    /// Changes what is known and writes the status; answers the phase.
    pub fn update(&self, change: impl FnOnce(&mut PodRecord)) -> Phase {
        let mut record = lock(&self.record);
        change(&mut record);
        let phase = status::phase(self.spec(), &record);
        // Under the lock, so that statuses are written in their order. A pod that is gone has nobody to read it.
        let _ = self.store.update(Kind::Pod, &self.namespace, &self.name, |object| {
            if object["metadata"]["uid"].as_str() != Some(&self.uid) {
                return Err(ApiError::not_found(Kind::Pod.resource(), &self.name));
            }
            let before: PodStatus = serde_json::from_value(object["status"].clone()).unwrap_or_default();
            let status = status::status(self.spec(), before, &record, clock::now());
            object["status"] = serde_json::to_value(status).map_err(|error| ApiError::internal(error.to_string()))?;
            Ok(())
        });
        phase
    }

    /// Changes what is known of one container and writes the status.
    pub fn update_container(&self, name: &str, change: impl FnOnce(&mut ContainerRecord)) {
        self.update(|record| change(record.containers.entry(name.to_owned()).or_default()));
    }

    /// Sets why a container waits.
    pub fn waits(&self, name: &str, reason: &'static str, message: impl Into<String>) {
        let state = State::waiting(reason, message);
        self.update_container(name, |one| one.state = state);
    }

    /// Ends the pod as a whole, for a reason that becomes its status.
    pub fn fail(&self, reason: &'static str, message: impl Into<String>, grace: Duration) {
        let verdict = Verdict { reason, message: message.into() };
        self.update(|record| {
            record.ended = true;
            record.verdict.get_or_insert(verdict);
        });
        self.stop.within(grace);
    }

    /// What is known now.
    pub fn record(&self) -> PodRecord {
        lock(&self.record).clone()
    }

    /// Adds the log of a new run of a container.
    pub fn add_log(&self, container: &str, log: Arc<Log>) {
        let mut logs = lock(&self.logs);
        let runs = logs.entry(container.to_owned()).or_default();
        runs.push(log);
        if runs.len() > KEPT_LOGS {
            runs.remove(0).remove();
        }
    }

    /// The log of the last run of a container, or of the one before it.
    pub fn log(&self, container: &str, previous: bool) -> Option<Arc<Log>> {
        let logs = lock(&self.logs);
        let runs = logs.get(container)?;
        runs.len().checked_sub(if previous { 2 } else { 1 }).and_then(|index| runs.get(index)).cloned()
    }

    /// Says that a container runs now, or no more.
    pub fn set_running(&self, container: &str, running: Option<Running>) {
        let mut all = lock(&self.running);
        match running {
            Some(running) => drop(all.insert(container.to_owned(), running)),
            None => drop(all.remove(container)),
        }
    }

    /// A container that runs.
    pub fn running(&self, container: &str) -> Option<Running> {
        lock(&self.running).get(container).cloned()
    }

    /// Whether somebody asked for the pod's deletion; `None` when its object is gone.
    pub fn is_being_deleted(&self) -> Option<bool> {
        let object = self.store.get(Kind::Pod, &self.namespace, &self.name).ok()?;
        let same = object.pointer("/metadata/uid").and_then(Value::as_str) == Some(&self.uid);
        same.then(|| object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()))
    }

    /// Takes the object away for good.
    pub fn remove_object(&self) {
        self.store.remove(Kind::Pod, &self.namespace, &self.name, &self.uid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
