//! One watcher's view of the changes.
//!
//! An object that begins to match a selector appears as added and one that ceases to match as deleted, whatever
//! happened to it, as Kubernetes does it.

use crate::{ApiError, Kind, Selectors};
use futures::Stream;
use serde_json::Value;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// One write, as every watcher gets it.
pub(super) struct Change {
    pub kind: Kind,
    pub version: u64,
    pub object: Arc<Value>,
    pub previous: Option<Arc<Value>>,
    pub deleted: bool,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With all that is there, as additions.
    Now,
    /// Behind this version.
    Version(u64),
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// New, or newly selected.
    Added(Arc<Value>),
    /// Changed.
    Modified(Arc<Value>),
    /// Gone, or no longer selected.
    Deleted(Arc<Value>),
}

impl WatchEvent {
    /// Kubernetes' word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Added(_) => "ADDED",
            Self::Modified(_) => "MODIFIED",
            Self::Deleted(_) => "DELETED",
        }
    }

    /// The object.
    pub fn object(&self) -> &Arc<Value> {
        let (Self::Added(object) | Self::Modified(object) | Self::Deleted(object)) = self;
        object
    }
}

pub(super) struct Filter {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub selectors: Selectors,
}

impl Filter {
    pub fn event(&self, change: &Change) -> Option<WatchEvent> {
        let namespace = change.object.pointer("/metadata/namespace").and_then(Value::as_str);
        if change.kind != self.kind || self.namespace.as_deref().is_some_and(|wanted| Some(wanted) != namespace) {
            return None;
        }
        let was = change.previous.as_ref().is_some_and(|previous| self.selectors.matches(previous));
        let is = !change.deleted && self.selectors.matches(&change.object);
        let object = change.object.clone();
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(WatchEvent::Added(object)),
            (true, true) => Some(WatchEvent::Modified(object)),
            (true, false) => Some(WatchEvent::Deleted(object)),
        }
    }
}

/// A stream of events; ends with `410 Expired` when it was read too slowly.
pub struct Watch {
    first: VecDeque<WatchEvent>,
    changes: BroadcastStream<Arc<Change>>,
    filter: Filter,
    version: u64,
    ended: bool,
}

impl Watch {
    pub(super) fn new(
        first: VecDeque<WatchEvent>,
        changes: broadcast::Receiver<Arc<Change>>,
        filter: Filter,
        version: u64,
    ) -> Self {
        Self { first, changes: BroadcastStream::new(changes), filter, version, ended: false }
    }

    /// The version up to which this watcher has been told everything, once the first events are read.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many events come at once, because they were there before the watch began.
    pub fn first_len(&self) -> usize {
        self.first.len()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut self.changes).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_lagged))) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(ApiError::expired("this watcher read too slowly, list again"))));
                }
                Poll::Ready(Some(Ok(change))) => {
                    self.version = self.version.max(change.version);
                    if let Some(event) = self.filter.event(&change) {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
            }
        }
    }
}
