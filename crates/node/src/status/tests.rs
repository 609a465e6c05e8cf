//! Cases: what is known of the containers, and the phase and conditions that follow.

use super::{ContainerRecord, Phase, PodRecord, State, Termination, Verdict, phase};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

fn status(pod: &Pod, record: &PodRecord, now: Timestamp) -> PodStatus {
    super::status(pod.spec.as_ref().unwrap(), pod.status.clone().unwrap(), record, now)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}}),
    )
    .unwrap()
}

/// `wait`, `run`, or an exit code.
fn state(word: &str) -> State {
    match word {
        "wait" => State::waiting("ContainerCreating", ""),
        "run" => State::Running { started_at: at(1) },
        code => State::Terminated(Termination {
            exit_code: code.parse().unwrap(),
            signal: None,
            reason: if code == "0" { "Completed" } else { "Error" },
            message: String::new(),
            started_at: Some(at(1)),
            finished_at: at(2),
            container_id: None,
        }),
    }
}

fn record(states: &[(&str, &str)]) -> PodRecord {
    let containers = states
        .iter()
        .map(|(name, word)| ((*name).to_owned(), ContainerRecord { state: state(word), ..ContainerRecord::default() }));
    PodRecord { containers: containers.collect(), started_at: Some(at(0)), sandbox_is_ready: true, ..PodRecord::default() }
}

#[track_caller]
fn check(policy: &str, init: &[&str], states: &[(&str, &str)], ended: bool, expected: Phase) {
    let init: Vec<_> = init
        .iter()
        .map(
            |name| {
                if name.starts_with("side") { json!({"name": name, "restartPolicy": "Always"}) } else { json!({"name": name}) }
            },
        )
        .collect();
    let pod = pod(json!({"restartPolicy": policy, "initContainers": init, "containers": [{"name": "a"}, {"name": "b"}]}));
    let record = PodRecord { ended, ..record(states) };
    assert_eq!(phase(pod.spec.as_ref().unwrap(), &record), expected, "{policy} {states:?}");
}

#[test]
fn the_phase_follows_from_the_containers() {
    check("Never", &[], &[], false, Phase::Pending);
    check("Never", &[], &[("a", "run"), ("b", "wait")], false, Phase::Pending);
    check("Never", &[], &[("a", "run"), ("b", "run")], false, Phase::Running);
    check("Never", &[], &[("a", "run"), ("b", "1")], false, Phase::Running);
    check("Never", &[], &[("a", "0"), ("b", "0")], true, Phase::Succeeded);
    check("Never", &[], &[("a", "0"), ("b", "1")], true, Phase::Failed);
    check("OnFailure", &[], &[("a", "0"), ("b", "1")], false, Phase::Running);
    check("OnFailure", &[], &[("a", "0"), ("b", "0")], false, Phase::Succeeded);
    check("Always", &[], &[("a", "0"), ("b", "0")], false, Phase::Running);
    check("Always", &[], &[("a", "0"), ("b", "137")], true, Phase::Failed);
}

#[test]
fn init_containers_hold_the_pod_back_and_a_failed_one_fails_it() {
    check("Never", &["i"], &[("i", "run")], false, Phase::Pending);
    check("Never", &["i"], &[("i", "1")], false, Phase::Failed);
    check("Always", &["i"], &[("i", "1")], false, Phase::Pending);
    check("Never", &["i"], &[("i", "0"), ("a", "run"), ("b", "run")], false, Phase::Running);
    check("Never", &["side"], &[], false, Phase::Pending);
    check("Never", &["side"], &[("side", "run"), ("a", "run"), ("b", "run")], false, Phase::Running);
    check("Never", &["side"], &[("side", "137"), ("a", "0"), ("b", "0")], true, Phase::Succeeded);
}

fn condition(status: &PodStatus, name: &str) -> (String, Option<String>, Option<Timestamp>) {
    let one = status.conditions.iter().flatten().find(|one| one.type_ == name).unwrap();
    (one.status.clone(), one.message.clone().or(one.reason.clone()), one.last_transition_time.as_ref().map(|time| time.0))
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let mut pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}));
    let mut record = record(&[]);
    pod.status = Some(status(&pod, &record, at(0)));
    let unready = Some("containers with unready status: [a]".to_owned());
    assert_eq!(condition(pod.status.as_ref().unwrap(), "Ready"), ("False".to_owned(), unready.clone(), Some(at(0))));
    pod.status = Some(status(&pod, &record, at(1)));
    assert_eq!(condition(pod.status.as_ref().unwrap(), "Ready"), ("False".to_owned(), unready, Some(at(0))));
    record.containers.insert("a".to_owned(), ContainerRecord { state: state("run"), ..ContainerRecord::default() });
    pod.status = Some(status(&pod, &record, at(2)));
    assert_eq!(condition(pod.status.as_ref().unwrap(), "Ready"), ("True".to_owned(), None, Some(at(2))));
    record.containers.insert("a".to_owned(), ContainerRecord { state: state("0"), ..ContainerRecord::default() });
    record.ended = true;
    let last = status(&pod, &record, at(3));
    assert_eq!(condition(&last, "Ready").1.as_deref(), Some("PodCompleted"));
    assert_eq!(condition(&last, "Initialized").0, "True");
    assert_eq!(last.qos_class.as_deref(), Some("BestEffort"), "what others wrote stays");
}

#[test]
fn a_deadline_fails_the_pod_once_its_containers_have_ended() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let verdict = Some(Verdict { reason: "DeadlineExceeded", message: "too long".to_owned() });
    let still_running = PodRecord { verdict: verdict.clone(), ended: true, ..record(&[("a", "run")]) };
    let now = status(&pod, &still_running, at(1));
    assert_eq!((now.phase.as_deref(), now.reason.as_deref()), (Some("Running"), Some("DeadlineExceeded")));
    let ended = status(&pod, &PodRecord { verdict, ended: true, ..record(&[("a", "0")]) }, at(2));
    assert_eq!((ended.phase.as_deref(), ended.message.as_deref()), (Some("Failed"), Some("too long")));
}

#[test]
fn a_container_that_ended_says_how() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img"}]}));
    let found = status(&pod, &record(&[("a", "3")]), at(5));
    let one = &found.container_statuses.unwrap()[0];
    let end = one.state.clone().unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref(), one.restart_count, one.image.as_str()), (3, Some("Error"), 0, "img"));
    assert_eq!(end.finished_at.unwrap().0, at(2));
}

#[test]
fn a_container_before_its_turn_waits_for_init_containers_only_where_there_are_some() {
    let mut waiting = record(&[]);
    assert_eq!(waiting.state("a"), State::waiting("ContainerCreating", ""));
    waiting.init_names.insert("i".to_owned());
    assert_eq!(waiting.state("a"), State::waiting("PodInitializing", ""));
}
