//! Jobs from request to cleaned pod, well and badly.

use crate::bench::{Bench, container, ended, payload, pod, reported, running, until};
use kube_server::Kind;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pulling(helper: Value, reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [
        container("helper", helper),
        container("build", json!({"waiting": {"reason": reason, "message": message}}))]})
}

fn creating() -> Value {
    json!({"waiting": {"reason": "ContainerCreating"}})
}

fn started() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

#[tokio::test]
async fn a_job_that_its_agent_reports_is_cleaned_up_and_not_told_again() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    assert_eq!(bench.names(Kind::Secret), [format!("{name}-plan")]);
    bench.set_status(&name, running());
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    let states: Vec<_> = job.updates.iter().map(|update| update.state.as_str()).collect();
    assert_eq!((states, job.text().as_str()), (vec!["running"], ""), "the manager confirms and is silent");
    assert!(job.updates[0].info.features.two_phase_job_commit);
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_when_its_last_container_has_ended_or_does_not_end() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut names = Vec::new();
    for id in [7, 8] {
        bench.gitlab.offer(payload(id));
        names.push(bench.wait_for_pod(id).await);
    }
    let is_there = |index: usize| bench.store.get(Kind::Pod, "default", &names[index]).is_ok();
    for name in &names {
        bench.set_status(name, running());
        let mut ending = reported();
        ending["phase"] = json!("Running");
        bench.set_status(name, ending);
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!bench.all(Kind::Pod).contains("deletionTimestamp"), "its build container still ends");
    bench.set_status(&names[0], json!({"phase": "Succeeded"}));
    until("the first pod to go", || !is_there(0)).await;
    let begun = tokio::time::Instant::now();
    bench.let_go(&names[1]).await;
    assert!(!is_there(1) && begun.elapsed().as_secs() < 6, "{:?}", begun.elapsed());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_told_behind_what_the_agent_wrote() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.gitlab.with_job(7, |job| job.trace.extend_from_slice(b"header of the agent\n"));
    bench.set_status(&name, pulling(started(), "ErrImagePull", "toomanyrequests: slow down"));
    bench.wait_for_nothing_but_marked(&name).await;
    let job = bench.gitlab.job(7);
    let line = "\x1b[31;1mERROR: Job failed: prepare environment: image pull failed: image alpine (container build): toomanyrequests: \
         slow down. Check https://docs.gitlab.com/runner/shells/#shell-profile-loading for more information\x1b[0;m\n";
    assert_eq!(job.text(), format!("header of the agent\n{line}"));
    let last = job.last().unwrap();
    assert_eq!((last.state.as_str(), last.failure_reason.as_deref()), ("failed", Some("image_pull_failure")));
    let output = last.output.unwrap();
    assert_eq!((output.bytesize, output.checksum), (job.trace.len() as u64, None));
    manager.stop().await;
}

#[tokio::test]
async fn a_reason_that_gitlab_does_not_know_is_mapped_down() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, pulling(creating(), "ErrImagePull", "dial tcp: i/o timeout"));
    bench.wait_for_nothing_but_marked(&name).await;
    assert_eq!(bench.gitlab.job(7).last().unwrap().failure_reason.as_deref(), Some("runner_system_failure"));
    manager.stop().await;
}

#[tokio::test]
async fn a_build_container_that_does_not_start_is_told_although_the_helper_waits_for_it() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let end = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \"sh\": not found"}});
    bench.set_status(
        &name,
        json!({"phase": "Running", "containerStatuses": [container("helper", started()), container("build", end)]}),
    );
    bench.wait_for_nothing_but_marked(&name).await;
    let job = bench.gitlab.job(7);
    assert!(job.text().contains("container build could not be started: exec: \"sh\": not found"), "{}", job.text());
    assert_eq!(job.last().unwrap().failure_reason.as_deref(), Some("runner_configuration_error"));
    manager.stop().await;
}

