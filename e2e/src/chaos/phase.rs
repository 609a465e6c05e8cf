//! Where a job stands, as anybody can read it from the cluster and from GitLab: what a manager was killed in.
//!
//! Read after a kill, not before: what only the manager moves stands still then, so it is what the kill hit.

use agent_contract::names;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Secret};
use serde::{Deserialize, Serialize};

/// One step of a job's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Handed out; nothing is stored.
    Asked,
    /// The plan is stored; GitLab has no confirmation.
    Stored,
    /// GitLab has it; there is no pod.
    Confirmed,
    /// There is a pod; that is not noted.
    Launched,
    /// The pod is noted, and comes up.
    Pending,
    /// The agent runs.
    Running,
    /// The agent has ended, or GitLab knows the end.
    Finishing,
    /// The manager tells the end.
    Telling,
    /// The plan is gone, the pod is not.
    Cleaning,
}

impl Phase {
    /// Its name in a report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Stored => "stored",
            Self::Confirmed => "confirmed",
            Self::Launched => "launched",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Telling => "telling",
            Self::Cleaning => "cleaning",
        }
    }
}

/// What GitLab says of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtGitlab {
    /// It was handed out at least once.
    pub handed: bool,
    /// It is confirmed.
    pub running: bool,
    /// It is over.
    pub is_final: bool,
}

/// The step that a plan's first part names.
pub fn step(plan: &Secret) -> &str {
    plan.metadata.annotations.as_ref().and_then(|all| all.get(names::ANNOTATION_STEP)).map_or("stored", String::as_str)
}

/// Where a job stands; `None` while it waits and when nothing is left of it.
pub fn of(gitlab: AtGitlab, plan: Option<&Secret>, pod: Option<&Pod>) -> Option<Phase> {
    match (plan, pod) {
        (None, None) => (gitlab.handed && !gitlab.running && !gitlab.is_final).then_some(Phase::Asked),
        (None, Some(_)) => Some(Phase::Cleaning),
        (Some(plan), _) if step(plan).starts_with("telling") => Some(Phase::Telling),
        (Some(_), _) if gitlab.is_final => Some(Phase::Finishing),
        (Some(plan), None) if step(plan).starts_with("launched") => Some(Phase::Finishing),
        (Some(_), None) => Some(if gitlab.running { Phase::Confirmed } else { Phase::Stored }),
        (Some(_), Some(pod)) if agent_has_ended(pod) => Some(Phase::Finishing),
        (Some(plan), Some(_)) if !step(plan).starts_with("launched") => Some(Phase::Launched),
        (Some(_), Some(pod)) => Some(if is_running(pod) { Phase::Running } else { Phase::Pending }),
    }
}

fn helper(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|one| one.name == names::HELPER_CONTAINER)
}

/// Whether the agent has ended.
pub fn agent_has_ended(pod: &Pod) -> bool {
    helper(pod).and_then(|helper| helper.state.as_ref()).is_some_and(|state| state.terminated.is_some())
}

/// Whether the pod runs.
pub fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

#[cfg(test)]
mod tests {
    use super::{AtGitlab, Phase, of};
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use serde_json::json;

    fn plan(step: &str) -> Secret {
        serde_json::from_value(json!({"metadata": {"annotations": {"gantry.dev/step": step}}})).unwrap()
    }

    fn pod(phase: &str, helper: &str) -> Pod {
        let status = json!({"name": "helper", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
            "state": {helper: {"exitCode": 0}}});
        serde_json::from_value(json!({"status": {"phase": phase, "containerStatuses": [status]}})).unwrap()
    }

    #[test]
    fn each_phase_is_told_from_the_others() {
        let (waits, handed) = (AtGitlab::default(), AtGitlab { handed: true, ..AtGitlab::default() });
        let running = AtGitlab { running: true, ..handed };
        let over = AtGitlab { is_final: true, ..handed };
        let (runs, starts, ended) = (pod("Running", "running"), pod("Pending", "waiting"), pod("Running", "terminated"));
        for (gitlab, plan, pod, expected) in [
            (waits, None, None, None),
            (handed, None, None, Some(Phase::Asked)),
            (handed, Some("stored"), None, Some(Phase::Stored)),
            (running, Some("stored"), None, Some(Phase::Confirmed)),
            (running, Some("stored"), Some(&starts), Some(Phase::Launched)),
            (running, Some("launched"), Some(&starts), Some(Phase::Pending)),
            (running, Some("launched"), Some(&runs), Some(Phase::Running)),
            (running, Some("launched"), Some(&ended), Some(Phase::Finishing)),
            (over, Some("launched"), Some(&runs), Some(Phase::Finishing)),
            (running, Some("launched-2-0"), None, Some(Phase::Finishing)),
            (running, Some("telling-7"), Some(&ended), Some(Phase::Telling)),
            (over, None, Some(&ended), Some(Phase::Cleaning)),
            (over, None, None, None),
        ] {
            assert_eq!(of(gitlab, plan.map(self::plan).as_ref(), pod), expected, "{gitlab:?} {plan:?}");
        }
    }
}
