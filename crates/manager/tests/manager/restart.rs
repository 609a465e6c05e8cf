//! A manager that ends at any step, and one that goes on.

use crate::bench::{Bench, payload, pod, reported, running, until};
use crate::janitor::renew;
use kube_server::Kind;
use serde_json::json;

#[tokio::test]
async fn a_running_job_is_left_alone_by_the_stop_and_gone_on_with_by_the_next_manager() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    manager.stop().await;
    assert_eq!((bench.names(Kind::Pod).len(), bench.names(Kind::Secret).len()), (1, 1));
    let manager = bench.manager(2, "");
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).updates.len(), 1, "confirmed once, reported by the agent");
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_went_away_while_no_manager_was_there_is_told() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    bench.end_pod(&name);
    let manager = bench.manager(2, "");
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert!(job.text().contains("was deleted while the job ran"), "{}", job.text());
    assert_eq!(job.finals(), 1);
    manager.stop().await;
}

/// Leaves a job stored, perhaps confirmed, without a pod.
async fn stored(bench: &Bench) {
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    bench.end_pod(&name);
    let back = bench.store.update(Kind::Secret, "default", &format!("{name}-plan"), |secret| {
        secret["metadata"]["annotations"] = json!({"gantry.dev/step": "stored"});
        Ok(())
    });
    back.unwrap();
}

#[tokio::test]
async fn a_stored_job_is_confirmed_and_launched_by_the_next_manager() {
    let bench = Bench::start().await;
    stored(&bench).await;
    let manager = bench.manager(2, "");
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    manager.stop().await;
}

#[tokio::test]
async fn a_stored_job_that_gitlab_has_given_to_somebody_else_is_forgotten() {
    for given_away in [true, false] {
        let bench = Bench::start().await;
        stored(&bench).await;
        bench.gitlab.with_job(7, |job| {
            // Either the token is refused, or it is good and the trace shows another writer.
            job.gone = given_away;
            job.trace.extend_from_slice(b"another runner\n");
        });
        let before = bench.gitlab.job(7).misplaced;
        let manager = bench.manager(2, "");
        if !given_away {
            // The writer may also have been a pod of ours that is gone: the plan stays until the job is over.
            until("a look at the trace", || bench.gitlab.job(7).misplaced > before).await;
            assert_eq!(bench.names(Kind::Secret).len(), 1);
            bench.gitlab.with_job(7, |job| (job.gone, job.status) = (true, "success".to_owned()));
        }
        bench.wait_for_nothing().await;
        assert_eq!((bench.gitlab.job(7).text().as_str(), bench.gitlab.job(7).finals()), ("another runner\n", 0));
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_stored_job_whose_trace_gitlab_does_not_show_yet_gets_no_pod_until_it_does() {
    for begun in [true, false] {
        let bench = Bench::start().await;
        stored(&bench).await;
        bench.gitlab.with_job(7, |job| {
            job.trace = if begun { b"another runner\n".to_vec() } else { Vec::new() };
            job.refuse_patches = 3;
        });
        let is_pod = |call: &&String| call.contains("POST") && call.contains("/pods") && !call.contains("dryRun");
        let pods = |bench: &Bench| bench.calls().iter().filter(is_pod).count();
        let (before, looks) = (pods(&bench), bench.gitlab.job(7).misplaced);
        let manager = bench.manager(2, "");
        until("a look at the trace", || bench.gitlab.job(7).misplaced > looks).await;
        if begun {
            bench.gitlab.with_job(7, |job| (job.gone, job.status) = (true, "success".to_owned()));
        } else {
            let name = bench.wait_for_pod(7).await;
            bench.set_status(&name, reported());
        }
        bench.wait_for_nothing().await;
        assert_eq!((pods(&bench) > before, bench.gitlab.job(7).refuse_patches), (!begun, 0));
        manager.stop().await;
    }
}

#[tokio::test]
async fn leftovers_without_a_partner_are_swept_and_nothing_of_others_is_touched() {
    let bench = Bench::start().await;
    // Of a manager that is gone a pod without a plan is a leftover as well.
    renew(&bench, "s_other", 0);
    let labels = |owner: &str| json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": owner});
    let object = |name: &str, owner: &str| json!({"metadata": {"name": name, "labels": labels(owner)}, "spec": {"containers": [{"name": "build", "image": "x"}]}});
    for (name, owner) in [("mine", "s_test"), ("theirs", "s_other")] {
        bench.store.create(Kind::Pod, "default", object(name, owner)).unwrap();
        let part = json!({"metadata": {"name": format!("{name}-plan-1"), "labels": labels(owner)}, "data": {"plan.1": "eA=="}});
        bench.store.create(Kind::Secret, "default", part).unwrap();
    }
    let unlabelled = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "build", "image": "x"}]}});
    bench.store.create(Kind::Pod, "default", unlabelled).unwrap();
    let manager = bench.manager(2, "");
    until("the sweep", || bench.names(Kind::Pod) == ["theirs"] && bench.names(Kind::Secret) == ["theirs-plan-1"]).await;
    assert!(bench.store.get(Kind::Pod, "default", "user").is_ok());
    manager.stop().await;
}

#[tokio::test]
async fn a_plan_left_by_an_older_hand_out_is_replaced() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    // Nothing was there at the start; then a Secret of ours stands in the way, as after a call whose answer was lost.
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    let labels = json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": "s_test", "gantry.dev/job-id": "7"});
    let old = json!({"metadata": {"name": format!("{}-plan", pod(7)), "labels": labels}, "data": {"plan.0": "eA=="}});
    bench.store.create(Kind::Secret, "default", old).unwrap();
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    assert!(bench.all(Kind::Secret).contains("plan.count"), "the plan is the new one");
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_ends_between_its_last_line_and_the_report_writes_no_second_line() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    bench.gitlab.with_job(7, |job| job.refuse_updates = true);
    bench.end_pod(&name);
    until("the last line", || bench.gitlab.job(7).text().contains("ERROR")).await;
    manager.kill().await;
    assert!(bench.all(Kind::Secret).contains("telling-0"));
    bench.gitlab.with_job(7, |job| job.refuse_updates = false);
    let manager = bench.manager(2, "");
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.text().matches("ERROR").count(), job.finals()), (1, 1), "{}", job.text());
    assert_eq!(job.last().unwrap().output.unwrap().bytesize, job.trace.len() as u64);
    manager.stop().await;
}

#[tokio::test]
async fn a_plan_of_several_secrets_is_stored_read_again_and_deleted_whole() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    let mut seed = 1u64;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + u8::try_from(seed >> 33 & 63).unwrap())
    });
    let mut large = payload(7);
    large["variables"] = json!([{"key": "BIG", "value": noise.take(3_000_000).collect::<String>(), "raw": true}]);
    bench.gitlab.offer(large);
    let name = bench.wait_for_pod(7).await;
    let secrets = bench.names(Kind::Secret);
    assert!(secrets.len() > 1 && secrets.contains(&format!("{name}-plan-1")), "{secrets:?}");
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    let manager = bench.manager(2, "");
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    manager.stop().await;
}