#[tokio::test]
async fn a_build_container_out_of_memory_is_left_to_the_agent_that_runs() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let end = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-01-01T00:00:00Z"}});
    bench.set_status(
        &name,
        json!({"phase": "Running", "containerStatuses": [container("helper", started()), container("build", end)]}),
    );
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    manager.stop().await;
}

#[tokio::test]
async fn a_refused_confirmation_deletes_the_plan_and_makes_no_pod() {
    let bench = Bench::start().await;
    bench.gitlab.with_job(7, |job| job.gone = true);
    let manager = bench.manager(1, "");
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    // With room for one job, the second one's pod shows that the first is over.
    bench.wait_for_pod(8).await;
    assert_eq!(bench.names(Kind::Secret), [format!("{}-plan", pod(8))]);
    let made = bench.calls().iter().filter(|call| call.starts_with("POST") && call.ends_with("/pods?")).count();
    assert_eq!(made, 1, "only the second job got a pod");
    manager.stop().await;
}

#[tokio::test]
async fn a_verdict_that_the_agent_could_not_report_is_reported() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let verdict = json!({"state": "failed", "exit_code": 3, "failure_reason": "script_failure", "message": "exit code 3",
        "reported": false, "trace_bytes": 20});
    for (id, trace, expected) in [
        (7, &b"what it could send\n"[..], "what it could send\n\x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n"),
        (8, b"all twenty bytes ok\n", "all twenty bytes ok\n"),
    ] {
        bench.gitlab.offer(payload(id));
        let name = bench.wait_for_pod(id).await;
        bench.gitlab.with_job(id, |job| job.trace.extend_from_slice(trace));
        bench.set_status(&name, ended(&verdict));
        bench.wait_for_nothing().await;
        let job = bench.gitlab.job(id);
        assert_eq!(job.text(), expected);
        let last = job.last().unwrap();
        assert_eq!((last.exit_code, last.failure_reason.as_deref()), (Some(3), Some("script_failure")));
        assert_eq!(last.output.unwrap().bytesize, job.trace.len() as u64);
    }
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_deleted_by_hand_is_told() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    let sentence = format!("pods \"{name}\" not found: the pod was deleted while the job ran");
    let line = format!("\x1b[31;1mERROR: Job failed (system failure): {sentence}\x1b[0;m\n");
    assert_eq!(job.text(), line);
    assert_eq!(job.last().unwrap().failure_reason.as_deref(), Some("runner_system_failure"));
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_being_deleted_may_still_bring_the_agents_last_word() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.store.delete(Kind::Pod, "default", &name, &kube_server::DeleteOptions::default()).unwrap();
    bench.set_status(&name, ended(&json!({"state": "failed", "failure_reason": "runner_interrupted", "reported": true})));
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    assert_eq!((bench.gitlab.job(7).last(), bench.gitlab.job(7).text()), (None, String::new()));
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_no_node_takes_waits_until_the_poll_timeout_with_the_reason() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "poll_timeout = 6");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"});
    bench.set_status(&name, json!({"phase": "Pending", "conditions": [condition]}));
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    let expected = format!(
        "Waiting for pod default/{name} to be running on the node unknown, status is Pending\n\tUnschedulable: \"0/3 nodes are available\"\n\
         \x1b[31;1mERROR: Job failed (system failure): prepare environment: waiting for pod running: timed out waiting for pod \
         to start (last phase: Pending), pod default/{name} in 6 s: no node can take the pod: 0/3 nodes are available. \
         Check https://docs.gitlab.com/runner/shells/#shell-profile-loading for more information\x1b[0;m\n"
    );
    assert_eq!(job.text(), expected);
    manager.stop().await;
}

#[tokio::test]
async fn a_cancel_while_the_pod_waits_ends_the_job_before_it_began() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    for (id, status) in [(7, "canceling"), (8, "canceled")] {
        bench.gitlab.offer(payload(id));
        bench.wait_for_pod(id).await;
        bench.gitlab.with_job(id, |job| job.status = status.to_owned());
    }
    bench.wait_for_nothing().await;
    let last = bench.gitlab.job(7).last().unwrap();
    assert_eq!((last.state.as_str(), last.failure_reason.as_deref()), ("failed", Some("unknown_failure")));
    assert_eq!(bench.gitlab.job(8).last(), None, "a job that is cancelled there is told nothing");
    manager.stop().await;
}

