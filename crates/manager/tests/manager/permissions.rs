//! What the manager may do: asked for once at the start, and nothing beyond it ever done.

use crate::bench::{Bench, payload, pod, reported, running, until};
use axum::http::StatusCode;
use kube_server::Kind;
use manager::permissions::NEEDED;
use serde_json::json;
use std::collections::BTreeSet;

fn needed() -> Vec<(&'static str, &'static str)> {
    NEEDED.iter().flat_map(|rule| rule.verbs.iter().map(|verb| (*verb, rule.resource))).collect()
}

#[tokio::test]
async fn each_missing_permission_is_named_at_the_start_and_no_job_is_asked_for() {
    for (verb, resource) in needed() {
        let bench = Bench::start().await;
        bench.access.deny(verb, resource, "ci");
        let error = bench.manager(2, "namespace = \"ci\"").end().await.unwrap_err();
        assert_eq!(error.to_string(), format!("the service account may not {verb} {resource} in namespace ci"));
        assert_eq!((bench.gitlab.requests().len(), bench.access.done().len()), (0, 0));
    }
}

#[tokio::test]
async fn every_permission_is_asked_for_once_in_each_namespace_and_all_that_are_missing_are_named() {
    let bench = Bench::start().await;
    bench.access.deny("watch", "pods", "two");
    bench.access.deny("patch", "secrets", "one");
    let other = format!(
        "namespace = \"one\"\n[[runners]]\nname = \"two\"\nurl = \"{}\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n\
         [runners.kubernetes]\nnamespace = \"two\"",
        bench.gitlab.url()
    );
    let error = bench.manager(2, &other).end().await.unwrap_err().to_string();
    let expected =
        "the service account may not patch secrets in namespace one; the service account may not watch pods in namespace two";
    assert_eq!(error, expected);
    let mut asked = bench.access.reviewed();
    asked.sort();
    let mut expected = Vec::new();
    for namespace in ["one", "two"] {
        expected
            .extend(needed().into_iter().map(|(verb, resource)| (verb.to_owned(), resource.to_owned(), namespace.to_owned())));
    }
    expected.sort();
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn each_entry_puts_its_pods_into_its_own_cluster_and_a_missing_permission_names_the_cluster() {
    let (one, two) = (Bench::start().await, Bench::start().await);
    let manager = one.manager_of_two(&two);
    // Both entries ask the same GitLab with room for one job each: two jobs meet both clusters.
    until("both requests", || one.gitlab.open_requests() == 2).await;
    one.gitlab.offer(payload(7));
    one.gitlab.offer(payload(8));
    until("a pod in each cluster", || one.names(Kind::Pod).len() == 1 && two.names(Kind::Pod).len() == 1).await;
    for bench in [&one, &two] {
        for name in bench.names(Kind::Pod) {
            bench.set_status(&name, reported());
        }
    }
    one.wait_for_nothing().await;
    two.wait_for_nothing().await;
    manager.stop().await;
    two.access.deny("watch", "pods", "default");
    let error = one.manager_of_two(&two).end().await.unwrap_err();
    assert_eq!(error.to_string(), "the service account may not watch pods in namespace default of cluster b");
}

#[tokio::test]
async fn a_cluster_that_does_not_know_such_questions_does_not_hold_the_manager_up() {
    for status in [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::NOT_IMPLEMENTED, StatusCode::OK] {
        let bench = Bench::start().await;
        bench.access.do_not_review(status, usize::MAX);
        let manager = bench.manager(2, "");
        until("the first question", || !bench.gitlab.requests().is_empty()).await;
        manager.stop().await;
        assert_eq!(bench.access.reviewed().len(), needed().len(), "{status}");
    }
}

#[tokio::test]
async fn a_cluster_in_trouble_is_asked_again_and_a_stop_ends_that() {
    let bench = Bench::start().await;
    bench.access.deny("list", "pods", "default");
    bench.access.do_not_review(StatusCode::SERVICE_UNAVAILABLE, 1);
    let error = bench.manager(2, "").end().await.unwrap_err();
    assert_eq!(error.to_string(), "the service account may not list pods in namespace default");

    let bench = Bench::start().await;
    bench.access.do_not_review(StatusCode::SERVICE_UNAVAILABLE, usize::MAX);
    let manager = bench.manager(2, "");
    until("a try", || !bench.access.reviewed().is_empty()).await;
    manager.stop().await;
    assert_eq!(bench.gitlab.requests().len(), 0);
}

/// The authorizer of every test in this program refuses what is not on the list; here is that nothing on it is too much.
#[tokio::test]
async fn the_manager_does_all_that_it_asks_for() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    // An ordinary job: secrets and pods are listed, watched, created, patched and deleted.
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    // A pod that is seen to go is looked for before it is believed.
    bench.set_status(&name, running());
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    // A plan that is there already is read before it is replaced.
    let labels = json!({"app.kubernetes.io/managed-by": "gantry", "gantry.dev/owner": "s_test", "gantry.dev/job-id": "8"});
    let plan = json!({"metadata": {"name": format!("{}-plan", pod(8)), "labels": labels}, "data": {}});
    bench.store.create(Kind::Secret, "default", plan).unwrap();
    bench.gitlab.offer(payload(8));
    let name = bench.wait_for_pod(8).await;
    // A process that takes over a Lease changes it, and one that adopts a pod does as well.
    until("the note", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    let again = bench.manager(2, "");
    until("the takeover", || again.calls().iter().any(|call| call.contains("PATCH") && call.contains("/leases/"))).await;
    until("a question", || again.calls().iter().any(|call| call.contains("watch=true"))).await;
    again.stop().await;
    let other = bench.replica("s_other", &bench.config(2, "", ""));
    until("the pod to be adopted", || bench.all(Kind::Pod).contains("s_other")).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    other.stop().await;
    let expected: BTreeSet<_> = needed().into_iter().map(|(verb, resource)| (verb.to_owned(), resource.to_owned())).collect();
    assert_eq!(bench.access.done(), expected);
}
