//! GitLab away, over real connections; half hours of it are played in `src/trace/tests.rs`, where time is virtual.

use super::{Pod, exit_code};
use crate::gitlab::Fault;
use crate::gitlab::network::{Authority, Network, Wires};
use job::{Artifact, ArtifactFormat, Variable, When};
use std::path::Path;
use std::time::{Duration, Instant};

/// Prints numbered lines until the file `$GO` is there, and what came of them at the end.
const COUNT: &str = "i=0; until [ -e \"$GO\" ]; do i=$((i+1)); echo \"line $i\"; sleep 0.02; done; echo \"counted $i\"";

async fn counting() -> Pod {
    let mut pod = Pod::new(&[COUNT]).await;
    let go = pod.path("go").display().to_string();
    pod.job.variables.push(Variable::public("GO", go));
    pod
}

fn go(pod: &Pod) {
    std::fs::write(pod.path("go"), "").unwrap();
}

/// Every line once and in order, and nothing else.
fn assert_exact(pod: &Pod) {
    let trace = pod.gitlab.trace();
    let counted = trace.split("\ncounted ").nth(1).and_then(|rest| rest.lines().next()).expect("the script ended");
    let counted: usize = counted.parse().unwrap();
    let lines: Vec<&str> = trace.lines().filter(|line| line.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=counted).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!(output.checksum, Some(gitlab_api::update_job::checksum_text(crc32fast::hash(trace.as_bytes()))));
}

#[tokio::test]
async fn wires_that_fail_in_every_way_cost_no_byte() {
    let mut pod = counting().await;
    let network = Network::before(&mut pod.gitlab).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the first lines", |trace| trace.contains("\nline 2\n")).await;
    for wires in [Wires::Cut, Wires::OneWay, Wires::Silent, Wires::Cut] {
        let before = pod.gitlab.trace().len();
        network.set_for(wires, Duration::from_millis(2500)).await;
        pod.gitlab.wait_for("news after an outage", |trace| trace.len() > before).await;
    }
    go(&pod);
    let (run, ..) = pod.join(&mut running).await;
    assert_eq!(run, 0, "{}", pod.gitlab.trace());
    assert_exact(&pod);
}

