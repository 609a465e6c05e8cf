//! A Kubernetes API that is away for a while.

use crate::bench::{Bench, payload, reported, running, until};
use kube_server::Kind;

#[tokio::test]
async fn a_job_is_not_declared_dead_while_the_api_is_away() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.set_api_away(true);
    // Whoever watches is cut off, and finds an API that answers nothing but errors.
    let before = bench.calls().len();
    until("a few tries", || bench.calls().len() > before + 3).await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    bench.set_status(&name, reported());
    bench.set_api_away(false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert!(job.last().is_none() && !job.text().contains("ERROR"), "{}", job.text());
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_starts_while_the_api_is_away_asks_for_no_job_until_it_is_back() {
    let bench = Bench::start().await;
    bench.set_api_away(true);
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    until("a few tries", || bench.calls().len() > 3).await;
    assert_eq!(bench.gitlab.requests().len(), 0);
    bench.set_api_away(false);
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_stored_is_not_confirmed_and_none_is_asked_for_meanwhile() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "");
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    bench.set_api_away(true);
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    until("the manager to give up", || bench.calls().iter().any(|call| call.contains("/secrets?") && call.contains("limit=1")))
        .await;
    assert_eq!((bench.gitlab.job(7).updates.len(), bench.gitlab.requests().len()), (0, 1));
    bench.set_api_away(false);
    let name = bench.wait_for_pod(8).await;
    assert_eq!(bench.names(Kind::Pod), [name]);
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_left_our_watch_with_its_label_is_left_alone() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "");
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    let adopted = bench.store.update(Kind::Pod, "default", &name, |pod| {
        pod["metadata"]["labels"]["gantry.dev/owner"] = "s_other".into();
        Ok(())
    });
    adopted.unwrap();
    // With room for one job, the second one's pod shows that the first is nobody's business here.
    bench.wait_for_pod(8).await;
    manager.stop().await;
    assert_eq!((bench.names(Kind::Pod).len(), bench.gitlab.job(7).finals()), (2, 0));
}

#[tokio::test]
async fn a_pod_that_went_away_unseen_is_asked_for_and_then_told() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    let watching = |call: &String| call.contains("watch=true") && call.contains("/pods");
    until("the watch", || bench.calls().iter().any(watching)).await;
    bench.set_api_away(true);
    bench.end_pod(&name);
    bench.set_api_away(false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.text().matches("was deleted while the job ran").count(), job.finals()), (1, 1), "{}", job.text());
    manager.stop().await;
}
