//! One case per state of a pod.

use job::FailureReason::{self, *};
use manager::{Finding, diagnose};
use serde_json::{Value, json};

fn finding(status: Value, deleted: bool) -> Finding {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}, "status": status});
    diagnose(&serde_json::from_value(pod).unwrap(), deleted)
}

fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "img", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn with(name: &str, state: Value) -> Value {
    json!({"containerStatuses": [container(name, state)]})
}

fn waiting(reason: &str, message: &str) -> Value {
    with("build", json!({"waiting": {"reason": reason, "message": message}}))
}

fn ended(name: &str, reason: &str, message: &str) -> Value {
    with(
        name,
        json!({"terminated": {"exitCode": 137, "reason": reason, "message": message, "startedAt": "2026-01-01T00:00:00Z"}}),
    )
}

#[test]
fn every_failing_state_has_a_reason_and_a_sentence() {
    let cases: [(Value, FailureReason, &str); 18] = [
        (
            waiting("ImagePullBackOff", "manifest unknown"),
            RunnerConfigurationError,
            "image pull failed: image img (container build): manifest unknown",
        ),
        (waiting("ErrImagePull", "dial tcp: unauthorized"), RunnerExternalDependencyFailure, "dial tcp"),
        (waiting("ErrImagePull", "dns error: no records found"), RunnerExternalDependencyFailure, "dns error"),
        (waiting("ErrImagePull", "something new"), ImagePullFailure, "something new"),
        (waiting("InvalidImageName", ""), RunnerConfigurationError, "image pull failed: \"img\" is not the name of an image"),
        (waiting("ErrImageNeverPull", ""), RunnerConfigurationError, "may not be pulled"),
        (
            waiting("CreateContainerConfigError", "secret \"x\" not found"),
            RunnerConfigurationError,
            "container configuration error: container build: secret \"x\" not found",
        ),
        (waiting("CreateContainerError", "no space left"), RunnerSystemFailure, "no space left"),
        (waiting("CrashLoopBackOff", ""), RunnerConfigurationError, "container \"build\" is in CrashLoopBackOff: "),
        (ended("build", "OOMKilled", ""), RunnerSystemFailure, "raise memory_limit"),
        (ended("helper", "OOMKilled", ""), RunnerSystemFailure, "raise helper_memory_limit"),
        (ended("build", "StartError", "exec: sh: not found"), RunnerConfigurationError, "exec: sh: not found"),
        (ended("helper", "Error", ""), RunnerSystemFailure, "exit code 137"),
        (json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}), RunnerSystemFailure, "low on memory"),
        (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), JobExecutionTimeout, "timeout"),
        (json!({"phase": "Failed", "reason": "NodeShutdown"}), RunnerSystemFailure, "shut down"),
        (json!({"phase": "Failed", "reason": "Preempting"}), RunnerSystemFailure, "make room"),
        (
            json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough"}),
            RunnerSystemFailure,
            "pod \"p\" status is \"Failed\": it ended before its agent could report: OutOfcpu: Node",
        ),
    ];
    for (status, reason, words) in cases {
        let Finding::Failed(diagnosis) = finding(status.clone(), false) else { panic!("{status} is no failure") };
        assert_eq!(diagnosis.reason, reason, "{status}");
        assert!(diagnosis.sentence.contains(words), "{} does not say {words:?}", diagnosis.sentence);
    }
}

#[test]
fn the_agents_verdict_counts_before_anything_else() {
    let verdict = |reported: bool| format!(r#"{{"state": "failed", "exit_code": 3, "reported": {reported}}}"#);
    assert_eq!(finding(ended("helper", "OOMKilled", &verdict(true)), true), Finding::Reported);
    let unreported = finding(ended("helper", "Error", &verdict(false)), false);
    assert!(matches!(unreported, Finding::Unreported(verdict) if verdict.exit_code == Some(3)));
}

#[test]
fn what_goes_on_is_left_alone() {
    let running = with("helper", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    assert_eq!(finding(running, false), Finding::GoesOn);
    assert_eq!(finding(waiting("ContainerCreating", ""), false), Finding::GoesOn);
    let service = with("svc-0", json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
    assert_eq!(finding(service, false), Finding::GoesOn, "a job may end its services");
    let pending = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]});
    assert_eq!(finding(pending.clone(), false), Finding::GoesOn);
    let pod = serde_json::from_value(json!({"status": pending})).unwrap();
    assert_eq!(manager::diagnose::why_it_waits(&pod).unwrap(), "no node can take the pod: 0/1 nodes are available");
}

#[test]
fn a_deleted_pod_says_whether_a_script_may_have_run() {
    let running = with("build", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    let helper = with("helper", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    let unstarted = ended("build", "StartError", "exec: sh: not found");
    for (status, expected) in [(running, true), (helper, false), (waiting("ContainerCreating", ""), false), (unstarted, false)] {
        let Finding::Failed(diagnosis) = finding(status, true) else { panic!("a deleted pod is a failure") };
        assert_eq!((diagnosis.reason, diagnosis.script_may_have_run), (RunnerSystemFailure, expected));
    }
}

#[test]
fn a_deleted_pod_says_who_took_it_where_kubernetes_knows() {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "Taint manager: deleting due to NoExecute taint"});
    let Finding::Failed(diagnosis) = finding(json!({"conditions": [condition]}), true) else {
        panic!("a deleted pod is a failure")
    };
    let why = "it was deleted before the job began (Taint manager: deleting due to NoExecute taint)";
    assert_eq!(diagnosis.sentence, format!("pod \"ns/p\" is disrupted: {why}"));
}

#[test]
fn a_build_container_killed_for_memory_is_the_agents_to_tell_as_long_as_it_runs() {
    let build =
        container("build", json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-01-01T00:00:00Z"}}));
    let with_helper = |state: Value| json!({"containerStatuses": [container("helper", state), build]});
    let running = with_helper(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    assert_eq!(finding(running, false), Finding::GoesOn);
    let dead = with_helper(json!({"terminated": {"exitCode": 1, "startedAt": "2026-01-01T00:00:00Z"}}));
    assert!(matches!(finding(dead, false), Finding::Failed(diagnosis) if diagnosis.sentence.contains("raise memory_limit")));
}
