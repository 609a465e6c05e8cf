//! Services in a job's log: what they printed, and that one died.

use crate::bench::{Bench, container, payload, running};
use kube_server::Kind;
use serde_json::{Value, json};

const SUCCEEDED: &str = "\x1b[32;1mJob succeeded\x1b[0;m\n";

fn with_services(id: u64, debug: &str) -> Value {
    let mut payload = payload(id);
    payload["services"] = json!([{"name": "postgres:17", "alias": "db", "variables": [{"key": "PASSWORD", "value": "p-$WORD"}]},
        {"name": "redis"}]);
    payload["variables"] = json!([{"key": "CI_DEBUG_SERVICES", "value": debug, "public": true},
        {"key": "WORD", "value": "hunter22", "masked": true}]);
    payload
}

fn ended_at(name: &str, second: u32, message: &str) -> Value {
    let end = json!({"exitCode": 5, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z", "message": message,
        "finishedAt": format!("2026-01-01T00:00:{second:02}Z")});
    container(name, json!({"terminated": end}))
}

/// The agent has left the last line to the manager.
fn left(state: &str, service: Value) -> Value {
    let verdict = match state {
        "success" => json!({"state": state, "reported": false}),
        _ => {
            json!({"state": state, "reported": false, "exit_code": 4, "failure_reason": "script_failure", "message": "exit code 4"})
        }
    };
    let running = container("svc-1", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    json!({"phase": "Running", "containerStatuses": [ended_at("helper", 9, &verdict.to_string()), service, running]})
}

#[tokio::test]
async fn a_service_that_died_is_told_in_front_of_the_last_line_of_a_job_that_failed() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(with_services(7, "false"));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.gitlab.with_job(7, |job| job.trace.extend_from_slice(b"of the agent\n"));
    bench.set_status(&name, left("failed", ended_at("svc-0", 3, "")));
    bench.wait_for_nothing_but_marked(&name).await;
    let job = bench.gitlab.job(7);
    let expected = "of the agent\n\x1b[0;33mWARNING: service postgres-db (container svc-0) ended before the job did: exit code 5; with \
        the variable CI_DEBUG_SERVICES: \"true\" the log shows what it printed\x1b[0;m\n\x1b[31;1mERROR: Job failed: exit code 4\x1b[0;m\n";
    assert_eq!(job.text(), expected);
    let last = job.last().unwrap();
    assert_eq!(
        (last.state.as_str(), last.exit_code, last.failure_reason.as_deref()),
        ("failed", Some(4), Some("script_failure"))
    );
    assert!(bench.calls().iter().all(|call| !call.contains("/log")), "no log is read that nobody wants");
    manager.stop().await;
}

#[tokio::test]
async fn what_services_printed_stands_masked_in_a_section_in_front_of_the_last_line() {
    let bench = Bench::start().await;
    bench.logs.set("svc-0", &b"2026-01-01T00:00:01.000000000Z the password is p-hunter22\n"[..]);
    let long = "2026-01-01T00:00:02.000000000Z every line of it is as long as this one, and there are too many\n".repeat(100_000);
    bench.logs.set("svc-1", long);
    let manager = bench.manager(2, "");
    bench.gitlab.offer(with_services(7, "true"));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.set_status(&name, left("success", ended_at("svc-0", 3, "")));
    bench.wait_for_nothing_but_marked(&name).await;
    let job = bench.gitlab.job(7);
    let text = job.text();
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words:?} is not in {text}"));
    let order = [
        place(":services[collapsed=true]\r\x1b[0K\x1b[0K\x1b[36;1mLogs of services"),
        place("\x1b[0;90m[service:postgres-db] the password is p-[MASKED]\x1b[0;m\n"),
        place("\x1b[0;90m[service:redis] every line of it"),
        place("more than 500 KiB of service redis: the rest is left out"),
        place("section_end:"),
        place("WARNING: service postgres-db (container svc-0) ended before the job did: exit code 5\x1b[0;m\n"),
        place(SUCCEEDED),
    ];
    assert!(order.is_sorted() && text.ends_with(SUCCEEDED), "{order:?}");
    assert!(text.len() < 1024 * 1024 && !text.contains("hunter22"), "{} bytes", text.len());
    assert_eq!(job.last().unwrap().state, "success");
    manager.stop().await;
}

#[tokio::test]
async fn logs_that_cannot_be_read_are_said_to_be_missing() {
    let bench = Bench::start().await;
    bench.access.deny("get", "pods/log", "default");
    let manager = bench.manager(2, "");
    bench.gitlab.offer(with_services(7, "1"));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.set_status(&name, left("success", container("svc-0", json!({"running": {}}))));
    bench.wait_for_nothing_but_marked(&name).await;
    let text = bench.gitlab.job(7).text();
    let expected = "logs of service redis are not shown: the manager may not read them, which needs the verb get on pods/log";
    assert!(text.contains(expected) && text.ends_with(SUCCEEDED), "{text}");
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_comes_later_shows_the_logs_all_the_same() {
    let bench = Bench::start().await;
    bench.logs.set("svc-0", &b"2026-01-01T00:00:01.000000000Z ready\n"[..]);
    let manager = bench.manager(2, "");
    bench.gitlab.offer(with_services(7, "true"));
    let name = bench.wait_for_pod(7).await;
    manager.kill().await;
    bench.set_status(&name, left("success", container("svc-0", json!({"running": {}}))));
    let manager = bench.manager(2, "");
    bench.wait_for_nothing_but_marked(&name).await;
    let text = bench.gitlab.job(7).text();
    assert_eq!(text.matches("[service:postgres-db] ready").count(), 1, "{text}");
    assert!(text.ends_with(SUCCEEDED), "{text}");
    manager.stop().await;
}

#[tokio::test]
async fn a_service_gets_a_password_of_a_masked_variable_by_the_plan_and_not_in_the_pod() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(with_services(7, "false"));
    let name = bench.wait_for_pod(7).await;
    let pod = bench.store.get(Kind::Pod, "default", &name).unwrap();
    assert!(!pod.to_string().contains("hunter22"));
    let service = pod["spec"]["containers"].as_array().unwrap().iter().find(|one| one["name"] == "svc-0").unwrap();
    let password = service["env"].as_array().unwrap().iter().find(|one| one["name"] == "PASSWORD").unwrap();
    let place = &password["valueFrom"]["secretKeyRef"];
    let secret = bench.store.get(Kind::Secret, "default", place["name"].as_str().unwrap()).unwrap();
    let value = secret["data"][place["key"].as_str().unwrap()].as_str().unwrap();
    assert_eq!(value, "cC1odW50ZXIyMg==", "p-hunter22 in base64");
    manager.stop().await;
}
