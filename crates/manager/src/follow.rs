//! One job's pod from its creation to its end, by what the watch tells and what does not happen in time.
//!
//! Times are counted on our own clock from when we began to follow: the cluster's clock may be another. What is only
//! suspected (a pod that a list lacks, one that does not come up) is asked for once more before it is believed.

use crate::admit::Tracked;
use crate::calm::Starting;
use crate::cluster;
use crate::diagnose::{self, Cure, Diagnosis, Finding};
use crate::launch;
use crate::trace::Writer;
use crate::waiting::{Heard, Waiting};
use crate::watch::{Following, Seen};
use crate::wiring::Manager;
use agent_contract::{Verdict, names};
use job::FailureReason;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After a doubtful list, until the next question.
const DOUBT: Duration = Duration::from_secs(5);
/// A deleted pod whose node is alive is gone by its grace period and this.
const LEAVING: Duration = Duration::from_secs(60);
/// A job whose node does not say that its pod has ended goes on as long as its log has grown in this time.
const SILENCE: Duration = Duration::from_secs(300);
/// Kubernetes' grace where a pod names none.
const DEFAULT_GRACE: i64 = 30;
/// A node tells within about two seconds that the last container of a pod has ended.
const ENDING: Duration = Duration::from_secs(5);
/// Beyond the job's timeout, the agent's reporting and Kubernetes' own deadline: nobody is there any more.
const BACKSTOP: Duration = Duration::from_secs(1200);

/// How following ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The manager stops, or the pod belongs to another one now; it is left alone.
    LeftAlone,
    /// The agent told GitLab.
    Reported,
    /// The agent ended and could not tell.
    Unreported(Verdict),
    /// The pod will not do its job.
    Failed(Diagnosis),
    /// Cancelled before the agent began; GitLab waits for our word.
    Canceling,
    /// GitLab wants nothing more of the job.
    Unwanted,
}

/// Follows the pod of a job to its end.
pub async fn follow(manager: &Manager, job: &Tracked, following: &mut Following) -> End {
    let mut follower = Follower::new(manager, job);
    loop {
        let seen = following.newest();
        follower.learn(seen);
        if let Some(end) = Box::pin(follower.judge()).await {
            return end;
        }
        loop {
            tokio::select! {
                biased;
                () = manager.stop.cancelled() => return End::LeftAlone,
                () = following.changed() => break,
                () = tokio::time::sleep_until(follower.next_alarm()) => {}
            }
            // Boxed: calls are rare, and their futures would be most of what a followed pod costs.
            if let Some(end) = Box::pin(follower.alarm()).await {
                return end;
            }
        }
    }
}

/// Waits a little for the other containers: a pod that has ended is deleted by one request, while one that has not costs
/// its node three more.
pub async fn to_the_end_of_the_pod(following: &mut Following) {
    let ended = async {
        loop {
            let seen = following.newest();
            if seen.deleted || seen.missing || seen.pod.as_deref().is_none_or(diagnose::has_ended) {
                return;
            }
            following.changed().await;
        }
    };
    // One that does not end is deleted all the same.
    let _ = tokio::time::timeout(ENDING, ended).await;
}

struct Follower<'a> {
    manager: &'a Manager,
    job: &'a Tracked,
    began: Instant,
    seen: Seen,
    waiting: Waiting<'a>,
    /// All containers that count have started.
    up: bool,
    /// While they have not.
    starting: Option<Starting>,
    /// When a pod that is being deleted must be gone.
    gone_by: Option<Instant>,
    /// When to ask again whether a missing pod is gone.
    doubt: Option<Instant>,
    /// How long the log was when the pod was overdue.
    log: Option<u64>,
}

impl<'a> Follower<'a> {
    fn new(manager: &'a Manager, job: &'a Tracked) -> Self {
        Self {
            manager,
            job,
            began: Instant::now(),
            seen: Seen::default(),
            waiting: Waiting::new(job),
            up: false,
            starting: Some(manager.calm.starting()),
            gone_by: None,
            doubt: None,
            log: None,
        }
    }

