//! Several managers with one configuration: who goes on with what one leaves, and that only one tells GitLab.

use crate::bench::{Bench, Running, ended, payload, pod, reported, running, until};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube_server::Kind;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ONE: &str = "s_one";
const TWO: &str = "s_two";

fn lease(bench: &Bench, name: &str) -> Option<Value> {
    bench.store.get(Kind::Lease, "default", name).ok().map(|lease| (*lease).clone())
}

fn owner_of(bench: &Bench, kind: Kind, name: &str) -> String {
    let object = bench.store.get(kind, "default", name).unwrap();
    object["metadata"]["labels"]["gantry.dev/owner"].as_str().unwrap().to_owned()
}

/// One manager that asks, and one with room for nothing but what it adopts.
async fn pair(bench: &Bench) -> (Running, Running) {
    let one = bench.replica(ONE, &bench.config(2, "", ""));
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    // It asks a GitLab that has no jobs, under the same address.
    let two = bench.replica(TWO, &bench.config(2, "", ""));
    until("the second Lease", || lease(bench, "gantry-s-two").is_some()).await;
    (one, two)
}

/// The manager that has a job, and the other one.
async fn with_job(bench: &Bench, id: u64) -> (Running, Running, String) {
    let (one, two) = pair(bench).await;
    bench.gitlab.offer(payload(id));
    bench.wait_for_pod(id).await;
    let plan = format!("{}-plan", pod(id));
    until("the note", || bench.all(Kind::Secret).contains("launched")).await;
    match owner_of(bench, Kind::Secret, &plan).as_str() {
        ONE => (one, two, "gantry-s-one".to_owned()),
        _ => (two, one, "gantry-s-two".to_owned()),
    }
}

#[tokio::test]
async fn a_running_job_of_a_manager_that_was_killed_is_adopted_and_cleaned_up() {
    let bench = Bench::start().await;
    let (one, two, its_lease) = with_job(&bench, 7).await;
    bench.set_status(&pod(7), running());
    one.kill().await;
    bench.end_lease(&its_lease);
    until_adopted(&bench, &its_lease).await;
    bench.set_status(&pod(7), reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).updates.len(), 1, "confirmed once, reported by the agent");
    two.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_is_expired_by_the_clock_of_who_looks() {
    // What time the others believe it is does not matter: ten minutes late, ten minutes early.
    let clocks = [-600, 600].map(|skew| async move {
        let bench = Bench::start().await;
        let manager = bench.replica(TWO, &bench.config(2, "", ""));
        until("the first question", || !bench.gitlab.requests().is_empty()).await;
        let time = |seconds: i64| {
            let time = Timestamp::now() + SignedDuration::from_secs(seconds);
            Value::String(time.to_string())
        };
        let spec = json!({"holderIdentity": "s_one/x", "leaseDurationSeconds": 30, "renewTime": time(skew)});
        let labels = json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": ONE});
        let alive = json!({"metadata": {"name": "gantry-s-one", "labels": labels}, "spec": spec});
        bench.store.create(Kind::Lease, "default", alive).unwrap();
        bench.gitlab.offer(payload(7));
        bench.wait_for_pod(7).await;
        until("the note", || bench.all(Kind::Secret).contains("launched")).await;
        manager.kill().await;
        // The job is the other's, who is alive as long as its Lease is renewed.
        for (kind, name) in [(Kind::Secret, format!("{}-plan", pod(7))), (Kind::Pod, pod(7))] {
            let given = bench.store.update(kind, "default", &name, |object| {
                object["metadata"]["labels"]["gantry.dev/owner"] = ONE.into();
                Ok(())
            });
            given.unwrap();
        }
        bench.set_status(&pod(7), running());
        let manager = bench.replica(TWO, &bench.config(2, "", ""));
        for round in 0..4 {
            let renewed = bench.store.update(Kind::Lease, "default", "gantry-s-one", |lease| {
                lease["spec"]["renewTime"] = time(skew + round);
                Ok(())
            });
            renewed.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(owner_of(&bench, Kind::Pod, &pod(7)), ONE, "its manager is alive");
        }
        // From now on nobody renews it.
        until_adopted(&bench, "gantry-s-one").await;
        bench.set_status(&pod(7), reported());
        bench.wait_for_nothing().await;
        manager.stop().await;
    });
    futures::future::join_all(clocks).await;
}

