//! Watches: one JSON object per line, as long as the client listens.

use super::{Request, table};
use crate::{ApiError, Kind, Store, WatchFrom};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

/// A watch without `timeoutSeconds` ends after this, so that a forgotten one does not stay for ever.
const LONGEST: Duration = Duration::from_secs(3600);
/// How often a client that asked for bookmarks learns the newest version.
const BOOKMARK: Duration = Duration::from_secs(60);

/// Answers `watch=true`.
pub fn watch(store: &Store, request: &Request) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let initial = request.query.is_true("sendInitialEvents");
    let from = match request.query.number("resourceVersion")? {
        Some(version) if version > 0 && !initial => WatchFrom::Version(version),
        _ => WatchFrom::Now,
    };
    let mut events = match store.watch(kind, request.target.namespace.as_deref(), request.query.selectors()?, from) {
        Ok(events) => events,
        // As an event, like Kubernetes: clients take a refused request for a passing trouble and ask the same again.
        Err(error) => return answer(Body::from(error_line(&error))),
    };
    let bookmarks = request.query.is_true("allowWatchBookmarks");
    let limit = request.query.number("timeoutSeconds")?.map_or(LONGEST, Duration::from_secs).min(LONGEST);
    let mut form = Form::of(request);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(64);
    tokio::spawn(async move {
        let mut first_left = events.first_len();
        let deadline = tokio::time::sleep(limit);
        tokio::pin!(deadline);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK, BOOKMARK);
        let mut announced = !(initial && bookmarks);
        loop {
            if !announced && first_left == 0 {
                announced = true;
                let last = bookmark(kind, events.version(), true);
                if sender.send(Ok(line(&last))).await.is_err() {
                    return;
                }
            }
            let next = tokio::select! {
                biased;
                () = &mut deadline => return,
                () = sender.closed() => return,
                _ = ticks.tick(), if bookmarks && announced && first_left == 0 => line(&bookmark(kind, events.version(), false)),
                event = events.next() => match event {
                    None => return,
                    Some(Ok(event)) => line(&json!({"type": event.word(), "object": form.show(kind, event.object())})),
                    Some(Err(error)) => {
                        let _ = sender.send(Ok(error_line(&error))).await;
                        return;
                    }
                },
            };
            first_left = first_left.saturating_sub(1);
            if sender.send(Ok(next)).await.is_err() {
                return;
            }
        }
    });
    answer(Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)))
}

fn answer(body: Body) -> Result<Response, ApiError> {
    Response::builder()
        .header("content-type", "application/json")
        .body(body)
        .map_err(|error| ApiError::internal(format!("failed to answer the watch: {error}")))
}

/// How objects are shown: as they are, or as rows of a table whose columns are told once.
struct Form {
    table: Option<table::Include>,
    with_columns: bool,
}

impl Form {
    fn of(request: &Request) -> Self {
        let include = table::Include::parse(request.query.get("includeObject"));
        Self { table: table::is_wanted(&request.headers).then_some(include), with_columns: true }
    }

    fn show<'a>(&mut self, kind: Kind, object: &'a Value) -> Cow<'a, Value> {
        let Some(include) = self.table else { return Cow::Borrowed(object) };
        let with_columns = std::mem::take(&mut self.with_columns);
        let mut rows = table::of(kind, std::iter::once(object), include, with_columns);
        rows["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        Cow::Owned(rows)
    }
}

fn error_line(error: &ApiError) -> Bytes {
    line(&json!({"type": "ERROR", "object": error.to_status()}))
}

fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    Bytes::from(text)
}

fn bookmark(kind: Kind, version: u64, initial_end: bool) -> Value {
    let annotations = if initial_end { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    json!({"type": "BOOKMARK", "object": {"kind": kind.name(), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": version.to_string(), "annotations": annotations}}})
}
