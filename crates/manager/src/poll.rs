//! Asking for jobs: long-polling loops, `request_concurrency` of them per `[[runners]]` entry.
//!
//! Room is taken before the question, so that a job that is handed out can always start. After a job the next question
//! follows at once; a pause is made only after an empty answer that came at once, because a long poll that the server
//! held is a pause already.

use crate::admit::{self, Slot};
use crate::backoff::Backoff;
use crate::cluster;
use crate::health::Health;
use crate::throttle::Came;
use crate::wiring::{Manager, RunnerSide};
use gitlab_api::JobRequest;
use gitlab_client::{ClientError, Requested};
use job::{Flags, Variables};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// An empty answer after less than this was not held by the server.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Row "check_interval" of the parity inventory: 0 means 3 s.
const DEFAULT_INTERVAL: u64 = 3;
/// A question in flight at the stop may still bring a job; after this it is dropped, and GitLab, which has no
/// confirmation, hands its job out again.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// Asks until the stop, or until the entry asks in another way; for the first time after `turn`.
pub async fn poll(manager: &Arc<Manager>, first: &Arc<RunnerSide>, turn: Duration) {
    if until_stop(manager, first, tokio::time::sleep(turn)).await.is_none() {
        return;
    }
    let mut request = JobRequest {
        info: manager.info(),
        token: first.token.expose().to_owned(),
        system_id: manager.system_id.clone(),
        last_update: String::new(),
    };
    let mut trouble = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut health = Health::default();
    loop {
        let runner = manager.newest(first);
        let name = runner.config.name.as_str();
        let turn = if is_throttled(&runner) {
            let Some(turn) = until_stop(manager, first, runner.lane.throttle.take()).await else { return };
            Some(turn)
        } else {
            None
        };
        let Some(slot) = until_stop(manager, first, Slot::take(manager, &runner)).await else { return };
        if until_stop(manager, first, cluster_answers(manager, &runner)).await.is_none() {
            return;
        }
        let (begun, gitlab) = (Instant::now(), runner.gitlab());
        let question = gitlab.request_job(&runner.token, &request);
        let Some(answer) = last_answer(manager, first, question).await else { return };
        runner.lane.throttle.learn(came(&answer), runner.questions);
        drop(turn);
        let pause = match answer {
            Ok(requested) => {
                trouble.reset();
                health.answered();
                // Without the queue's version a server cannot hold the question; with it, it can at once.
                let first_answer = request.last_update.is_empty() && requested.last_update.is_some();
                request.last_update = requested.last_update.unwrap_or(request.last_update);
                if let Some(payload) = requested.job {
                    admit::start(manager, &manager.newest(first), (*payload, requested.correlation_id), slot);
                    continue;
                }
                if begun.elapsed() < AT_ONCE && !first_answer { interval(manager) } else { Duration::ZERO }
            }
            Err(ClientError::Forbidden { .. }) => {
                let pause = health.refused(&runner.config);
                tracing::error!(
                    runner.name = name,
                    pause_s = pause.as_secs(),
                    "GitLab does not accept the token of this runner; was the runner removed, or its token reset?"
                );
                pause
            }
            Err(error) => {
                health.answered();
                let pause = trouble.pause();
                let error = cluster::chain(&error);
                tracing::warn!(runner.name = name, error, pause_ms = pause.as_millis(), "failed to ask for a job");
                pause
            }
        };
        drop(slot);
        if until_stop(manager, first, tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// The flag is the runner's: which job comes is not known yet.
fn is_throttled(runner: &RunnerSide) -> bool {
    Flags::resolve(&runner.config.feature_flags, &Variables::default()).is_on("FF_USE_ADAPTIVE_REQUEST_CONCURRENCY")
}

fn came(answer: &Result<Requested, ClientError>) -> Came {
    match answer {
        Ok(Requested { job: Some(_), .. }) => Came::Job,
        Err(ClientError::Status { status: 429 | 500.., .. }) => Came::Busy,
        _ => Came::Nothing,
    }
}

fn interval(manager: &Manager) -> Duration {
    let configured = manager.setup().check_interval;
    Duration::from_secs(if configured == 0 { DEFAULT_INTERVAL } else { configured })
}

/// `None` once the manager stops or nobody is to ask in this way any more.
async fn until_stop<T>(manager: &Manager, runner: &RunnerSide, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = manager.stop.cancelled() => None,
        () = runner.asking.end.cancelled() => None,
        result = future => Some(result),
    }
}

/// Like [`until_stop`], but an answer that is on its way still counts.
async fn last_answer<T>(manager: &Manager, runner: &RunnerSide, question: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        tokio::select! { () = manager.stop.cancelled() => {}, () = runner.asking.end.cancelled() => {} }
        tokio::time::sleep(LAST_ANSWER).await;
    };
    tokio::select! { biased; answer = question => Some(answer), () = stopped => None }
}

/// Comes back once the cluster takes calls: a job must not be taken that cannot be stored.
async fn cluster_answers(manager: &Manager, runner: &RunnerSide) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    while runner.cluster.is_down.load(Ordering::Relaxed) {
        let secrets: Api<Secret> = Api::namespaced(runner.cluster.client.clone(), &manager.home(&runner.cluster));
        let probe = ListParams::default().labels(&manager.selector()).limit(1);
        match cluster::call("reach the cluster", secrets.list_metadata(&probe)).await {
            Err(error) if error.is_short_lived() => tokio::time::sleep(backoff.pause()).await,
            _ => runner.cluster.is_down.store(false, Ordering::Relaxed),
        }
    }
}