#[tokio::test]
async fn a_manager_that_is_killed_at_any_step_leaves_its_job_to_the_other_which_tells_once() {
    let verdict = json!({"state": "failed", "exit_code": 3, "failure_reason": "script_failure", "message": "exit code 3",
        "reported": false, "trace_bytes": 0});
    let steps = ["stored", "launched", "gone", "ended", "telling"].map(|step| {
        let verdict = verdict.clone();
        async move {
            let bench = Bench::start().await;
            let (one, two, its_lease) = with_job(&bench, 7).await;
            let name = pod(7);
            let note = |text: &str| {
                let noted = bench.store.update(Kind::Secret, "default", &format!("{name}-plan"), |secret| {
                    secret["metadata"]["annotations"] = json!({"gantry.dev/step": text});
                    Ok(())
                });
                noted.unwrap();
            };
            if step == "telling" {
                // Its last line stands there, its report does not come through.
                bench.gitlab.with_job(7, |job| job.refuse_updates = true);
                bench.set_status(&name, ended(&verdict));
                until("the last line", || bench.gitlab.job(7).text().contains("ERROR")).await;
            }
            one.kill().await;
            match step {
                "stored" => {
                    bench.end_pod(&name);
                    note("stored");
                }
                "gone" => bench.end_pod(&name),
                "ended" => bench.set_status(&name, ended(&verdict)),
                _ => {}
            }
            bench.gitlab.with_job(7, |job| job.refuse_updates = false);
            bench.end_lease(&its_lease);
            if ["stored", "launched"].contains(&step) {
                until("the other", || {
                    let plan = bench.store.get(Kind::Secret, "default", &format!("{name}-plan")).unwrap();
                    let adopted = !its_lease.ends_with(&plan["metadata"]["labels"]["gantry.dev/owner"].as_str().unwrap()[2..]);
                    adopted && plan["metadata"]["annotations"]["gantry.dev/step"] == "launched"
                })
                .await;
                bench.set_status(&name, reported());
            }
            bench.wait_for_nothing().await;
            let job = bench.gitlab.job(7);
            let (finals, lines) = if ["stored", "launched"].contains(&step) { (0, 0) } else { (1, 1) };
            let told = (job.finals(), job.text().matches("ERROR").count());
            assert_eq!(told, (finals, lines), "{step}: {}", job.text());
            two.stop().await;
        }
    });
    futures::future::join_all(steps).await;
}

#[tokio::test]
async fn of_two_managers_that_believe_they_own_a_job_one_tells_and_the_other_notices() {
    let bench = Bench::start().await;
    let (one, two, its_lease) = with_job(&bench, 7).await;
    bench.set_status(&pod(7), running());
    // One is cut off from the cluster and goes on believing; its Lease expires for the other.
    one.set_api_away(true);
    until_adopted(&bench, &its_lease).await;
    // Both learn of the end in the same instant.
    bench.end_pod(&pod(7));
    one.set_api_away(false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.finals(), job.text().matches("ERROR").count()), (1, 1), "{}", job.text());
    // Both go on: the next jobs are shared between them.
    bench.gitlab.offer(payload(8));
    bench.wait_for_pod(8).await;
    bench.set_status(&pod(8), reported());
    bench.wait_for_nothing().await;
    one.stop().await;
    two.stop().await;
}

