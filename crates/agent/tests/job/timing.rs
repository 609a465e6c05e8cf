//! Limits of time and their different ends; cancels at every point.

use super::Pod;
use job::Variable;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_limit_that_is_no_duration_is_said_and_ignored() {
    for limit in ["soon", "90", "-1s"] {
        let mut pod = Pod::new(&["sleep 1.2", "echo over"]).await;
        pod.job.variables.push(Variable::public("RUNNER_SCRIPT_TIMEOUT", limit));
        let (run, ..) = pod.finish().await;
        let trace = pod.gitlab.trace();
        assert_eq!(run, 0, "{trace}");
        assert!(trace.contains(&format!("WARNING: ignoring RUNNER_SCRIPT_TIMEOUT: \"{limit}\" is no duration")), "{trace}");
    }
}

#[tokio::test]
async fn each_limit_of_time_ends_in_its_own_words() {
    let mut pod = Pod::new(&["sleep 600"]).await;
    pod.job.variables.push(Variable::public("RUNNER_SCRIPT_TIMEOUT", "1s"));
    pod.job.variables.push(Variable::public("RUNNER_AFTER_SCRIPT_TIMEOUT", "1s"));
    pod.after_script("echo \"status $CI_JOB_STATUS\"; sleep 600");
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_execution_timeout")), "{trace}");
    for expected in [
        "WARNING: step_script could not run to completion because the timeout was exceeded",
        "status failed\n",
        "WARNING: after_script could not run to completion because the timeout was exceeded",
        "WARNING: after_script failed, but job will continue unaffected",
        "ERROR: Job failed: script timeout error",
    ] {
        assert!(trace.contains(expected), "{expected:?} is not in\n{trace}");
    }
}

#[tokio::test]
async fn a_job_whose_time_is_up_in_after_script_has_taken_too_long() {
    let mut pod = Pod::new(&["echo fine"]).await;
    pod.job.timeout = Duration::from_secs(3);
    pod.after_script("echo after; sleep 600");
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_execution_timeout")), "{trace}");
    assert!(trace.contains("\nafter\n") && trace.contains("execution took longer than 3s seconds"), "{trace}");
}

#[tokio::test]
async fn a_timeout_beyond_any_clock_is_no_timeout() {
    let mut pod = Pod::new(&["echo fine"]).await;
    pod.job.timeout = Duration::from_secs(u64::MAX);
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn a_cancel_in_after_script_lets_it_end() {
    let mut pod = Pod::new(&["echo main"]).await;
    let go = pod.path("go");
    pod.after_script(&format!("echo after begins; until [ -e {} ]; do sleep 0.1; done; echo after ends", go.display()));
    let mut running = pod.start();
    pod.gitlab.wait_for("after_script", |trace| trace.contains("\nafter begins\n")).await;
    pod.gitlab.set_job_status("canceling");
    // Until the agent has asked again.
    let updates = pod.gitlab.calls();
    let deadline = Instant::now() + Duration::from_secs(20);
    while pod.gitlab.calls() < updates + 2 {
        assert!(Instant::now() < deadline, "a silent job asks");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::write(go, "").unwrap();
    let (run, ..) = pod.join(&mut running).await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    assert!(trace.contains("\nafter ends\n"), "{trace}");
}

#[tokio::test]
async fn a_cancel_says_so_and_a_hard_one_runs_nothing_more() {
    for (status, after) in [("canceling", true), ("canceled", false)] {
        let mut pod = Pod::new(&["echo started", "sleep 600"]).await;
        pod.after_script("echo \"status $CI_JOB_STATUS\"");
        let mut running = pod.start();
        pod.gitlab.wait_for("the script's first line", |trace| trace.contains("\nstarted\n")).await;
        pod.gitlab.set_job_status(status);
        let (_, _, verdict) = pod.join(&mut running).await;
        let trace = pod.gitlab.trace();
        assert_eq!(verdict.failure_reason.as_deref(), Some("job_canceled"), "{trace}");
        assert_eq!(trace.contains("\nstatus canceled\n"), after, "{trace}");
        assert_eq!(trace.contains("WARNING: script canceled externally (UI, API)"), after, "{trace}");
        assert_eq!(pod.gitlab.final_update().is_some(), after, "a job that is over there is not told of again");
    }
}

#[tokio::test]
async fn a_source_that_takes_longer_than_it_may_ends_in_its_own_words() {
    // Takes connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut pod = Pod::new(&["echo not to be seen"]).await;
    pod.job.git.repo_url = job::Secret::new(format!("http://{}/group/project.git", listener.local_addr().unwrap()));
    pod.settings.get_sources_timeout = "1s".into();
    pod.after_script("echo not to be seen");
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_execution_timeout")), "{trace}");
    assert!(trace.contains("ERROR: Job failed: get_sources exceeded timeout of 1s"), "{trace}");
    assert!(!trace.contains("not to be seen\n"), "{trace}");
}
