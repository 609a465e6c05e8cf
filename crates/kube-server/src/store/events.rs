//! Events of pods: counted when they repeat, bounded in number.

use super::Store;
use crate::{DeleteOptions, Kind, Selectors, defaults};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many events a namespace keeps.
const MOST: usize = 1000;

/// Something that happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodEvent {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// uid of the pod.
    pub uid: String,
    /// `Scheduled`, `Pulling`, `FailedMount`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// Who says so.
    pub component: &'static str,
}

impl Store {
    /// Keeps an event. Events are best effort, as in Kubernetes: one that cannot be kept is dropped.
    pub fn record_event(&self, event: &PodEvent) {
        let mut hasher = DefaultHasher::new();
        event.hash(&mut hasher);
        let name = format!("{}.{:016x}", event.pod, hasher.finish());
        let now = defaults::now();
        let repeated = self.update(Kind::Event, &event.namespace, &name, |known| {
            known["count"] = json!(known["count"].as_i64().unwrap_or(1) + 1);
            known["lastTimestamp"] = json!(now);
            Ok(())
        });
        if repeated.is_ok() {
            return;
        }
        let object = json!({
            "metadata": {"name": name},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": event.namespace, "name": event.pod, "uid": event.uid},
            "reason": event.reason, "message": event.message, "type": if event.warning { "Warning" } else { "Normal" },
            "source": {"component": event.component}, "reportingComponent": event.component, "reportingInstance": "",
            "count": 1, "firstTimestamp": now, "lastTimestamp": now, "eventTime": null,
        });
        if self.create(Kind::Event, &event.namespace, object).is_ok() {
            self.drop_oldest(&event.namespace);
        }
    }

    fn drop_oldest(&self, namespace: &str) {
        let (events, _) = self.list(Kind::Event, Some(namespace), &Selectors::default());
        if events.len() <= MOST {
            return;
        }
        let version = |event: &Value| event["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok());
        if let Some(oldest) = events.iter().min_by_key(|event| version(event)) {
            let name = oldest["metadata"]["name"].as_str().unwrap_or_default();
            // Gone meanwhile is as good.
            let _ = self.delete(Kind::Event, namespace, name, &DeleteOptions::default());
        }
    }
}
