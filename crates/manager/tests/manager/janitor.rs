//! What crashes leave behind is found by label and age, in virtual time; nothing else is ever touched.

use crate::bench::Bench;
use kube_server::{DeleteOptions, Kind};
use serde_json::{Value, json};
use std::time::Duration;

const CONTAINERS: &str = r#"[{"name": "build", "image": "x"}]"#;

fn pod(bench: &Bench, name: &str, labels: Value) {
    let containers: Value = serde_json::from_str(CONTAINERS).unwrap();
    let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": containers}});
    bench.store.create(Kind::Pod, "default", pod).unwrap();
}

fn secret(bench: &Bench, name: &str, labels: Value) {
    let secret = json!({"metadata": {"name": name, "labels": labels}, "data": {"plan.1": "eA=="}});
    bench.store.create(Kind::Secret, "default", secret).unwrap();
}

fn ours(owner: &str) -> Value {
    json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": owner, "gantry.dev/job-id": "7"})
}

fn is_there(bench: &Bench, kind: Kind, name: &str) -> bool {
    bench.store.get(kind, "default", name).is_ok()
}

/// Renews the Lease of a manager that is not there; the first time makes it.
pub fn renew(bench: &Bench, owner: &str, round: u32) {
    let name = format!("gantry-{}", owner.replace('_', "-"));
    let labels = json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": owner});
    let spec = json!({"holderIdentity": format!("{owner}/x"), "leaseDurationSeconds": 30, "leaseTransitions": round});
    let lease = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
    if bench.store.create(Kind::Lease, "default", lease.clone()).is_err() {
        let renewed = bench.store.update(Kind::Lease, "default", &name, |there| {
            there["spec"] = lease["spec"].clone();
            Ok(())
        });
        renewed.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn leftovers_of_a_manager_that_is_gone_are_removed_by_age() {
    let bench = Bench::start().await;
    let manager = bench.idle("s_test");
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Nobody knows of `s_gone`; `s_dead` has a Lease that it does not renew.
    renew(&bench, "s_dead", 0);
    for owner in ["s_gone", "s_dead", "s_test"] {
        pod(&bench, &format!("of-{}", &owner[2..]), ours(owner));
        secret(&bench, &format!("of-{}-plan-1", &owner[2..]), ours(owner));
    }
    let left = |kind: Kind| bench.names(kind).len();
    // The look when a Lease has expired finds them, the next one finds them still there.
    tokio::time::sleep(Duration::from_secs(230)).await;
    assert_eq!((bench.names(Kind::Pod), left(Kind::Secret)), (vec!["of-test".to_owned()], 3), "the rest is too young");
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!((left(Kind::Pod), left(Kind::Secret)), (0, 0), "{:?}", bench.names(Kind::Pod));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.names(Kind::Lease), ["gantry-s-test"], "the Lease of who is gone goes last");
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_manager_that_goes_are_removed_at_once_when_they_have_no_plan() {
    let bench = Bench::start().await;
    renew(&bench, "s_alive", 0);
    let manager = bench.idle("s_test");
    tokio::time::sleep(Duration::from_secs(5)).await;
    for pod_name in ["of-alive", "with-plan"] {
        pod(&bench, pod_name, ours("s_alive"));
    }
    secret(&bench, "of-alive-plan-1", ours("s_alive"));
    let plan = json!({"metadata": {"name": "with-plan-plan", "labels": ours("s_alive")}, "data": {"plan.count": "MQ=="}});
    bench.store.create(Kind::Secret, "default", plan).unwrap();
    for round in 1..3 {
        renew(&bench, "s_alive", round);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(is_there(&bench, Kind::Pod, "of-alive"), "its manager is alive");
    bench.store.delete(Kind::Lease, "default", "gantry-s-alive", &DeleteOptions::default()).unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(bench.names(Kind::Pod), ["with-plan"]);
    assert_eq!(bench.names(Kind::Secret).len(), 2, "a part of a plan may come before its first one");
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_alive_what_has_no_label_of_ours_and_what_other_tools_made_is_never_touched() {
    let bench = Bench::start().await;
    let manager = bench.idle("s_test");
    pod(&bench, "of-alive", ours("s_alive"));
    secret(&bench, "of-alive-plan-1", ours("s_alive"));
    pod(&bench, "user", json!({}));
    secret(&bench, "user-plan-1", json!({"gantry.dev/owner": "s_gone", "gantry.dev/job-id": "7"}));
    // A job of GitLab Runner in the same namespace.
    pod(&bench, "runner-abcdefgh-project-5-concurrent-0-xyz", json!({"job.runner.gitlab.com/pod": "runner-abcdefgh"}));
    secret(&bench, "runner-abcdefgh-project-5-concurrent-0-xyz", json!({}));
    pod(&bench, "without-owner", json!({"app.kubernetes.io/managed-by": "gantry"}));
    pod(&bench, "of-another-tool", json!({"app.kubernetes.io/managed-by": "Helm", "gantry.dev/owner": "s_gone"}));
    for round in 0..180 {
        renew(&bench, "s_alive", round);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let all = ["of-alive", "user", "runner-abcdefgh-project-5-concurrent-0-xyz", "without-owner", "of-another-tool"];
    for name in all {
        assert!(is_there(&bench, Kind::Pod, name), "{name}");
    }
    for name in ["of-alive-plan-1", "user-plan-1", "runner-abcdefgh-project-5-concurrent-0-xyz"] {
        assert!(is_there(&bench, Kind::Secret, name), "{name}");
    }
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lacks_what_is_there_deletes_nothing_and_makes_nobody_gone() {
    let bench = Bench::start().await;
    let manager = bench.idle("s_test");
    tokio::time::sleep(Duration::from_secs(20)).await;
    pod(&bench, "of-alive", ours("s_alive"));
    secret(&bench, "of-alive-plan", ours("s_alive"));
    pod(&bench, "of-test", ours("s_test"));
    let plan = json!({"metadata": {"name": "of-test-plan", "labels": ours("s_test")}, "data": {"plan.count": "MQ=="}});
    bench.store.create(Kind::Secret, "default", plan).unwrap();
    for round in 0..120 {
        renew(&bench, "s_alive", round);
        for resource in ["leases", "secrets"] {
            bench.api.forget_at_next_list(resource);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!((bench.names(Kind::Pod).len(), bench.names(Kind::Secret).len()), (2, 2));
    manager.stop().await;
}
