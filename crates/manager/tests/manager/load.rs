//! Many jobs at once, and what each costs the Kubernetes API.

use crate::bench::{Bench, payload, pod, reported, running, until};
use kube_server::Kind;

#[tokio::test]
async fn two_hundred_jobs_at_once_cost_at_most_eight_requests_each() {
    const JOBS: u64 = 200;
    let bench = Bench::start().await;
    let manager = bench.manager(200, "");
    until("the manager", || !bench.gitlab.requests().is_empty()).await;
    let before = bench.calls().len();
    for id in 1..=JOBS {
        bench.gitlab.offer(payload(id));
    }
    until("all pods", || bench.names(Kind::Pod).len() == JOBS as usize).await;
    for id in 1..=JOBS {
        bench.set_status(&pod(id), running());
        bench.set_status(&pod(id), reported());
    }
    bench.wait_for_nothing().await;
    let calls = bench.calls();
    let per_job = (calls.len() - before) as f64 / JOBS as f64;
    println!("{per_job} requests a job");
    assert!(per_job <= 8.0, "{per_job} requests a job");
    for verb in ["POST", "PATCH", "DELETE", "GET"] {
        println!("{verb}: {}", calls.iter().filter(|call| call.starts_with(verb)).count());
    }
    manager.stop().await;
}

#[tokio::test]
async fn no_more_jobs_are_taken_than_there_is_room_for() {
    let bench = Bench::start().await;
    let manager = bench.manager(3, "");
    for id in 1..=4 {
        bench.gitlab.offer(payload(id));
    }
    until("three pods", || bench.names(Kind::Pod).len() == 3).await;
    assert_eq!(bench.gitlab.requests().len(), 3, "the fourth is not even asked for");
    bench.set_status(&pod(1), reported());
    bench.wait_for_pod(4).await;
    assert_eq!(bench.gitlab.requests()[1].last_update, "v1", "the queue's version is carried on");
    manager.stop().await;
}
