//! A pod's line: the status is not its phase, but the most telling thing about its containers.

use super::age;
use super::columns::or_none;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The cells of a pod.
pub fn cells(pod: &Value) -> Value {
    let told = tell(pod);
    let nominated = or_none(pod.pointer("/status/nominatedNodeName"));
    json!([
        pod["metadata"]["name"],
        format!("{}/{}", told.ready, told.total),
        told.status,
        told.restarts_text(),
        age::since(&pod["metadata"]["creationTimestamp"]),
        or_none(pod.pointer("/status/podIP")),
        or_none(pod.pointer("/spec/nodeName")),
        nominated,
        readiness_gates(pod)
    ])
}

#[derive(Default)]
struct Told {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl Told {
    fn restarts_text(&self) -> String {
        match &self.last_restart {
            Some(time) if self.restarts > 0 => format!("{} ({} ago)", self.restarts, age::since(&json!(time))),
            _ => self.restarts.to_string(),
        }
    }

    fn count_restarts(&mut self, status: &Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or_default();
        let finished = status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        // Times in one format sort as text.
        self.last_restart = self.last_restart.take().max(finished.map(str::to_owned));
    }
}

fn tell(pod: &Value) -> Told {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let sidecars: HashSet<String> = list(&spec["initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect();
    let word = status["reason"].as_str().filter(|word| !word.is_empty()).or(status["phase"].as_str());
    let mut told = Told { status: word.unwrap_or("Unknown").to_owned(), ..Told::default() };
    told.total = list(&spec["containers"]).len() + sidecars.len();
    let initial = list(&spec["initContainers"]).len();
    let initializing = tell_of_init(&mut told, &list(&status["initContainerStatuses"]), &sidecars, initial);
    if !initializing || has_condition(pod, "Initialized") {
        tell_of_containers(&mut told, pod, &list(&status["containerStatuses"]));
    }
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !pod["metadata"]["deletionTimestamp"].is_null() && !ended {
        told.status = if status["reason"] == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
    }
    told
}

/// Looks at the init containers; true while one of them holds up the others.
fn tell_of_init(told: &mut Told, statuses: &[Value], sidecars: &HashSet<String>, initial: usize) -> bool {
    for (index, status) in statuses.iter().enumerate() {
        told.count_restarts(status);
        let (terminated, waiting) = (&status["state"]["terminated"], status.pointer("/state/waiting/reason"));
        let is_sidecar = status["name"].as_str().is_some_and(|name| sidecars.contains(name));
        if terminated["exitCode"] == 0 {
            continue;
        }
        if is_sidecar && status["started"] == true {
            told.ready += usize::from(status["ready"] == true);
            continue;
        }
        told.status = match (terminated.is_object(), waiting.and_then(Value::as_str)) {
            (true, _) => format!("Init:{}", ending(terminated)),
            (false, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{initial}"),
        };
        return true;
    }
    false
}

fn tell_of_containers(told: &mut Told, pod: &Value, statuses: &[Value]) {
    let mut running = false;
    // The first container has the last word.
    for status in statuses.iter().rev() {
        told.count_restarts(status);
        let state = &status["state"];
        let waiting = state.pointer("/waiting/reason").and_then(Value::as_str).unwrap_or_default();
        if !waiting.is_empty() {
            told.status = waiting.to_owned();
        } else if state["terminated"].is_object() {
            told.status = ending(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
            told.ready += 1;
        }
    }
    if told.status == "Completed" && running {
        told.status = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

/// How a container ended: its reason, else its signal or exit code.
fn ending(terminated: &Value) -> String {
    let reason = terminated["reason"].as_str().unwrap_or_default();
    let signal = terminated["signal"].as_i64().unwrap_or_default();
    match (reason.is_empty(), signal) {
        (false, _) => reason.to_owned(),
        (true, 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
        (true, signal) => format!("Signal:{signal}"),
    }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates: Vec<_> = pod["spec"]["readinessGates"].as_array().into_iter().flatten().collect();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| gate["conditionType"].as_str().is_some_and(|kind| has_condition(pod, kind)));
    format!("{}/{}", open.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::cells;
    use serde_json::{Value, json};

    fn line(extra: Value, status: Value) -> (String, String, String) {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status});
        json_patch::merge(&mut pod, &extra);
        let cells = cells(&pod);
        let text = |index: usize| cells[index].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    fn expect(extra: Value, status: Value, ready: &str, word: &str) {
        let (its_ready, its_word, _) = line(extra, status);
        assert_eq!((its_ready.as_str(), its_word.as_str()), (ready, word));
    }

    #[test]
    fn the_status_is_the_most_telling_thing_about_the_containers() {
        let none = || json!({});
        expect(none(), json!({"phase": "Pending"}), "0/2", "Pending");
        let waiting =
            |reason: &str| json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]});
        expect(none(), waiting("ContainerCreating"), "0/2", "ContainerCreating");
        expect(none(), waiting("ErrImagePull"), "0/2", "ErrImagePull");
        let running = json!({"phase": "Running", "containerStatuses": [
            {"ready": true, "state": {"running": {}}}, {"ready": true, "state": {"running": {}}}]});
        expect(none(), running.clone(), "2/2", "Running");
        expect(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), running, "2/2", "Terminating");
        let ended = |reason: &str, code: i32| {
            json!({"phase": "Failed", "containerStatuses": [
            {"state": {"terminated": {"reason": reason, "exitCode": code}}}, {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]})
        };
        expect(none(), ended("OOMKilled", 137), "0/2", "OOMKilled");
        expect(none(), ended("Error", 1), "0/2", "Error");
        expect(none(), ended("Completed", 0), "0/2", "Completed");
        expect(none(), ended("", 3), "0/2", "ExitCode:3");
        expect(none(), json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted");
        let half = json!({"phase": "Running", "containerStatuses": [
            {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, {"ready": true, "state": {"running": {}}}]});
        expect(none(), half, "1/2", "NotReady");
    }

    #[test]
    fn init_containers_come_before_the_others() {
        let spec = json!({"spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}});
        let first = json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}],
            "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]});
        expect(spec.clone(), first, "0/3", "Init:0/2");
        let failed = json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]});
        expect(spec.clone(), failed, "0/3", "Init:Error");
        let sidecar = json!({"phase": "Running", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"ready": true, "state": {"running": {}}}, {"ready": true, "state": {"running": {}}}]});
        expect(spec, sidecar, "3/3", "Running");
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let status = json!({"phase": "Running", "containerStatuses": [
            {"restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2020-01-01T00:00:00Z"}}}]});
        let (_, _, restarts) = line(json!({}), status);
        assert!(restarts.starts_with("2 (") && restarts.ends_with(" ago)"), "{restarts}");
    }
}