/// Waits until a Lease expires and the job of its manager is another's.
async fn until_adopted(bench: &Bench, its_lease: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while its_lease.ends_with(&owner_of(bench, Kind::Pod, &pod(7))[2..]) {
        assert!(std::time::Instant::now() < deadline, "nobody adopted the job");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_manager_that_told_gitlab_nothing_before_its_lease_expired_tells_nothing_after() {
    let bench = Bench::start().await;
    let (one, two, its_lease) = with_job(&bench, 7).await;
    // It has noted that it tells, and GitLab takes nothing; then it is cut off.
    bench.gitlab.with_job(7, |job| job.refuse_updates = true);
    let verdict = json!({"state": "failed", "failure_reason": "script_failure", "message": "exit code 3", "reported": false});
    bench.set_status(&pod(7), ended(&verdict));
    until("the last line", || bench.gitlab.job(7).text().contains("ERROR")).await;
    one.set_api_away(true);
    until_adopted(&bench, &its_lease).await;
    bench.gitlab.with_job(7, |job| job.refuse_updates = false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.finals(), job.text().matches("ERROR").count()), (1, 1), "{}", job.text());
    one.kill().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_gitlab_puts_off_is_not_sent_by_a_manager_that_lost_the_job_meanwhile() {
    let bench = Bench::start().await;
    let (one, two, _) = with_job(&bench, 7).await;
    bench.gitlab.with_job(7, |job| job.put_off = Some(120));
    let verdict = json!({"state": "failed", "failure_reason": "script_failure", "message": "exit code 3", "reported": false});
    bench.set_status(&pod(7), ended(&verdict));
    until("the report", || bench.gitlab.job(7).reports == 1).await;
    one.set_api_away(true);
    // Its Lease expires, and the other one adopts the job, tells and cleans up.
    tokio::time::sleep(Duration::from_secs(100)).await;
    bench.wait_for_nothing().await;
    assert_eq!((bench.gitlab.job(7).reports, bench.gitlab.job(7).finals()), (2, 1));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.gitlab.job(7).reports, 2, "the first manager's wait is over, and the job is not its own");
    one.kill().await;
    two.stop().await;
}

#[tokio::test]
async fn of_two_processes_with_one_system_id_the_older_lets_go_and_ends_when_the_newer_is_gone() {
    let bench = Bench::start().await;
    let older = bench.replica(ONE, &bench.config(2, "", ""));
    bench.gitlab.offer(payload(7));
    bench.wait_for_pod(7).await;
    until("the note", || bench.all(Kind::Secret).contains("launched")).await;
    bench.set_status(&pod(7), running());
    let newer = bench.replica(ONE, &bench.config(2, "", ""));
    let holder = || lease(&bench, "gantry-s-one").unwrap()["spec"]["holderIdentity"].clone();
    let first = holder();
    until("the newer to take over", || holder() != first).await;
    let renewals =
        |manager: &Running| manager.calls().iter().filter(|call| call.contains("PATCH") && call.contains("/leases/")).count();
    let before = renewals(&older);
    until("the older to notice", || renewals(&older) > before).await;
    until("the older to let go", || bench.gitlab.open_requests() == 1).await;
    assert!(!older.has_ended(), "it waits for the other to go");
    bench.set_status(&pod(7), reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).updates.len(), 1);
    newer.stop().await;
    let error = older.end().await.unwrap_err();
    assert_eq!(error.to_string(), "another manager had system id \"s_one\" and is gone: this one may start again");
}

