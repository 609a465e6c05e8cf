//! Pods that are made again because no script of their job has run, and pods that are not.

use crate::bench::{Bench, container, payload, pod, reported, running, until};
use kube_server::Kind;
use serde_json::{Value, json};

const POLICIES: &str = "pull_policy = [\"always\", \"if-not-present\"]";

fn started() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

/// The helper is up, and silent; the build container is not.
fn unpulled() -> Value {
    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}});
    json!({"phase": "Pending", "containerStatuses": [container("helper", started()), container("build", waiting)]})
}

fn evicted() -> Value {
    let created = json!({"waiting": {"reason": "ContainerCreating"}});
    json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory", "containerStatuses": [container("build", created)]})
}

fn policy(bench: &Bench, name: &str) -> String {
    let pod = bench.store.get(Kind::Pod, "default", name).unwrap();
    pod["spec"]["containers"][1]["imagePullPolicy"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pod_that_cannot_pull_is_made_again_with_the_next_policy_and_after_the_last_the_job_fails() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, POLICIES);
    for (id, ends_well) in [(7, true), (8, false)] {
        bench.gitlab.offer(payload(id));
        let first = bench.wait_for_pod(id).await;
        assert_eq!(policy(&bench, &first), "Always");
        bench.set_status(&first, unpulled());
        bench.let_go(&first).await;
        let second = bench.wait_for_attempt(id, 2).await;
        assert_eq!((policy(&bench, &second).as_str(), bench.names(Kind::Pod).len()), ("IfNotPresent", 1));
        let text = bench.gitlab.job(id).text();
        let said = "WARNING: image pull failed: image alpine (container build): manifest unknown\u{1b}[0;m\nAttempt #2: trying with the next pull policy\n";
        assert!(text.contains(said), "{text}");
        bench.set_status(&second, if ends_well { running() } else { unpulled() });
        if ends_well {
            bench.set_status(&second, reported());
        } else {
            bench.let_go(&second).await;
        }
        bench.wait_for_nothing().await;
        let reason = bench.gitlab.job(id).last().and_then(|last| last.failure_reason.clone());
        assert_eq!(reason.as_deref(), (!ends_well).then_some("runner_configuration_error"));
    }
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_was_taken_away_before_it_began_is_made_again_twice_and_one_that_began_never() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let mut name = bench.wait_for_pod(7).await;
    for attempt in 2..=3 {
        bench.set_status(&name, evicted());
        bench.let_go(&name).await;
        name = bench.wait_for_attempt(7, attempt).await;
    }
    bench.set_status(&name, evicted());
    bench.let_go(&name).await;
    bench.wait_for_nothing().await;
    let text = bench.gitlab.job(7).text();
    assert!(text.contains("Attempt #3: trying with another pod") && text.contains("ERROR: Job failed"), "{text}");

    bench.gitlab.offer(payload(8));
    let name = bench.wait_for_pod(8).await;
    let mut begun = evicted();
    begun["containerStatuses"] = json!([container("build", started())]);
    bench.set_status(&name, begun);
    bench.let_go(&name).await;
    bench.wait_for_nothing().await;
    assert!(bench.gitlab.job(8).text().contains("evicted") && !bench.gitlab.job(8).text().contains("Attempt"));
    manager.stop().await;
}

