//! The objects: one map, one version counter, one lock.
//!
//! Every write takes the lock, bumps the global resource version and hands the change to all watchers, so that their
//! order is the order of the versions. Objects are shared by `Arc`: a list of 10,000 pods copies pointers. History
//! is bounded; who asks for an older version, or reads too slowly, gets `410 Expired` and lists again, as with the
//! real server.

mod deletion;
mod events;
mod watch;

pub use events::PodEvent;
pub use watch::{Watch, WatchEvent, WatchFrom};

use crate::{ApiError, Kind, Selectors, defaults, validate};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;
use watch::Change;

/// How many changes are kept for watchers that come later, and about how many bytes.
const HISTORY: usize = 4096;
const HISTORY_BYTES: usize = 32 * 1024 * 1024;

type Key = (Kind, String, String);

/// How a delete is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a pod has to end; `None` means the pod's own.
    pub grace_period_seconds: Option<i64>,
    /// Only this very object.
    pub uid: Option<String>,
    /// Only this very version.
    pub resource_version: Option<String>,
}

/// All objects.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    changes: broadcast::Sender<Arc<Change>>,
}

struct Inner {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    events_swept: Instant,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with the namespaces `default` and `kube-system`. Its versions begin behind those of every store before
    /// it (they are microseconds at first), so that who watched that one lists again and takes nothing for unchanged.
    pub fn new() -> Self {
        let (changes, _) = broadcast::channel(HISTORY);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let inner = Inner {
            objects: BTreeMap::new(),
            version: u64::try_from(since.as_micros()).unwrap_or_default(),
            history: VecDeque::new(),
            history_bytes: 0,
            events_swept: Instant::now(),
        };
        let store = Self { inner: Arc::new(Mutex::new(inner)), changes };
        for namespace in ["default", "kube-system"] {
            let made = store.create(Kind::Namespace, "", json!({"metadata": {"name": namespace}}));
            debug_assert!(made.is_ok(), "a new store has no namespaces yet");
        }
        store
    }

    /// A copy with nobody watching, to try a change on and throw away. Objects are shared, so it costs pointers.
    pub(crate) fn fork(&self) -> Self {
        let original = self.lock();
        let (changes, _) = broadcast::channel(1);
        let inner = Inner {
            objects: original.objects.clone(),
            version: original.version,
            history: VecDeque::new(),
            history_bytes: 0,
            events_swept: original.events_swept,
        };
        Self { inner: Arc::new(Mutex::new(inner)), changes }
    }

    /// Adds an object; name, uid, times, version and defaults are filled in.
    ///
    /// # Errors
    /// Taken name, missing namespace, or an object that breaks a rule.
    pub fn create(&self, kind: Kind, namespace: &str, mut object: Value) -> Result<Arc<Value>, ApiError> {
        let name = defaults::identity(kind, namespace, &mut object)?;
        validate::shape(&object)?;
        defaults::fill(kind, &mut object);
        validate::object(kind, &object)?;
        let created = {
            let mut inner = self.lock();
            if kind.is_namespaced() {
                inner.takes_objects(kind, namespace, &name)?;
            }
            let key = key(kind, namespace, &name);
            if inner.objects.contains_key(&key) {
                return Err(ApiError::already_exists(kind.resource(), &name));
            }
            let created = self.put(&mut inner, key, object, None);
            if kind == Kind::Event {
                self.bound_events(&mut inner);
            }
            created
        };
        if kind == Kind::Namespace {
            let account = json!({"metadata": {"name": "default"}});
            self.create(Kind::ServiceAccount, &name, account)?;
        }
        Ok(created)
    }