#[tokio::test]
async fn a_job_that_gitlab_hands_out_again_while_another_has_it_is_dropped() {
    let bench = Bench::start().await;
    let (one, two, _) = with_job(&bench, 7).await;
    let before = bench.gitlab.job(7).updates.len();
    let asked = bench.gitlab.requests().len();
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    bench.wait_for_pod(8).await;
    until("more questions", || bench.gitlab.requests().len() > asked + 1).await;
    assert_eq!(bench.gitlab.job(7).updates.len(), before, "nobody confirms it a second time");
    for id in [7, 8] {
        bench.set_status(&pod(id), reported());
    }
    bench.wait_for_nothing().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn plans_of_entries_that_are_not_configured_are_left_to_others() {
    let bench = Bench::start().await;
    let one = bench.replica(ONE, &bench.config(2, "", ""));
    bench.gitlab.offer(payload(7));
    bench.wait_for_pod(7).await;
    until("the note", || bench.all(Kind::Secret).contains("launched")).await;
    one.stop().await;
    assert_eq!(lease(&bench, "gantry-s-one"), None, "a stop gives the Lease back");
    let other = bench.config(2, "", "").replace("glrt-secretrunnertoken", "glrt-anotherrunner");
    let two = bench.replica(TWO, &other);
    until("a look", || two.calls().iter().filter(|call| call.contains("/secrets?")).count() > 3).await;
    assert_eq!(owner_of(&bench, Kind::Pod, &pod(7)), ONE);
    // One that has the entry finds it at its start, without waiting for anything.
    let three = bench.replica("s_three", &bench.config(2, "", ""));
    until("the pod to be adopted", || owner_of(&bench, Kind::Pod, &pod(7)) == "s_three").await;
    bench.set_status(&pod(7), reported());
    bench.wait_for_nothing().await;
    two.stop().await;
    three.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_manager_without_jobs_costs_twelve_requests_a_minute() {
    let bench = Arc::new(Bench::start().await);
    let manager = bench.idle(ONE);
    let minute = Duration::from_secs(60);
    tokio::time::sleep(minute / 2).await;
    let before = manager.calls().len();
    // Short of the next look.
    tokio::time::sleep(minute * 4).await;
    let calls = manager.calls().split_off(before);
    let leases = calls.iter().filter(|call| call.contains("/leases")).count();
    assert_eq!((leases, calls.len() - leases), (48, 0), "{calls:?}");
    manager.stop().await;
}

#[tokio::test]
async fn a_plan_whose_adopter_crashed_half_way_is_completed() {
    let bench = Bench::start().await;
    let one = bench.replica(ONE, &bench.config(2, "", ""));
    let mut seed = 1u64;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + u8::try_from(seed >> 33 & 63).unwrap())
    });
    let mut large = payload(7);
    large["variables"] = json!([{"key": "BIG", "value": noise.take(2_000_000).collect::<String>(), "raw": true}]);
    bench.gitlab.offer(large);
    let name = bench.wait_for_pod(7).await;
    until("the note", || bench.all(Kind::Secret).contains("launched")).await;
    one.kill().await;
    bench.set_status(&name, running());
    assert!(bench.names(Kind::Secret).len() > 1);
    // The second manager had the first part of the plan, and crashed.
    let taken = bench.store.update(Kind::Secret, "default", &format!("{name}-plan"), |secret| {
        secret["metadata"]["labels"]["gantry.dev/owner"] = TWO.into();
        Ok(())
    });
    taken.unwrap();
    let two = bench.replica(TWO, &bench.config(2, "", ""));
    until("the rest", || {
        let secrets = bench.names(Kind::Secret);
        owner_of(&bench, Kind::Pod, &name) == TWO && secrets.iter().all(|part| owner_of(&bench, Kind::Secret, part) == TWO)
    })
    .await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    two.stop().await;
}

#[tokio::test]
async fn shared_limits_are_for_all_replicas_together_and_grow_when_one_goes() {
    let bench = Bench::start().await;
    let config = bench.config(3, "", "") + "[gantry]\nshared_limits = true\n";
    let one = bench.replica(ONE, &config);
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    let two = bench.replica(TWO, &config);
    until("the second Lease", || lease(&bench, "gantry-s-two").is_some()).await;
    let looks = || one.calls().iter().filter(|call| call.starts_with("GET") && call.contains("/leases?")).count();
    let before = looks();
    until("the first to see the second", || looks() > before).await;
    for id in 1..=5 {
        bench.gitlab.offer(payload(id));
    }
    until("three pods", || bench.names(Kind::Pod).len() == 3).await;
    until("nobody to ask", || bench.gitlab.open_requests() == 0).await;
    assert_eq!(bench.names(Kind::Pod).len(), 3);
    let of_one = bench.names(Kind::Pod).iter().filter(|name| owner_of(&bench, Kind::Pod, name) == ONE).count();
    assert_eq!(of_one, 2, "who comes first gets what is left over");
    two.stop().await;
    for id in 1..=5 {
        bench.wait_for_pod(id).await;
        bench.set_status(&pod(id), reported());
    }
    bench.wait_for_nothing().await;
    one.stop().await;
}
