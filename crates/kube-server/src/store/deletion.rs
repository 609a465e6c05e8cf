//! How objects go: at once, or, as pods on a node and the namespaces that hold them, when the node is done with them.
//!
//! A namespace ends in one step under the lock: it takes no new objects from then on, what can go is gone, and with the
//! last pod goes the namespace itself.

use super::{DeleteOptions, Inner, Key, Store, key};
use crate::store::watch::Change;
use crate::{ApiError, Kind, defaults};
use serde_json::{Value, json};
use std::sync::Arc;

/// Namespaces that every client counts on.
const KEPT: [&str; 2] = ["default", "kube-system"];

impl Store {
    /// Deletes an object. A pod that runs on a node is only marked, and so is a namespace with such pods; the node ends
    /// the pods and calls [`Store::remove`].
    ///
    /// # Errors
    /// A missing object, a precondition that does not hold, or a namespace that must stay.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str, options: &DeleteOptions) -> Result<Arc<Value>, ApiError> {
        let mut inner = self.lock();
        let key = key(kind, namespace, name);
        let object = inner.objects.get(&key).cloned().ok_or_else(|| ApiError::not_found(kind.resource(), name))?;
        let is = |pointer: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| object.pointer(pointer).and_then(Value::as_str) == Some(wanted))
        };
        if !is("/metadata/uid", &options.uid) || !is("/metadata/resourceVersion", &options.resource_version) {
            return Err(ApiError::conflict(kind.resource(), name, "the precondition does not hold"));
        }
        let gone = match kind {
            Kind::Namespace if KEPT.contains(&name) => {
                return Err(ApiError::forbidden(format!(
                    "namespaces \"{name}\" is forbidden: this namespace may not be deleted"
                )));
            }
            Kind::Namespace => self.end_namespace(&mut inner, &key),
            _ => self.end(&mut inner, &key, options.grace_period_seconds),
        };
        gone.ok_or_else(|| ApiError::not_found(kind.resource(), name))
    }

    /// Takes an object away for good, if it still is the one with `uid`.
    pub fn remove(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Option<Arc<Value>> {
        let mut inner = self.lock();
        let key = key(kind, namespace, name);
        if inner.objects.get(&key)?.pointer("/metadata/uid").and_then(Value::as_str) != Some(uid) {
            return None;
        }
        let gone = self.take(&mut inner, &key);
        self.finish_namespace(&mut inner, &key.1);
        gone
    }

    /// Marks a pod that still runs, takes anything else away.
    fn end(&self, inner: &mut Inner, key: &Key, grace: Option<i64>) -> Option<Arc<Value>> {
        let object = inner.objects.get(key)?.clone();
        let own_grace = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        let grace = grace.unwrap_or(own_grace).max(0);
        let on_node = object.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|node| !node.is_empty());
        let ended = matches!(object.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
        if key.0 != Kind::Pod || !on_node || ended || grace == 0 {
            let gone = self.take(inner, key);
            self.finish_namespace(inner, &key.1);
            return gone;
        }
        let shorter = object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_none_or(|before| grace < before);
        if !shorter {
            return Some(object);
        }
        let mut marked = (*object).clone();
        marked["metadata"]["deletionTimestamp"] = json!(defaults::time_in(grace));
        marked["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        Some(self.put(inner, key.clone(), marked, Some(object)))
    }

    fn end_namespace(&self, inner: &mut Inner, namespace: &Key) -> Option<Arc<Value>> {
        let object = inner.objects.get(namespace)?.clone();
        let object = if is_ending(&object) {
            object
        } else {
            let mut ending = (*object).clone();
            ending["metadata"]["deletionTimestamp"] = json!(defaults::now());
            ending["status"]["phase"] = json!("Terminating");
            self.put(inner, namespace.clone(), ending, Some(object))
        };
        let inside = |key: &&Key| key.0.is_namespaced() && key.1 == namespace.2;
        let content: Vec<Key> = inner.objects.keys().filter(inside).cloned().collect();
        for key in content {
            self.end(inner, &key, None);
        }
        self.finish_namespace(inner, &namespace.2);
        Some(object)
    }

    /// Takes away a namespace that was deleted and is now empty.
    fn finish_namespace(&self, inner: &mut Inner, name: &str) {
        let namespace = key(Kind::Namespace, "", name);
        if !inner.objects.get(&namespace).is_some_and(|object| is_ending(object)) {
            return;
        }
        let mut kinds = Kind::ALL.into_iter().filter(|kind| kind.is_namespaced());
        if kinds.all(|kind| inner.select(kind, Some(name)).next().is_none()) {
            self.take(inner, &namespace);
        }
    }

    /// Removes an object and tells the watchers.
    pub(super) fn take(&self, inner: &mut Inner, key: &Key) -> Option<Arc<Value>> {
        let before = inner.objects.remove(key)?;
        inner.version += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let last = Arc::new(last);
        let kind = key.0;
        self.publish(inner, Change { kind, version: 0, object: last.clone(), previous: Some(before), deleted: true });
        Some(last)
    }
}

/// Whether an object is on its way out.
pub(super) fn is_ending(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}