#[tokio::test]
async fn a_build_container_that_comes_up_at_the_last_moment_is_the_last_one() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, POLICIES);
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, unpulled());
    until("the mark", || bench.all(Kind::Pod).contains("deletionTimestamp")).await;
    bench.set_status(&name, running());
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.finals(), bench.names(Kind::Pod).len()), (1, 0), "{}", job.text());
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_dies_between_two_pods_leaves_the_second_to_the_next_manager() {
    for pod_was_made in [false, true] {
        let bench = Bench::start().await;
        let manager = bench.manager(2, POLICIES);
        bench.gitlab.offer(payload(7));
        let first = bench.wait_for_pod(7).await;
        bench.set_status(&first, unpulled());
        until("the note", || bench.all(Kind::Secret).contains("again-2-1")).await;
        if pod_was_made {
            bench.let_go(&first).await;
            bench.wait_for_attempt(7, 2).await;
        }
        manager.kill().await;
        let manager = bench.manager(2, POLICIES);
        if !pod_was_made {
            bench.let_go(&first).await;
        }
        let second = bench.wait_for_attempt(7, 2).await;
        assert_eq!(policy(&bench, &second), "IfNotPresent");
        until("the step", || bench.all(Kind::Secret).contains("launched-2-1")).await;
        bench.set_status(&second, running());
        bench.set_status(&second, reported());
        bench.wait_for_nothing().await;
        assert_eq!(bench.gitlab.job(7).last(), None);
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_knows_no_volumes_that_are_images_is_met_once() {
    let bench = Bench::start().await;
    bench.pods.offer_image_volumes();
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let first = bench.wait_for_pod(7).await;
    let command = |name: &str| {
        let pod = bench.store.get(Kind::Pod, "default", name).unwrap();
        pod["spec"]["containers"][1]["command"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(command(&first), "/gantry-agent/usr/bin/gantry-agent");
    let waiting = json!({"waiting": {"reason": "CreateContainerError", "message": "failed to mkdir \"\""}});
    bench.set_status(
        &first,
        json!({"phase": "Pending", "containerStatuses": [container("helper", started()), container("build", waiting)]}),
    );
    bench.let_go(&first).await;
    let second = bench.wait_for_attempt(7, 2).await;
    assert_eq!(command(&second), "sh");
    bench.set_status(&second, reported());
    bench.wait_for_nothing().await;
    bench.gitlab.offer(payload(8));
    assert_eq!(command(&bench.wait_for_pod(8).await), "sh");
    manager.stop().await;
}

#[tokio::test]
async fn a_full_quota_is_waited_for_and_another_refusal_is_not() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "poll_timeout = 30");
    bench.pods.refuse_next("pods \"x\" is forbidden: exceeded quota: jobs, requested: pods=1, used: pods=1, limited: pods=1");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let text = bench.gitlab.job(7).text();
    assert!(text.contains("QuotaExceeded") && text.contains("exceeded quota: jobs"), "{text}");
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    bench.pods.refuse_next("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"");
    bench.gitlab.offer(payload(8));
    until("the report", || bench.gitlab.job(8).finals() == 1).await;
    assert!(bench.gitlab.job(8).text().contains("violates PodSecurity"), "{}", bench.gitlab.job(8).text());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_service_account_that_is_not_there_fails_the_job_with_its_name() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "service_account = \"no-such-account\"");
    // What the admission of a cluster says of the pod.
    bench.pods.refuse_next(
        "pods \"x\" is forbidden: error looking up service account default/no-such-account: serviceaccount \"no-such-account\" not found",
    );
    bench.gitlab.offer(payload(7));
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    let job = bench.gitlab.job(7);
    assert_eq!(job.last().unwrap().failure_reason.as_deref(), Some("runner_system_failure"));
    let text = job.text();
    assert!(text.contains("ERROR: Job failed (system failure): prepare environment: setting up build pod: "), "{text}");
    assert!(text.contains("serviceaccount \"no-such-account\" not found"), "{text}");
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_job_in_a_namespace_of_its_own_choice_is_found_by_the_next_manager() {
    let bench = Bench::start().await;
    bench.store.create(Kind::Namespace, "", json!({"metadata": {"name": "ci-x"}})).unwrap();
    let keys = "namespace_overwrite_allowed = \"^ci-\"";
    let manager = bench.manager(2, keys);
    let mut asking = payload(7);
    asking["variables"] = json!([{"key": "KUBERNETES_NAMESPACE_OVERWRITE", "value": "ci-x"}]);
    bench.gitlab.offer(asking);
    let there = || bench.store.get(Kind::Pod, "ci-x", &pod(7)).ok();
    until("the pod", || there().is_some()).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    let manager = bench.manager(2, keys);
    let uid = there().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    bench.store.remove(Kind::Pod, "ci-x", &pod(7), &uid);
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    until("an empty namespace", || !bench.all(Kind::Secret).contains("-plan")).await;
    manager.stop().await;
}
