//! The conditions of a pod, in the kubelet's words and order.

use super::{Phase, PodRecord, State, is_sidecar};
use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// A condition before it has its time.
struct Finding {
    name: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// All conditions.
pub fn conditions(spec: &PodSpec, record: &PodRecord, phase: Phase, before: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let scheduled = Finding { name: "PodScheduled", holds: true, reason: None, message: None };
    let sandbox = Finding {
        name: "PodReadyToStartContainers",
        holds: record.sandbox_is_ready && !phase.is_final(),
        reason: None,
        message: None,
    };
    let findings = [
        sandbox,
        initialized(spec, record, phase),
        ready("Ready", spec, record, phase),
        ready("ContainersReady", spec, record, phase),
        scheduled,
    ];
    findings.into_iter().map(|finding| timed(finding, before, now)).collect()
}

fn timed(finding: Finding, before: &PodStatus, now: Timestamp) -> PodCondition {
    let status = if finding.holds { "True" } else { "False" };
    let known = before.conditions.iter().flatten().find(|one| one.type_ == finding.name && one.status == status);
    PodCondition {
        type_: finding.name.to_owned(),
        status: status.to_owned(),
        reason: finding.reason.map(str::to_owned),
        message: finding.message,
        last_transition_time: known.and_then(|one| one.last_transition_time.clone()).or(Some(Time(now))),
        ..PodCondition::default()
    }
}

fn initialized(spec: &PodSpec, record: &PodRecord, phase: Phase) -> Finding {
    let name = "Initialized";
    if phase == Phase::Succeeded {
        return Finding { name, holds: true, reason: Some("PodCompleted"), message: None };
    }
    let incomplete = spec.init_containers.iter().flatten().filter(|one| {
        let state = record.state(&one.name);
        let complete = if is_sidecar(one) {
            record.has_started(&one.name)
        } else {
            matches!(state, State::Terminated(end) if end.exit_code == 0)
        };
        !complete
    });
    let names: Vec<_> = incomplete.map(|one| one.name.as_str()).collect();
    if names.is_empty() {
        return Finding { name, holds: true, reason: None, message: None };
    }
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    Finding { name, holds: false, reason: Some("ContainersNotInitialized"), message: Some(message) }
}

fn ready(name: &'static str, spec: &PodSpec, record: &PodRecord, phase: Phase) -> Finding {
    match phase {
        Phase::Succeeded => return Finding { name, holds: false, reason: Some("PodCompleted"), message: None },
        Phase::Failed => return Finding { name, holds: false, reason: Some("PodFailed"), message: None },
        Phase::Pending | Phase::Running => {}
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|one| is_sidecar(one));
    let unready = sidecars.chain(&spec.containers).filter(|one| !matches!(record.state(&one.name), State::Running { .. }));
    let names: Vec<_> = unready.map(|one| one.name.as_str()).collect();
    if names.is_empty() {
        return Finding { name, holds: true, reason: None, message: None };
    }
    let message = format!("containers with unready status: [{}]", names.join(" "));
    Finding { name, holds: false, reason: Some("ContainersNotReady"), message: Some(message) }
}