#[tokio::test]
async fn the_manager_is_silent_once_somebody_else_has_written() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.with_job(7, |job| job.lose_answers = 1);
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    // The answer to the first line is lost; the line must not stand there twice.
    until("the first line", || bench.gitlab.job(7).text().starts_with("Waiting for pod")).await;
    let first = bench.gitlab.job(7).text();
    bench.gitlab.with_job(7, |job| job.trace.extend_from_slice(b"agent\n"));
    until("a question without bytes", || bench.gitlab.job(7).updates.len() > 1).await;
    assert_eq!(bench.gitlab.job(7).text(), format!("{first}agent\n"));
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn trouble_at_gitlab_does_not_lose_a_report() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.request_faults([500, 502]);
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.gitlab.with_job(7, |job| job.lose_answers = 1);
    bench.set_status(&name, pulling(creating(), "InvalidImageName", ""));
    bench.wait_for_nothing_but_marked(&name).await;
    let job = bench.gitlab.job(7);
    assert_eq!(job.text().matches("ERROR").count(), 1, "{}", job.text());
    assert_eq!((job.finals(), job.last().unwrap().output.unwrap().bytesize), (1, job.trace.len() as u64));
    manager.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_asked_with_again_later() {
    let bench = Bench::start().await;
    bench.gitlab.request_faults([403]);
    let manager = bench.manager(1, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    assert_eq!(bench.gitlab.requests().len(), 2, "a refusal is followed by a pause");
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn what_cannot_become_a_pod_is_told_as_a_configuration_error() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "memory_limit = \"much\"");
    bench.gitlab.offer(payload(7));
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!(job.text(), "\x1b[31;1mERROR: Job failed: memory_limit = \"much\" is not a quantity\x1b[0;m\n");
    assert_eq!(job.last().unwrap().failure_reason.as_deref(), Some("runner_configuration_error"));
    manager.stop().await;
}

#[tokio::test]
async fn lines_of_the_manager_are_stamped_unless_the_job_turns_it_off() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "memory_limit = \"much\"");
    for (id, value) in [(7, "perhaps"), (8, "0")] {
        let mut asking = payload(id);
        asking["variables"] = json!([{"key": "FF_TIMESTAMPS", "value": value}]);
        bench.gitlab.offer(asking);
        until("the report", || bench.gitlab.job(id).finals() == 1).await;
    }
    let line = b"\x1b[31;1mERROR: Job failed: memory_limit = \"much\" is not a quantity\x1b[0;m\n";
    let stamped = bench.gitlab.job(7).trace;
    let last = stamped.split_inclusive(|byte| *byte == b'\n').next_back().unwrap();
    let stamped = gitlab_api::log::parse_stamp(last).expect("a stamp");
    assert_eq!((stamped.stream, stamped.text), (gitlab_api::log::Stream::RUNNER, &line[..]));
    assert!(bench.gitlab.job(8).trace.ends_with(&[b"\n", &line[..]].concat()));
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_there_and_a_payload_that_makes_no_sense_are_told() {
    let bench = Bench::start().await;
    let error = bench.manager(2, "namespace = \"nowhere\"").end().await.unwrap_err();
    assert_eq!(error.to_string(), "namespace nowhere does not exist in cluster test");
    let manager = bench.manager(2, "namespace_overwrite_allowed = \"^now\"");
    let asking = |id: u64, namespace: &str| {
        let mut asking = payload(id);
        asking["variables"] = json!([{"key": "KUBERNETES_NAMESPACE_OVERWRITE", "value": namespace}]);
        asking
    };
    bench.gitlab.offer(asking(7, "nowhere"));
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    assert!(bench.gitlab.job(7).text().contains("namespaces \"nowhere\" not found"), "{}", bench.gitlab.job(7).text());
    bench.gitlab.offer(asking(9, "kube-system"));
    until("the report", || bench.gitlab.job(9).finals() == 1).await;
    assert!(bench.gitlab.job(9).text().contains("does not match \"^now\""), "{}", bench.gitlab.job(9).text());
    let mut senseless = payload(8);
    senseless["steps"][0]["when"] = json!("sometimes");
    bench.gitlab.offer(senseless);
    until("the report", || bench.gitlab.job(8).finals() == 1).await;
    assert!(bench.gitlab.job(8).text().contains("unknown steps.when \"sometimes\""), "{}", bench.gitlab.job(8).text());
    manager.stop().await;
}

