//! Jobs from request to cleaned pod, well and badly.

mod bench;

use bench::{Bench, container, ended, payload, pod, reported, running, until};
use kube_server::Kind;
use serde_json::json;
use std::time::Duration;

fn pulling(reason: &str, message: &str) -> serde_json::Value {
    json!({"phase": "Pending", "containerStatuses": [
        container("helper", json!({"waiting": {"reason": "ContainerCreating"}})),
        container("build", json!({"waiting": {"reason": reason, "message": message}}))]})
}

#[tokio::test]
async fn a_job_that_its_agent_reports_is_cleaned_up_and_not_told_again() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    assert_eq!(bench.names(Kind::Secret), [format!("{name}-plan")]);
    bench.set_status(&name, running());
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    let states: Vec<_> = job.updates.iter().map(|update| update.state.as_str()).collect();
    assert_eq!((states, job.text().as_str()), (vec!["running"], ""), "the manager confirms and is silent");
    assert!(job.updates[0].info.features.two_phase_job_commit);
    manager.stop().await;
}
