//! Jobs with services, as far as the agent has to do with them, and the report of what containers used.

use super::Pod;
use agent_contract::plan::Resources;
use job::{Image, Service, Variable};
use std::net::TcpListener;
use std::time::Duration;

fn service(name: &str, variables: &[(&str, &str)]) -> Service {
    let image = Image { name: name.to_owned(), ..Image::default() };
    let variables = variables.iter().map(|(key, value)| Variable::public(*key, *value)).collect();
    Service { image, variables, ..Service::default() }
}

#[tokio::test]
async fn the_last_line_is_left_to_the_manager_where_the_log_is_to_show_services() {
    let mut pod = Pod::new(&["echo works"]).await;
    pod.job.services = vec![service("db", &[])];
    pod.job.variables.push(Variable::public("CI_DEBUG_SERVICES", "true"));
    let (run, serve, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, serve), (0, 0), "{trace}");
    assert_eq!((verdict.state.as_str(), verdict.reported, verdict.trace_bytes), ("success", false, 0));
    assert!(
        trace.contains("\nworks\n") && trace.contains(":cleanup_file_variables\r"),
        "all but the last line is there: {trace}"
    );
    assert!(!trace.contains("Job succeeded"), "{trace}");
    assert!(pod.gitlab.final_update().is_none(), "the manager tells the end");
}

#[tokio::test]
async fn a_failed_job_with_services_leaves_its_end_to_the_manager_and_others_do_not() {
    let mut pod = Pod::new(&["exit 6"]).await;
    pod.job.services = vec![service("db", &[])];
    let (_, serve, verdict) = pod.finish().await;
    assert_eq!((serve, verdict.exit_code, verdict.reported), (6, Some(6), false));
    assert_eq!(verdict.failure_reason.as_deref(), Some("script_failure"));
    assert!(!pod.gitlab.trace().contains("Job failed"));

    let mut pod = Pod::new(&["true"]).await;
    pod.job.services = vec![service("db", &[])];
    assert!(pod.finish().await.2.reported);
    assert!(pod.gitlab.trace().ends_with("Job succeeded\x1b[0;m\n"));
}

#[tokio::test]
async fn a_script_starts_when_each_service_listens_on_its_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    drop(taken);
    let mut pod = Pod::new(&["echo connected"]).await;
    pod.job.services = vec![service("db:17", &[("HEALTHCHECK_TCP_PORT", "$PORT")]), service("other", &[])];
    pod.job.variables.push(Variable::public("PORT", number.to_string()));
    let mut running = pod.start();
    let waits = format!("Waiting for services to take connections: db on port {number}");
    pod.gitlab.wait_for("the wait", |trace| trace.contains(&waits)).await;
    assert!(!pod.gitlab.trace().contains("connected"));
    let _listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
    let (run, ..) = pod.join(&mut running).await;
    assert_eq!(run, 0, "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn a_service_that_never_listens_costs_the_job_its_time_as_in_gitlab_runner() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    drop(taken);
    let mut pod = Pod::new(&["echo never"]).await;
    pod.job.services = vec![service("db", &[("HEALTHCHECK_TCP_PORT", &number.to_string())])];
    pod.job.timeout = Duration::from_secs(2);
    let (_, _, verdict) = pod.finish().await;
    assert_eq!((verdict.failure_reason.as_deref(), verdict.reported), (Some("job_execution_timeout"), false));
    assert!(!pod.gitlab.trace().contains("\nnever"));
}

#[tokio::test]
async fn the_log_ends_with_what_containers_used_and_the_verdict_has_the_same() {
    let resources =
        |name: &str, limit: &str| Resources { container: name.into(), memory_limit: limit.into(), ..Resources::default() };
    let mut pod = Pod::new(&["exit 3"]).await;
    pod.settings.resources = vec![resources("build", "2Gi"), resources("helper", ""), resources("svc-0", "64Mi")];
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    let section = trace.find(":resource_report[collapsed=true]\r").expect("a section of its own");
    let end = trace.find("ERROR: Job failed").expect("the last line");
    let report = &trace[section..end];
    assert!(report.contains("\x1b[36;1mResource report"), "{report}");
    for expected in ["\nbuild ", "  2Gi ", "\nhelper ", "\nsvc-0 ", "unknown", "What services used is unknown"] {
        assert!(report.contains(expected), "{expected:?} is not in {report}");
    }
    assert!(report.contains("section_end:") && report.contains(":resource_report\r"), "{report}");
    assert_eq!(verdict.resources.keys().collect::<Vec<_>>(), ["build", "helper"]);
}

#[tokio::test]
async fn no_report_is_written_where_none_is_wanted() {
    let pod = Pod::new(&["true"]).await;
    let (_, _, verdict) = pod.finish().await;
    assert!(verdict.resources.is_empty() && !pod.gitlab.trace().contains("resource_report"));
}
