//! What can be wrong with a Kubernetes API.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How all calls fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// As they should.
    #[default]
    Well,
    /// Streams break off, and every call is answered with 503.
    Away,
    /// Every call but those that go on is answered with 429, to come back after so many seconds.
    Busy(u64),
    /// Every answer takes this long.
    Slow(Duration),
    /// No call is ever answered.
    Silent,
}

#[derive(Clone, Default)]
pub struct Faults {
    state: watch::Sender<State>,
    /// Counts up when all streams are to break off.
    cuts: watch::Sender<u64>,
    next: Arc<Mutex<Nexts>>,
}

/// What the next calls come by.
#[derive(Default)]
struct Nexts {
    /// Watches that are answered with 410.
    expired: usize,
    /// Lists of a resource that lack everything.
    empty: Vec<&'static str>,
    /// Lists that break off in the middle.
    broken: usize,
}

impl Faults {
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    pub fn cut_streams(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// The next watches are answered with 410.
    pub fn expire(&self, watches: usize) {
        self.lock().expired = watches;
    }

    /// The next list of a resource lacks everything.
    pub fn forget_at_next_list(&self, resource: &'static str) {
        self.lock().empty.push(resource);
    }

    /// The next lists break off in the middle.
    pub fn break_lists(&self, lists: usize) {
        self.lock().broken = lists;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Nexts> {
        self.next.lock().unwrap()
    }

    pub async fn through(self, request: Request, next: Next) -> Response {
        let state = *self.state.borrow();
        match state {
            State::Well => {}
            State::Away => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            State::Busy(seconds) => {
                return (StatusCode::TOO_MANY_REQUESTS, [("Retry-After", seconds.to_string())]).into_response();
            }
            State::Slow(time) => tokio::time::sleep(time).await,
            State::Silent => std::future::pending().await,
        }
        let is_list =
            request.method() == Method::GET && request.uri().query().is_some_and(|query| query.contains("labelSelector"));
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if is_watch && take_one(&mut self.lock().expired) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old resource version"});
            return (StatusCode::GONE, axum::Json(status)).into_response();
        }
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let response = next.run(request).await;
        if is_list && !is_watch {
            return self.listed(&resource, response).await;
        }
        self.until_cut(response)
    }

    async fn listed(&self, resource: &str, response: Response) -> Response {
        let (empty, broken) = {
            let mut next = self.lock();
            let empty = next.empty.iter().position(|one| *one == resource).map(|index| next.empty.remove(index)).is_some();
            (empty, take_one(&mut next.broken))
        };
        if !empty && !broken {
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        if broken {
            let half = bytes.slice(..bytes.len() / 2);
            return (parts.status, half).into_response();
        }
        let mut list: Value = serde_json::from_slice(&bytes).unwrap();
        list["items"] = json!([]);
        axum::Json(list).into_response()
    }

    fn until_cut(&self, response: Response) -> Response {
        let (mut state, mut cuts) = (self.state.subscribe(), self.cuts.subscribe());
        response.map(|body| {
            let cut = async move {
                let away = state.wait_for(|state| matches!(state, State::Away | State::Silent));
                tokio::select! { _ = away => {}, _ = cuts.changed() => {} }
            };
            Body::from_stream(body.into_data_stream().take_until(Box::pin(cut)))
        })
    }
}

fn take_one(count: &mut usize) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}
