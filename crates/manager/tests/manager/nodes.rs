//! Nodes that are drained, lost, short of something or gone: before the script of a job, and after it has begun.

use crate::bench::{Bench, container, payload, reported, running, until};
use kube_server::Kind;
use serde_json::{Value, json};
use std::time::Duration;

fn started() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

/// The image of the build container is on its way.
fn pulling() -> Value {
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [container("helper", started()), container("build", waiting)]})
}

/// Who takes pods away, in the words of Kubernetes.
const TAKERS: [(&str, &str); 5] = [
    ("EvictionByEvictionAPI", "Eviction API: evicting"),
    ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
    ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
    ("DeletionByPodGC", "PodGC: node no longer exists"),
    ("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown."),
];

#[tokio::test]
async fn a_pod_that_is_taken_away_before_the_script_is_made_again_whoever_took_it() {
    let bench = Bench::start().await;
    let manager = bench.manager(5, "");
    for (id, (reason, message)) in (1..).zip(TAKERS) {
        bench.gitlab.offer(payload(id));
        let first = bench.wait_for_pod(id).await;
        bench.set_status(&first, pulling());
        bench.mark_deleted(&first, reason, message);
        bench.end_pod(&first);
        let second = bench.wait_for_attempt(id, 2).await;
        let text = bench.gitlab.job(id).text();
        assert!(text.contains(message) && text.contains("Attempt #2: trying with another pod"), "{text}");
        bench.set_status(&second, running());
        bench.set_status(&second, reported());
    }
    bench.wait_for_nothing().await;
    assert!((1..=5).all(|id| bench.gitlab.job(id).finals() == 0));
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_taken_away_after_the_script_has_begun_fails_its_job_with_the_cause() {
    let bench = Bench::start().await;
    let manager = bench.manager(5, "");
    for (id, (reason, message)) in (1..).zip(TAKERS) {
        bench.gitlab.offer(payload(id));
        let name = bench.wait_for_pod(id).await;
        bench.set_status(&name, running());
        bench.mark_deleted(&name, reason, message);
        bench.end_pod(&name);
        until("the report", || bench.gitlab.job(id).finals() == 1).await;
        let (text, last) = (bench.gitlab.job(id).text(), bench.gitlab.job(id).last().unwrap());
        assert_eq!(last.failure_reason.as_deref(), Some("runner_system_failure"));
        assert!(text.contains("was deleted while the job ran") && text.contains(message), "{text}");
        assert!(!text.contains("Attempt"), "{text}");
    }
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_node_short_of_disk_ends_its_pods_with_its_own_words() {
    let message = "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi.";
    let killed = json!({"terminated": {"exitCode": 137, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z"}});
    for (reason, has_begun) in [("Evicted", false), ("Evicted", true), ("Terminated", false), ("Terminated", true)] {
        let bench = Bench::start().await;
        let manager = bench.manager(2, "");
        bench.gitlab.offer(payload(7));
        let first = bench.wait_for_pod(7).await;
        let build = if has_begun { killed.clone() } else { json!({"waiting": {"reason": "ContainerCreating"}}) };
        let containers = [container("helper", killed.clone()), container("build", build)];
        bench.set_status(
            &first,
            json!({"phase": "Failed", "reason": reason, "message": message, "containerStatuses": containers}),
        );
        bench.let_go(&first).await;
        if !has_begun {
            let second = bench.wait_for_attempt(7, 2).await;
            bench.set_status(&second, reported());
        }
        bench.wait_for_nothing().await;
        let job = bench.gitlab.job(7);
        assert!(job.text().contains("low on resource: ephemeral-storage"), "{}", job.text());
        let told = job.last().and_then(|last| last.failure_reason);
        assert_eq!(told.as_deref(), has_begun.then_some("runner_system_failure"));
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_refuses_a_pod_at_its_door_is_no_end_of_the_job() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let first = bench.wait_for_pod(7).await;
    bench
        .set_status(&first, json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}));
    bench.let_go(&first).await;
    let second = bench.wait_for_attempt(7, 2).await;
    bench.set_status(&second, reported());
    bench.wait_for_nothing().await;
    assert!(bench.gitlab.job(7).text().contains("OutOfcpu"), "{}", bench.gitlab.job(7).text());
    manager.stop().await;
}

/// The pod has a node, whose kubelet is dead.
fn give_to_a_dead_node(bench: &Bench, pod: &str) {
    let given = bench.store.update(Kind::Pod, "default", pod, |pod| {
        pod["spec"]["nodeName"] = json!("node-1");
        Ok(())
    });
    given.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_node_never_took_it_up_is_made_again_once_it_is_gone() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let first = bench.wait_for_pod(7).await;
    give_to_a_dead_node(&bench, &first);
    // Gone with the node's own object.
    bench.let_go(&first).await;
    let second = bench.wait_for_attempt(7, 2).await;
    let text = bench.gitlab.job(7).text();
    assert!(text.contains("its node node-1 does not answer") && text.contains("Attempt #2"), "{text}");
    bench.set_status(&second, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_pod_of_a_dead_node_may_still_run_there_is_no_second_one() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    give_to_a_dead_node(&bench, &name);
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    assert_eq!(bench.names(Kind::Pod), std::slice::from_ref(&name));
    let (text, last) = (bench.gitlab.job(7).text(), bench.gitlab.job(7).last().unwrap());
    assert_eq!(last.failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(text.contains("does not go away: its node node-1 does not answer"), "{text}");
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_without_its_kubelet_as_long_as_its_log_grows() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.mark_deleted(&name, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        bench.gitlab.with_job(7, |job| job.trace.extend_from_slice(b"still here\n"));
        assert_eq!(bench.gitlab.job(7).finals(), 0);
    }
    // Nothing is heard any more.
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(bench.gitlab.job(7).last().unwrap().failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(bench.gitlab.job(7).text().contains("NoExecute taint"), "{}", bench.gitlab.job(7).text());
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    manager.stop().await;
}