#[tokio::test]
async fn a_masked_variable_stands_in_no_object_but_the_plan_and_not_in_the_trace() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut with_secret = payload(7);
    with_secret["variables"] = json!([{"key": "PASSWORD", "value": "hunter2hunter2", "masked": true, "public": true}]);
    bench.gitlab.offer(with_secret);
    let name = bench.wait_for_pod(7).await;
    let everything = [Kind::Pod, Kind::ConfigMap, Kind::Event, Kind::Secret].map(|kind| bench.all(kind)).concat();
    for secret in ["hunter2hunter2", "job-token-7", "secretrunnertoken"] {
        assert!(!everything.contains(secret), "{secret} stands in an object");
    }
    bench.set_status(&name, pulling(creating(), "ErrImagePull", "who is hunter2hunter2?"));
    bench.wait_for_nothing_but_marked(&name).await;
    assert!(bench.gitlab.job(7).text().contains("who is [MASKED]?. Check"), "{}", bench.gitlab.job(7).text());
    manager.stop().await;
}

#[tokio::test]
async fn a_job_that_wants_it_reads_the_events_of_its_pod_and_its_images_stand_in_our_log() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer({
            let lines = lines.clone();
            move || lines.clone()
        })
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut asking = payload(7);
    asking["variables"] =
        json!([{"key": "FF_PRINT_POD_EVENTS", "value": "true"}, {"key": "FF_LOG_IMAGES_CONFIGURED_FOR_JOB", "value": "1"}]);
    asking["image"] = json!({"name": "ruby:$VERSION"});
    asking["services"] = json!([{"name": "redis:7"}]);
    bench.gitlab.offer(asking);
    let name = bench.wait_for_pod(7).await;
    let event = |of: &str, reason: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{of}.{}", reason.to_lowercase()), "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": of}, "type": "Normal", "reason": reason, "message": format!("{reason} it")})
    };
    for (of, reason) in [(name.as_str(), "Scheduled"), ("another-pod", "Pulled")] {
        bench.store.create(Kind::Event, "default", event(of, reason)).unwrap();
    }
    until("the event in the log", || bench.gitlab.job(7).text().contains("Normal   Scheduled  Scheduled it\n")).await;
    bench.store.create(Kind::Event, "default", event(&name, "Pulling")).unwrap();
    until("the next event in the log", || bench.gitlab.job(7).text().contains("Normal   Pulling    Pulling it\n")).await;
    let text = bench.gitlab.job(7).text();
    assert_eq!((text.matches("Type     Reason     Message").count(), text.matches("Scheduled it").count()), (1, 1), "{text}");
    assert!(!text.contains("Pulled it"), "{text}");
    assert!(
        lines.text().contains("images of the job job.id=7 runner.name=\"one\" image=\"ruby:$VERSION\" services=[\"redis:7\"]"),
        "{}",
        lines.text()
    );
    manager.stop().await;
}