#[tokio::test]
async fn a_job_that_ends_without_gitlab_waits_for_it_beyond_its_tries() {
    let mut pod = counting().await;
    pod.tries = 1;
    let network = Network::before(&mut pod.gitlab).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the first lines", |trace| trace.contains("\nline 2\n")).await;
    network.set(Wires::Cut);
    go(&pod);
    let verdict = pod.path("verdict");
    let written = || std::fs::read_to_string(&verdict).is_ok_and(|text| text.contains("\"reported\":false"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !written() {
        assert!(Instant::now() < deadline, "the verdict stands there before it is told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    network.set(Wires::Whole);
    let (run, _, verdict) = pod.join(&mut running).await;
    assert_eq!((run, verdict.reported), (0, true));
    assert_exact(&pod);
}

#[tokio::test]
async fn a_certificate_of_the_same_authority_is_no_news_and_one_of_another_is_an_outage() {
    let authority = Authority::new();
    let mut pod = counting().await;
    let network = Network::before_with_tls(&mut pod.gitlab, &authority).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the first lines", |trace| trace.contains("\nline 2\n")).await;
    network.replace_certificate(&authority);
    let before = pod.gitlab.trace().len();
    pod.gitlab.wait_for("lines over the new certificate", |trace| trace.len() > before).await;
    network.replace_certificate(&Authority::new());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (before, lines) = (pod.gitlab.trace().len(), pod.gitlab.trace().lines().count());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(pod.gitlab.trace().len(), before, "nothing is sent to a stranger ({lines} lines so far)");
    network.replace_certificate(&authority);
    go(&pod);
    let (run, ..) = pod.join(&mut running).await;
    assert_eq!(run, 0, "{}", pod.gitlab.trace());
    assert_exact(&pod);
}

#[tokio::test]
async fn a_gitlab_that_wants_a_certificate_is_shown_the_runners() {
    let authority = Authority::new();
    let mut pod = Pod::new(&["echo it runs"]).await;
    let _network = Network::before_with_strict_tls(&mut pod.gitlab, &authority).await;
    pod.gitlab.identity = Some(authority.identity());
    let (run, ..) = pod.finish().await;
    assert_eq!(run, 0, "{}", pod.gitlab.trace());
    assert!(pod.gitlab.trace().contains("\nit runs\n"), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn gitlab_is_reached_through_the_proxy_of_the_environment() {
    let mut pod = Pod::new(&["echo it runs"]).await;
    pod.environment = vec![("HTTP_PROXY", pod.gitlab.url())];
    // A name that nobody knows: only the proxy can carry the call.
    pod.gitlab.name = Some("gitlab.invalid".to_owned());
    let (run, ..) = pod.finish().await;
    assert!(run == 0 && pod.gitlab.trace().contains("\nit runs\n"), "{}", pod.gitlab.trace());
    let mut pod = Pod::new(&["echo it runs"]).await;
    pod.environment = vec![("HTTP_PROXY", "http://127.0.0.1:9".to_owned()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let (run, ..) = pod.finish().await;
    assert!(run == 0 && pod.gitlab.trace().contains("\nit runs\n"), "{}", pod.gitlab.trace());
}

fn artifact() -> Artifact {
    Artifact {
        name: String::new(),
        paths: vec!["out".to_owned()],
        exclude: vec![],
        untracked: false,
        when: When::Always,
        artifact_type: "archive".into(),
        format: ArtifactFormat::Zip,
        expire_in: String::new(),
    }
}

#[tokio::test]
async fn artifacts_wait_for_gitlab_too() {
    let mut pod = Pod::new(&["echo made > out"]).await;
    pod.job.artifacts = vec![artifact()];
    // More than all tries of one round, so that they are not what helps.
    pod.gitlab.upload_faults([Fault::Status(502); 3]);
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, pod.gitlab.uploads().len()), (0, 1), "{trace}");
    assert!(trace.contains("WARNING: the upload failed, trying again in 1 s: "), "{trace}");
}

#[tokio::test]
async fn a_gitlab_that_takes_the_log_and_no_archives_is_not_asked_for_ever() {
    let mut pod = Pod::new(&["echo made > out"]).await;
    pod.job.artifacts = vec![artifact()];
    pod.gitlab.upload_faults([Fault::Status(500); 1000]);
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 1, "{trace}");
    assert_eq!(verdict.exit_code, Some(1), "the same as a command that failed: {verdict:?}");
    assert!(trace.contains("ERROR: failed to upload artifacts: "), "{trace}");
    assert!(trace.matches("WARNING: the upload failed").count() <= 4, "{trace}");
}

#[tokio::test]
async fn a_killed_agent_leaves_a_whole_beginning_of_the_trace_no_verdict_and_no_script() {
    let mut pod = counting().await;
    let pid = pod.path("pid").display().to_string();
    pod.job.steps[0].script.insert(0, format!("echo $$ > {pid}"));
    let mut running = pod.start();
    pod.gitlab.wait_for("some lines", |trace| trace.contains("\nline 40\n")).await;
    running.run.kill().unwrap();
    assert_eq!(exit_code(&mut running.run, "gantry-agent run").await, -1);
    let trace = pod.gitlab.trace();
    let lines: Vec<&str> = trace.split_inclusive('\n').filter(|line| line.starts_with("line ") && line.ends_with('\n')).collect();
    let expected: Vec<String> = (1..=lines.len()).map(|number| format!("line {number}\n")).collect();
    assert_eq!(lines, expected);
    assert_eq!(std::fs::read_to_string(pod.path("verdict")).unwrap_or_default(), "");
    let script = format!("/proc/{}", std::fs::read_to_string(&pid).unwrap().trim());
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&script).exists() {
        assert!(Instant::now() < deadline, "a script whose agent is gone is ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
