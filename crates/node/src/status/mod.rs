//! What a pod's object says about its containers: pure, from what the node knows.
//!
//! The rules are the kubelet's, so that a manager reads the same from this node as from any other: the phase from the
//! states of the containers, the conditions from both, the time of a condition only moved when it changes.

mod conditions;
mod record;

pub use record::{ContainerRecord, PodRecord, State, Termination, Verdict};

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The phases a pod can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// At least one container runs or will run again.
    Running,
    /// All containers ended with 0.
    Succeeded,
    /// All containers ended, at least one badly; or the node ended the pod.
    Failed,
}

impl Phase {
    /// Kubernetes' word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Whether an init container runs beside the others instead of before them.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The status of a pod on this node; `before` is what stands there now.
pub fn status(spec: &PodSpec, before: PodStatus, record: &PodRecord, now: Timestamp) -> PodStatus {
    let phase = phase(spec, record);
    let addresses = record.pod_ip.clone();
    let (reason, message) = match &record.verdict {
        Some(verdict) => (Some(verdict.reason.to_owned()), Some(verdict.message.clone())),
        None => (None, None),
    };
    let init: Vec<_> = spec.init_containers.iter().flatten().map(|one| container_status(one, record)).collect();
    PodStatus {
        phase: Some(phase.word().to_owned()),
        conditions: Some(conditions::conditions(spec, record, phase, &before, now)),
        container_statuses: Some(spec.containers.iter().map(|one| container_status(one, record)).collect()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: Some(record.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: record.host_ip.clone() }]),
        pod_ip: addresses.clone(),
        pod_ips: addresses.map(|ip| vec![PodIP { ip }]),
        start_time: record.started_at.map(Time),
        reason,
        message,
        ..before
    }
}

/// The phase, by the rules of the kubelet.
pub fn phase(spec: &PodSpec, record: &PodRecord) -> Phase {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let all_ended = record.containers.values().all(|one| !matches!(one.state, State::Running { .. }));
    if record.verdict.is_some() && record.ended && all_ended {
        return Phase::Failed;
    }
    let plain_init = spec.init_containers.iter().flatten().filter(|one| !is_sidecar(one));
    for container in plain_init {
        match record.state(&container.name) {
            State::Terminated(end) if end.exit_code == 0 => {}
            State::Terminated(_) if policy == "Never" => return Phase::Failed,
            _ => return Phase::Pending,
        }
    }
    let sidecars_started = spec.init_containers.iter().flatten().filter(|one| is_sidecar(one));
    let sidecar_is_missing = sidecars_started.clone().any(|one| !record.has_started(&one.name));
    let (mut waiting, mut running, mut succeeded, mut failed) = (0, 0, 0, 0);
    for container in &spec.containers {
        match record.state(&container.name) {
            State::Waiting { .. } if record.has_started(&container.name) => running += 1,
            State::Waiting { .. } => waiting += 1,
            State::Running { .. } => running += 1,
            State::Terminated(end) if end.exit_code == 0 => succeeded += 1,
            State::Terminated(_) => failed += 1,
        }
    }
    if sidecar_is_missing || waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 {
        return Phase::Running;
    }
    // Sidecars end after the others; until then something of the pod runs.
    if !all_ended {
        return Phase::Running;
    }
    let comes_again = policy == "Always" || (policy == "OnFailure" && failed > 0);
    match (comes_again && !record.ended, failed, succeeded) {
        (true, ..) => Phase::Running,
        (false, 0, _) => Phase::Succeeded,
        _ => Phase::Failed,
    }
}

fn container_status(container: &Container, record: &PodRecord) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let Some(known) = record.containers.get(&container.name) else {
        let waiting = record.before_its_turn();
        return ContainerStatus {
            name: container.name.clone(),
            image,
            state: Some(waiting.to_object()),
            started: Some(false),
            ..ContainerStatus::default()
        };
    };
    let running = matches!(known.state, State::Running { .. });
    let done = matches!(&known.state, State::Terminated(end) if end.exit_code == 0);
    let is_init = record.init_names.contains(&container.name) && !is_sidecar(container);
    ContainerStatus {
        name: container.name.clone(),
        image,
        image_id: known.image_id.clone(),
        container_id: known.container_id.clone(),
        state: Some(known.state.to_object()),
        last_state: known.last.as_ref().map(|end| State::Terminated(end.clone()).to_object()),
        restart_count: i32::try_from(known.restarts).unwrap_or(i32::MAX),
        ready: if is_init { done } else { running },
        started: Some(running),
        ..ContainerStatus::default()
    }
}

impl State {
    fn to_object(&self) -> ContainerState {
        let mut object = ContainerState::default();
        match self {
            Self::Waiting { reason, message } => {
                object.waiting = Some(ContainerStateWaiting {
                    reason: Some((*reason).to_owned()),
                    message: (!message.is_empty()).then(|| message.clone()),
                });
            }
            Self::Running { started_at } => {
                object.running = Some(ContainerStateRunning { started_at: Some(Time(*started_at)) });
            }
            Self::Terminated(end) => {
                object.terminated = Some(ContainerStateTerminated {
                    container_id: end.container_id.clone(),
                    exit_code: end.exit_code,
                    signal: end.signal,
                    reason: Some(end.reason.to_owned()),
                    message: (!end.message.is_empty()).then(|| end.message.clone()),
                    started_at: end.started_at.map(Time),
                    finished_at: Some(Time(end.finished_at)),
                });
            }
        }
        object
    }
}

#[cfg(test)]
mod tests;
