//! Events of pods: counted when they repeat, bounded in number and age.

use super::{Inner, Key, Store, key};
use crate::{Kind, defaults};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many events are kept in all, and how many go at once when there are more.
const MOST: usize = 4000;
const BATCH: usize = 200;
/// How long an event is kept after it was last seen, Kubernetes' own hour.
const KEPT_SECONDS: i64 = 3600;
/// How often old events are looked for, and how many go at once, so that watchers keep up.
const SWEEP: Duration = Duration::from_secs(60);
const MOST_DROPPED: usize = 500;

/// Something that happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let now = defaults::now();
        let repeated = self.lock().same_event(event);
        let repeated = repeated.map(|name| {
            self.update(Kind::Event, &event.namespace, &name, |known| {
                known["count"] = json!(known["count"].as_i64().unwrap_or(1) + 1);
                known["lastTimestamp"] = json!(now);
                Ok(())
            })
        });
        if matches!(repeated, Some(Ok(_))) {
            return;
        }
        // Names in the order of time, as Kubernetes makes them: kubectl keeps their order within a second.
        let name = format!("{}.{:016x}", event.pod, nanoseconds());
        let object = json!({
            "metadata": {"name": name},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": event.namespace, "name": event.pod, "uid": event.uid},
            "reason": event.reason, "message": event.message, "type": kind_of(event),
            "source": {"component": event.component}, "reportingComponent": event.component, "reportingInstance": "",
            "count": 1, "firstTimestamp": now, "lastTimestamp": now, "eventTime": null,
        });
        if let Err(error) = self.create(Kind::Event, &event.namespace, object) {
            tracing::debug!(%error, pod = event.pod, "event dropped");
        }
    }

    /// Lets go of events that are old, and of the oldest when there are too many.
    pub(super) fn bound_events(&self, inner: &mut Inner) {
        let count = inner.select(Kind::Event, None).count();
        if count <= MOST && inner.events_swept.elapsed() < SWEEP {
            return;
        }
        inner.events_swept = Instant::now();
        let oldest_kept = defaults::time_in(-KEPT_SECONDS);
        let mut by_age: Vec<(String, Key)> = inner
            .objects
            .range(key(Kind::Event, "", "")..)
            .take_while(|(key, _)| key.0 == Kind::Event)
            .map(|(key, event)| (last_seen(event), key.clone()))
            .collect();
        by_age.sort_unstable();
        let too_many = if count > MOST { count - MOST + BATCH } else { 0 };
        for (index, (seen, key)) in by_age.iter().enumerate().take(MOST_DROPPED.max(too_many)) {
            if index >= too_many && *seen >= oldest_kept {
                break;
            }
            self.take(inner, key);
        }
    }
}

impl Inner {
    /// Name of the event that says the same of the same pod.
    fn same_event(&self, event: &PodEvent) -> Option<String> {
        let prefix = format!("{}.", event.pod);
        let names = self.objects.range(key(Kind::Event, &event.namespace, &prefix)..);
        let mut of_pod = names.take_while(|((kind, namespace, name), _)| {
            *kind == Kind::Event && *namespace == event.namespace && name.starts_with(&prefix)
        });
        let found = of_pod.find(|(_, known)| {
            known["involvedObject"]["uid"] == event.uid
                && known["reason"] == event.reason
                && known["message"] == event.message
                && known["type"] == kind_of(event)
                && known["source"]["component"] == event.component
        });
        found.map(|((_, _, name), _)| name.clone())
    }
}

/// Kubernetes' word for how bad an event is.
fn kind_of(event: &PodEvent) -> &'static str {
    if event.warning { "Warning" } else { "Normal" }
}

fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// When an event was last seen; times in one format sort as text, and one without a time is as old as can be.
fn last_seen(event: &Value) -> String {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{BATCH, MOST, SWEEP};
    use crate::{Kind, PodEvent, Selectors, Store};
    use serde_json::json;
    use std::time::Instant;

    fn event(store: &Store, name: &str, seen: &str) {
        let event = json!({"metadata": {"name": name}, "lastTimestamp": seen, "involvedObject": {}});
        store.create(Kind::Event, "default", event).unwrap();
    }

    fn names(store: &Store) -> Vec<String> {
        let (events, _) = store.list(Kind::Event, None, &Selectors::default());
        events.iter().map(|event| event["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn events_are_bounded_in_number_and_the_oldest_go_first() {
        let store = Store::new();
        event(&store, "oldest", "2999-01-01T00:00:00Z");
        for index in 0..MOST {
            event(&store, &format!("e{index}"), "2999-01-02T00:00:00Z");
        }
        let names = names(&store);
        assert_eq!(names.len(), MOST - BATCH);
        assert!(!names.contains(&"oldest".to_owned()));
    }

    #[test]
    fn events_expire() {
        let store = Store::new();
        event(&store, "old", "2001-01-01T00:00:00Z");
        event(&store, "new", "2999-01-01T00:00:00Z");
        assert_eq!(names(&store).len(), 2, "sweeps must not happen each time");
        let Some(long_ago) = Instant::now().checked_sub(SWEEP) else { return };
        store.lock().events_swept = long_ago;
        assert_eq!(names(&store), ["new"]);
    }

    #[test]
    fn events_of_a_pod_are_listed_as_they_happened_and_counted_when_they_repeat() {
        let store = Store::new();
        let reasons = ["Scheduled", "Pulling", "Pulled", "Created", "Started", "Killing", "BackOff", "Failed"];
        for reason in reasons.into_iter().chain(["Pulling"]) {
            let [namespace, pod, uid, message] = ["default", "p", "u", "m"].map(str::to_owned);
            let reason = reason.to_owned();
            store.record_event(&PodEvent { namespace, pod, uid, reason, message, warning: false, component: "kubelet" });
        }
        let (events, _) = store.list(Kind::Event, None, &Selectors::default());
        let listed: Vec<_> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
        assert_eq!(listed, reasons);
        let counts: Vec<_> = events.iter().map(|event| event["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 2, 1, 1, 1, 1, 1, 1]);
    }
}
