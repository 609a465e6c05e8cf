//! Configurations that take the place of others while jobs run.

use crate::bench::front::Front;
use crate::bench::{Bench, container, payload, reported, running, until};
use kube_server::Kind;
use serde_json::json;
use std::path::Path;

#[tokio::test]
async fn a_rotated_token_is_asked_with_at_once_and_running_jobs_go_on() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    until("a question with the first token", || bench.gitlab.requests().len() > 1).await;
    manager.change(&bench.config(2, "", "").replace("secretrunnertoken", "anothertoken")).await;
    let tokens = || bench.gitlab.requests().into_iter().map(|request| request.token).collect::<Vec<_>>();
    until("a question with the new token", || tokens().last().is_some_and(|token| token == "glrt-anothertoken")).await;
    assert_eq!(tokens().iter().filter(|token| *token == "glrt-secretrunnertoken").count(), 2);
    bench.gitlab.offer(payload(8));
    let second = "runner-anothert-project-5-8";
    until("the next job's pod", || bench.names(Kind::Pod).contains(&second.to_owned())).await;
    assert!(bench.names(Kind::Pod).contains(&name));
    for pod in [&name, second] {
        bench.set_status(pod, reported());
    }
    bench.wait_for_nothing().await;
    assert_eq!((bench.gitlab.job(7).finals(), bench.gitlab.job(8).finals()), (0, 0));
    manager.stop().await;
}

#[tokio::test]
async fn a_setting_takes_effect_for_the_next_job_without_another_question() {
    let bench = Bench::start().await;
    let manager = bench.manager(4, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the next question", || bench.gitlab.open_requests() == 1 && bench.gitlab.requests().len() == 2).await;
    manager.change(&bench.config(4, "", "cpu_request = \"100m\"")).await;
    bench.gitlab.offer(payload(8));
    let second = bench.wait_for_pod(8).await;
    assert!(bench.gitlab.requests().len() <= 3, "the open question brought the job");
    let build = |name: &str| bench.store.get(Kind::Pod, "default", name).unwrap()["spec"]["containers"][1].clone();
    assert_eq!(build(&second)["resources"]["requests"]["cpu"], "100m");
    assert!(build(&name)["resources"]["requests"]["cpu"].is_null());
    for pod in [&name, &second] {
        bench.set_status(pod, reported());
    }
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_made_again_after_a_change_follows_the_configuration_of_its_job() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "cpu_request = \"100m\"");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    manager.change(&bench.config(2, "", "cpu_request = \"200m\"")).await;
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    bench.set_status(&name, json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": [container("build", waiting)]}));
    bench.let_go(&name).await;
    let second = bench.wait_for_attempt(7, 2).await;
    let pod = bench.store.get(Kind::Pod, "default", &second).unwrap();
    assert_eq!(pod["spec"]["containers"][1]["resources"]["requests"]["cpu"], "100m");
    bench.set_status(&second, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn more_and_less_room_takes_effect_while_jobs_run() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "");
    for id in 1..=4 {
        bench.gitlab.offer(payload(id));
    }
    let first = bench.wait_for_pod(1).await;
    manager.change(&bench.config(3, "", "")).await;
    let third = bench.wait_for_pod(3).await;
    for name in bench.names(Kind::Pod) {
        bench.set_status(&name, running());
    }
    manager.change(&bench.config(1, "", "")).await;
    for pod in [&first, &third] {
        bench.set_status(pod, reported());
    }
    until("one pod", || bench.names(Kind::Pod).len() == 1).await;
    assert_eq!(bench.gitlab.requests().len(), 3, "one job runs, and there is room for one");
    bench.set_status(&bench.names(Kind::Pod)[0], reported());
    let fourth = bench.wait_for_pod(4).await;
    bench.set_status(&fourth, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn an_entry_that_is_taken_away_is_asked_for_no_more_and_its_job_ends_as_it_began() {
    let bench = Bench::start().await;
    let both = [bench.config(4, "", ""), bench.entry(("second", "second"), "", "")].concat();
    let manager = bench.manager_with(&both);
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    until("both pods", || bench.names(Kind::Pod).len() == 2).await;
    until("both questions", || bench.gitlab.open_requests() == 2).await;
    manager.change(&bench.config(4, "", "")).await;
    until("one question", || bench.gitlab.open_requests() == 1).await;
    for name in bench.names(Kind::Pod) {
        bench.end_pod(&name);
    }
    bench.wait_for_nothing().await;
    assert_eq!((bench.gitlab.job(7).finals(), bench.gitlab.job(8).finals()), (1, 1), "the manager told the end of both");
    manager.change(&both).await;
    until("both questions again", || bench.gitlab.open_requests() == 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_configuration_for_a_namespace_that_is_not_there_changes_nothing() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    manager.change(&bench.config(2, "", "namespace = \"nowhere\"")).await;
    until("the look", || bench.calls().iter().any(|call| call.contains("/namespaces/nowhere/"))).await;
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_namespace_that_no_entry_names_any_more_is_looked_into_at_the_next_start() {
    let bench = Bench::start().await;
    bench.store.create(Kind::Namespace, "", json!({"metadata": {"name": "ci"}})).unwrap();
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.change(&bench.config(2, "", "namespace = \"ci\"")).await;
    until("the note", || bench.all(Kind::Secret).contains("gantry-s-test-namespaces")).await;
    manager.kill().await;
    let manager = bench.manager(2, "namespace = \"ci\"");
    bench.set_status(&name, running());
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_change_comes_through_while_the_manager_still_waits_for_its_cluster() {
    let bench = Bench::start().await;
    bench.set_api_away(true);
    let manager = bench.manager(2, "");
    until("a few tries", || bench.calls().len() > 3).await;
    manager.change(&bench.config(2, "", "").replace("secretrunnertoken", "anothertoken")).await;
    bench.set_api_away(false);
    until("a question", || !bench.gitlab.requests().is_empty()).await;
    assert_eq!(bench.gitlab.requests()[0].token, "glrt-anothertoken");
    manager.stop().await;
}

#[tokio::test]
async fn the_end_of_a_running_job_is_told_to_a_gitlab_whose_authority_was_replaced() {
    let bench = Bench::start().await;
    let (front, authority) = Front::start(bench.gitlab.address()).await;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("replaced.pem");
    std::fs::write(&file, authority).unwrap();
    let config = bench.config(2, &format!("tls-ca-file = {file:?}"), "").replace(&bench.gitlab.url(), &front.url());
    let manager = bench.manager_with(&config);
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    let authority = front.replace();
    bench.end_pod(&name);
    std::fs::write(&file, authority).unwrap();
    manager.change(&config).await;
    until("the report", || bench.gitlab.job(7).finals() == 1).await;
    bench.gitlab.offer(payload(8));
    let second = bench.wait_for_pod(8).await;
    bench.set_status(&second, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_gitlab_whose_name_nobody_knows_is_asked_again_and_again_until_it_has_another() {
    let bench = Bench::start().await;
    let config = bench.config(2, "", "");
    let manager = bench.manager_with(&config.replace(&bench.gitlab.url(), "http://gitlab.invalid"));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    manager.change(&config).await;
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}