    /// One object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let found = self.lock().objects.get(&key(kind, namespace, name)).cloned();
        found.ok_or_else(|| ApiError::not_found(kind.resource(), name))
    }

    /// The selected objects of a namespace (or all), in the order of their names, and the version they are of.
    pub fn list(&self, kind: Kind, namespace: Option<&str>, selectors: &Selectors) -> (Vec<Arc<Value>>, u64) {
        let mut inner = self.lock();
        if kind == Kind::Event {
            self.bound_events(&mut inner);
        }
        (inner.select(kind, namespace).filter(|object| selectors.matches(object)).cloned().collect(), inner.version)
    }

    /// Changes one object in one step; nothing is written when `change` leaves it as it is.
    ///
    /// # Errors
    /// What `change` says, a missing object, or a result that breaks a rule.
    pub fn update(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> Result<(), ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        let mut inner = self.lock();
        let key = key(kind, namespace, name);
        let before = inner.objects.get(&key).cloned().ok_or_else(|| ApiError::not_found(kind.resource(), name))?;
        let mut after = (*before).clone();
        change(&mut after)?;
        validate::shape(&after)?;
        validate::unchanged_identity(kind, &before, &after)?;
        validate::object(kind, &after)?;
        if after == *before {
            return Ok(before);
        }
        Ok(self.put(&mut inner, key, after, Some(before)))
    }

    /// Changes of the selected objects, from now (existing ones come first) or from a version.
    ///
    /// # Errors
    /// 410 when the version is older than the history.
    pub fn watch(&self, kind: Kind, namespace: Option<&str>, selectors: Selectors, from: WatchFrom) -> Result<Watch, ApiError> {
        let inner = self.lock();
        let receiver = self.changes.subscribe();
        let filter = watch::Filter { kind, namespace: namespace.map(str::to_owned), selectors };
        let first = match from {
            WatchFrom::Now => {
                let objects = inner.select(kind, namespace).filter(|object| filter.selectors.matches(object));
                objects.cloned().map(WatchEvent::Added).collect()
            }
            WatchFrom::Version(version) => {
                let oldest = inner.history.front().map_or(inner.version + 1, |change| change.version);
                if version.saturating_add(1) < oldest || version > inner.version {
                    return Err(ApiError::expired(format!("too old resource version: {version} ({oldest})")));
                }
                inner.history.iter().filter(|change| change.version > version).filter_map(|change| filter.event(change)).collect()
            }
        };
        Ok(Watch::new(first, receiver, filter, inner.version))
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    fn put(&self, inner: &mut Inner, key: Key, mut object: Value, previous: Option<Arc<Value>>) -> Arc<Value> {
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let object = Arc::new(object);
        let change = Change { kind: key.0, version: 0, object: object.clone(), previous, deleted: false };
        inner.objects.insert(key, object.clone());
        self.publish(inner, change);
        object
    }

    fn publish(&self, inner: &mut Inner, mut change: Change) {
        change.version = inner.version;
        let change = Arc::new(change);
        inner.history_bytes += weight(&change.object);
        inner.history.push_back(change.clone());
        while inner.history.len() > HISTORY || inner.history_bytes > HISTORY_BYTES {
            let Some(oldest) = inner.history.pop_front() else { break };
            inner.history_bytes -= weight(&oldest.object);
        }
        // Without a watcher there is nobody to tell.
        let _ = self.changes.send(change);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Refuses an object whose namespace is missing or about to be.
    fn takes_objects(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        match self.objects.get(&key(Kind::Namespace, "", namespace)) {
            None => Err(ApiError::not_found("namespaces", namespace)),
            Some(found) if deletion::is_ending(found) => Err(ApiError::forbidden(format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                kind.resource()
            ))),
            Some(_) => Ok(()),
        }
    }

    fn select<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Value>> {
        let start = key(kind, namespace.unwrap_or_default(), "");
        self.objects
            .range(start..)
            .take_while(move |((its_kind, its_namespace, _), _)| {
                *its_kind == kind && namespace.is_none_or(|namespace| namespace == its_namespace)
            })
            .map(|(_, object)| object)
    }
}

/// About how many bytes an object takes.
fn weight(value: &Value) -> usize {
    const OF_ONE: usize = 32;
    OF_ONE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(weight).sum(),
            Value::Object(map) => map.iter().map(|(name, value)| OF_ONE + name.len() + weight(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    let namespace = if kind.is_namespaced() { namespace } else { "" };
    (kind, namespace.to_owned(), name.to_owned())
}