#[tokio::test]
async fn lines_of_the_manager_begin_with_the_header() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "memory_limit = \"much\"");
    let mut asking = payload(7);
    asking["variables"] = json!([{"key": "FF_SCRIPT_SECTIONS", "value": "1"}]);
    bench.gitlab.offer(asking);
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    let whole = bench.gitlab.job(7).whole();
    let lines: Vec<_> = whole.lines().collect();
    assert!(lines[0].starts_with("\x1b[0KRunning with gantry "), "{whole}");
    assert!(lines[1].starts_with("\x1b[0K  on ") && lines[1].contains(", system ID: "), "{whole}");
    assert_eq!(lines[2], "\x1b[0K  feature flags: FF_SCRIPT_SECTIONS:true\x1b[0;m");
    assert!(lines[3].starts_with("\x1b[31;1mERROR: Job failed: ") && lines.len() == 4, "{whole}");
    let info = bench.gitlab.job(7).last().unwrap().info;
    assert!(info.features.cancel_gracefully && info.name == "gitlab-runner", "a last word of the manager tells it too");
    manager.stop().await;
}

#[tokio::test]
async fn a_job_with_inputs_runs_with_their_values() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut asking = payload(7);
    let input = |content: &str| json!([{"key": "tag", "value": {"type": "string", "content": content, "sensitive": false}}]);
    asking["inputs"] = input("3.20");
    asking["image"] = json!({"name": "alpine:${{ job.inputs.tag }}"});
    bench.gitlab.offer(asking);
    let name = bench.wait_for_pod(7).await;
    assert!(bench.all(Kind::Pod).contains("\"alpine:3.20\""), "{}", bench.all(Kind::Pod));
    bench.set_status(&name, reported());
    let mut wrong = payload(8);
    wrong["inputs"] = input("x");
    wrong["image"] = json!({"name": "alpine:${{ job.inputs.other }}"});
    wrong["features"] = json!({"failure_reasons": ["runner_configuration_error"]});
    bench.gitlab.offer(wrong);
    until("the report", || bench.gitlab.job(8).finals() == 1).await;
    let told = bench.gitlab.job(8);
    assert_eq!(told.last().unwrap().failure_reason.as_deref(), Some("runner_configuration_error"));
    assert!(told.text().contains("failed to interpolate job inputs: there is no \"other\""), "{}", told.text());
    manager.stop().await;
}

#[tokio::test]
async fn what_is_refused_before_it_begins_is_told_with_its_code() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut asking = payload(7);
    asking["image"] = json!({"name": "alpine", "executor_opts": {"kubernetes": {"group": "x"}}});
    bench.gitlab.offer(asking);
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    let last = bench.gitlab.job(7).last().unwrap();
    assert_eq!((last.failure_reason.as_deref(), last.exit_code), (Some("runner_system_failure"), Some(3)));
    assert!(bench.gitlab.job(7).text().contains("Unsupported \"image\" options [group]"), "{}", bench.gitlab.job(7).text());
    let mut both = payload(8);
    both["run"] = json!("[{\"name\": \"a\"}]");
    bench.gitlab.offer(both);
    until("the report", || bench.gitlab.job(8).finals() == 1).await;
    let last = bench.gitlab.job(8).last().unwrap();
    assert_eq!((last.failure_reason.as_deref(), last.exit_code), (Some("runner_system_failure"), Some(3)));
    assert!(bench.gitlab.job(8).text().contains("the job has `run` and `script`"), "{}", bench.gitlab.job(8).text());
    manager.stop().await;
}

#[tokio::test]
async fn the_logins_of_a_job_lie_in_the_secret_of_its_plan() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut asking = payload(7);
    asking["credentials"] = json!([{"type": "registry", "url": "r.example", "username": "u", "password": "p"}]);
    bench.gitlab.offer(asking);
    let name = bench.wait_for_pod(7).await;
    let secrets = bench.all(Kind::Secret);
    assert!(secrets.contains("kubernetes.io/dockerconfigjson") && secrets.contains(".dockerconfigjson"), "{secrets}");
    assert!(bench.all(Kind::Pod).contains("\"imagePullSecrets\":[{\"name\":"), "{}", bench.all(Kind::Pod));
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}