    fn learn(&mut self, seen: Seen) {
        self.doubt = (seen.missing && !seen.deleted).then(Instant::now);
        self.seen = seen;
        let Some(pod) = &self.seen.pod else { return };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
        let by = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or_default()) + LEAVING;
        self.gone_by = if leaving { self.gone_by.or(Some(by)) } else { None };
        self.up = diagnose::is_up(pod);
        if self.up {
            self.starting = None;
            self.waiting.be_silent();
        }
    }

    /// What the last state means.
    async fn judge(&mut self) -> Option<End> {
        if self.doubt.is_some_and(|at| at <= Instant::now()) {
            self.look().await;
        }
        let end = self.read()?;
        if self.seen.deleted && !self.seen.missing && matches!(end, End::Failed(_)) {
            // A watch by labels tells the same of a pod that is gone and of one that lost its label.
            self.look().await;
            return if self.doubt.is_some() { None } else { self.read() };
        }
        Some(end)
    }

    fn read(&self) -> Option<End> {
        let Some(pod) = &self.seen.pod else {
            let mut unknown = Pod::default();
            unknown.metadata.name = Some(self.job.pod.clone());
            return if self.seen.deleted { of(diagnose::diagnose(&unknown, true)) } else { None };
        };
        if pod.metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_OWNER)) != Some(&self.manager.owner) {
            return Some(End::LeftAlone);
        }
        // A pod that is being deleted may still bring its agent's last word, also when its node has not told yet that the
        // agent runs.
        let overdue = self.gone_by.is_some_and(|by| by <= Instant::now());
        let ending = self.gone_by.is_some() && diagnose::agent_is_over(pod);
        of(diagnose::diagnose(pod, self.seen.deleted || overdue || ending))
    }

    /// Asks for the pod itself.
    async fn look(&mut self) {
        let pods: Api<Pod> = Api::namespaced(self.job.client(), self.job.namespace());
        match cluster::call("look for the pod", pods.get_opt(&self.job.pod)).await {
            Ok(Some(pod)) => self.learn(Seen { pod: Some(Arc::new(pod)), deleted: false, missing: false }),
            Ok(None) => {
                let pod = self.seen.pod.take();
                self.learn(Seen { pod, deleted: true, missing: true });
            }
            Err(error) => {
                let error = cluster::chain(&error);
                tracing::warn!(job.id = self.job.id, pod.name = self.job.pod, error, "the pod could not be asked for");
                self.doubt = Some(Instant::now() + DOUBT);
            }
        }
    }

    fn up_by(&self) -> Option<Instant> {
        (!self.up).then(|| self.began + launch::poll_timeout(self.job))
    }

    fn backstop(&self) -> Instant {
        self.began + self.job.timeout.min(Duration::from_secs(10 * 365 * 86_400)) + BACKSTOP
    }

    fn next_alarm(&self) -> Instant {
        let alarms = [self.up_by(), self.waiting.next(), self.gone_by, self.doubt, Some(self.backstop())];
        alarms.into_iter().flatten().min().unwrap_or_else(Instant::now)
    }

    /// Something did not happen in time.
    async fn alarm(&mut self) -> Option<End> {
        let now = Instant::now();
        let late = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if late(self.gone_by)
            && let Some(heard) = self.listen().await
        {
            return heard;
        }
        if late(self.gone_by) || late(self.doubt) {
            return self.judge().await.or_else(|| {
                // Not to come back at once while the cluster cannot be asked.
                self.gone_by = self.gone_by.map(|by| by.max(now + DOUBT));
                None
            });
        }
        if late(self.up_by()) || late(Some(self.backstop())) {
            return self.out_of_time().await;
        }
        if late(self.waiting.next()) {
            return match self.waiting.tick(self.manager, self.seen.pod.as_deref()).await {
                Heard::Nothing => None,
                Heard::Canceling => Some(End::Canceling),
                Heard::Unwanted => Some(End::Unwanted),
            };
        }
        None
    }

    /// Whether the agent of an overdue pod still speaks to GitLab: without its kubelet a container goes on. `None` when
    /// it does not.
    async fn listen(&mut self) -> Option<Option<End>> {
        let pod = self.seen.pod.as_ref()?;
        if self.seen.deleted || !diagnose::is_up(pod) || diagnose::agent_is_over(pod) {
            return None;
        }
        match Writer::new(self.job).length().await {
            Ok(None) => return Some(Some(End::Unwanted)),
            Ok(Some(length)) if self.log == Some(length) => return None,
            Ok(length) => self.log = length,
            Err(error) => {
                let error = cluster::chain(&error);
                tracing::warn!(
                    job.id = self.job.id,
                    pod.name = self.job.pod,
                    error,
                    "GitLab does not say whether the job goes on"
                );
            }
        }
        tracing::warn!(job.id = self.job.id, pod.name = self.job.pod, "the pod was deleted and its node does not answer");
        self.gone_by = Some(Instant::now() + SILENCE);
        Some(None)
    }

    /// The watch may lag: only the pod itself is believed.
    async fn out_of_time(&mut self) -> Option<End> {
        let before = self.doubt;
        self.look().await;
        if self.doubt.is_some() && self.doubt != before {
            // While the API was away nobody could do anything for the pod: its time begins anew.
            self.began = Instant::now();
            return None;
        }
        if let Some(end) = self.judge().await {
            return Some(end);
        }
        let now = Instant::now();
        let (name, namespace) = (&self.job.pod, self.job.namespace());
        let pod = self.seen.pod.as_deref();
        let (reason, sentence) = if self.up_by().is_some_and(|at| at <= now) {
            let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).unwrap_or("unknown");
            let why = pod.and_then(diagnose::why_it_waits).map(|why| format!(": {why}")).unwrap_or_default();
            let seconds = launch::poll_timeout(self.job).as_secs();
            let sentence = format!(
                "waiting for pod running: timed out waiting for pod to start (last phase: {phase}), pod {namespace}/{name} in {seconds} s{why}"
            );
            (FailureReason::RunnerSystemFailure, sentence)
        } else if self.backstop() <= now {
            let sentence = format!("the pod {name} was not heard of again after the job's timeout");
            (FailureReason::JobExecutionTimeout, sentence)
        } else {
            return None;
        };
        let script_may_have_run = pod.is_none_or(diagnose::script_may_have_run);
        // Another node may be alive.
        let cure = pod.and_then(diagnose::silent_node).map(|_| Cure::AnotherPod);
        Some(End::Failed(Diagnosis { reason, sentence, script_may_have_run, cure }))
    }
}

fn of(finding: Finding) -> Option<End> {
    match finding {
        Finding::GoesOn => None,
        Finding::Reported => Some(End::Reported),
        Finding::Unreported(verdict) => Some(End::Unreported(verdict)),
        Finding::Failed(diagnosis) => Some(End::Failed(diagnosis)),
    }
}
