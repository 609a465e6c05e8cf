//! The first lines of a log, what a job asks for that is not done, and what is said to GitLab beside the log.

use super::{Pod, Secret};
use job::{Policy, Step, Unsupported, Variable, When};

fn unsupported(what: &str, fatal: bool) -> Unsupported {
    Unsupported { what: what.into(), fatal }
}

#[tokio::test]
async fn a_log_begins_as_gitlab_runner_begins_it() {
    let mut pod = Pod::new(&["true"]).await;
    pod.settings.runner_name = "my runner".into();
    pod.settings.runner_short_token = "abcdefghi".into();
    pod.settings.system_id = "s_1".into();
    pod.settings.namespace = "ci".into();
    pod.settings.image = "alpine:3".into();
    pod.settings.pod_name = "runner-abc-1-7".into();
    pod.job.variables.push(Variable::public("FF_SCRIPT_SECTIONS", "true"));
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    let without_marker = |piece: &str| piece.rfind("section_").map_or(piece, |at| &piece[..at]).to_owned();
    let plain: String = trace.split("\r\u{1b}[0K").map(without_marker).collect();
    let plain = plain.replace("\u{1b}[0K", "").replace("\u{1b}[36;1m", "").replace("\u{1b}[32;1m", "").replace("\u{1b}[0;m", "");
    let expected = [
        "Running with gantry 1.0",
        "  on my runner abcdefghi, system ID: s_1",
        "  feature flags: FF_SCRIPT_SECTIONS:true",
        "Preparing the \"kubernetes\" executor",
        "Using default image",
        "Using Kubernetes namespace: ci",
        "Using Kubernetes executor with image alpine:3 ...",
        "Preparing environment",
        "Running on runner-abc-1-7 via s_1...",
        "Getting source from Git repository",
    ];
    assert!(plain.starts_with(&expected.join("\n")), "{plain}");
    let sections = trace.split("section_start:").skip(1).filter_map(|rest| rest.split(['\r', '[']).next()?.split(':').nth(1));
    let sections: Vec<_> = sections.collect();
    let expected =
        ["resolve_secrets", "prepare_executor", "prepare_script", "get_sources", "step_script", "cleanup_file_variables"];
    assert_eq!(sections.iter().filter(|one| !one.starts_with("section_script")).copied().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_job_with_secrets_is_told_so_and_fails() {
    let mut pod = Pod::new(&["echo never"]).await;
    pod.job.features.failure_reasons = vec!["runner_configuration_error".into()];
    pod.job.unsupported = vec![unsupported("secrets", true)];
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_configuration_error"), "{trace}");
    assert!(trace.contains("Resolving secrets") && trace.contains("WARNING: secrets are not resolved by gantry yet"), "{trace}");
    assert!(trace.contains("ERROR: Job failed: the job needs secrets, which gantry does not do yet"), "{trace}");
    assert!(!trace.contains("never"), "{trace}");
}

#[tokio::test]
async fn a_job_with_a_cache_or_ports_is_told_so_and_goes_on() {
    let mut pod = Pod::new(&["echo it runs"]).await;
    pod.job.unsupported = vec![unsupported("cache", false), unsupported("ports of images and services", false)];
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    for what in ["cache", "ports of images and services"] {
        assert!(trace.contains(&format!("WARNING: the job asks for {what}, which gantry does not do yet")), "{trace}");
    }
    assert!(trace.contains("\nit runs\n") && !trace.contains("Resolving secrets"), "{trace}");
}

#[tokio::test]
async fn a_job_of_a_policy_says_whose_variables_count() {
    for (override_allowed, exceptions, expected) in [
        (
            None,
            &[][..],
            "Variables defined in the policy take precedence over matching user-defined CI/CD variables for this job.",
        ),
        (Some(true), &[], "User-defined CI/CD variables are allowed in this job according to the pipeline execution policy."),
        (
            Some(false),
            &["A", "B"],
            "User-defined CI/CD variables are ignored in this job (except for A, B) according to the pipeline execution policy.",
        ),
    ] {
        let mut pod = Pod::new(&["true"]).await;
        let exceptions = exceptions.iter().map(|name| (*name).to_owned()).collect();
        pod.job.policy = Some(Policy { name: "scans".into(), override_allowed, exceptions });
        assert_eq!(pod.finish().await.0, 0);
        let trace = pod.gitlab.trace();
        let said = trace.find("Job triggered by policy \"scans\".").expect("it is said");
        assert!(trace[said..].contains(expected) && said < trace.find("step_script").unwrap(), "{trace}");
    }
}

#[tokio::test]
async fn a_header_that_the_manager_wrote_does_not_stand_there_twice() {
    let mut pod = Pod::new(&["echo mine"]).await;
    pod.settings.has_header = true;
    let before = "Running with gantry 1.0, said by the manager\nWaiting for pod ...\n";
    pod.gitlab.write_first(before.as_bytes());
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    assert!(trace.starts_with(&format!("{before}section_start:")), "{trace}");
    assert_eq!(trace.matches("Running with gantry").count(), 1, "{trace}");
    assert!(trace.contains("\nmine\n") && trace.ends_with("Job succeeded\u{1b}[0;m\n"), "{trace}");
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!((output.checksum, output.bytesize), (None, trace.len() as u64));
}

#[tokio::test]
async fn a_header_that_nobody_wrote_is_the_agents() {
    let mut pod = Pod::new(&["echo mine"]).await;
    pod.settings.has_header = true;
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    assert!(trace.starts_with("\u{1b}[0KRunning with gantry 1.0"), "{trace}");
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!((output.checksum.is_some(), output.bytesize), (true, trace.len() as u64));
}

#[tokio::test]
async fn every_update_says_what_the_runner_can_do_and_a_debug_trace_is_said_to_be_one() {
    for debug in [false, true] {
        let mut pod = Pod::new(&["true"]).await;
        pod.job.variables.push(Variable::public("SWITCH", "true"));
        if debug {
            pod.job.variables.push(Variable::public("CI_DEBUG_TRACE", "$SWITCH"));
        }
        assert_eq!(pod.finish().await.0, 0);
        let info = pod.gitlab.final_update().unwrap().info;
        assert!(info.features.cancel_gracefully && info.version == "1.0", "{info:?}");
        assert_eq!(pod.gitlab.debug_traces(), [debug], "each patch says so");
    }
}

#[tokio::test]
async fn untracked_files_are_an_artifact_when_asked_for() {
    let script = [
        "echo old >> README",
        "mkdir -p new && echo 1 > new/a && echo 2 > new/b && echo 3 > 'with blank'",
        "echo '*.log' > .gitignore",
        "echo 4 > x.log",
    ];
    let mut pod = Pod::new(&script).await;
    pod.job.artifacts = vec![job::Artifact {
        name: String::new(),
        paths: Vec::new(),
        exclude: vec!["new/b".into()],
        untracked: true,
        when: When::OnSuccess,
        artifact_type: "archive".into(),
        format: job::ArtifactFormat::Zip,
        expire_in: String::new(),
    }];
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
    let trace = pod.gitlab.trace();
    assert!(trace.contains("untracked: found 4 files"), "{trace}");
    let mut second = Pod::new(&["cat new/a 'with blank' x.log", "test ! -e new/b && cat README"]).await;
    second.gitlab.offer(5, pod.gitlab.uploads()[0].archive.clone());
    let token = Secret::new("other");
    second.job.dependencies =
        vec![job::Dependency { id: 5, token, name: "first".into(), filename: "artifacts.zip".into(), size: 0 }];
    assert_eq!(second.finish().await.0, 0, "{}", second.gitlab.trace());
    assert!(second.gitlab.trace().contains("\n1\n3\n4\n"), "{}", second.gitlab.trace());
    assert!(!second.gitlab.trace().contains("\nold\n"), "a file that git knows is not among them");
}

#[tokio::test]
async fn what_the_manager_has_to_say_stands_in_the_log() {
    let mut pod = Pod::new(&["true"]).await;
    pod.settings.notes = vec!["Using effective pull policy of [always] for container build".into()];
    pod.settings.warnings = vec!["Namespace is empty, therefore assuming 'default'.".into()];
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    assert!(trace.contains("\u{1b}[0KUsing effective pull policy of [always] for container build\u{1b}[0;m\n"), "{trace}");
    assert!(trace.contains("\u{1b}[0;33mWARNING: Namespace is empty, therefore assuming 'default'.\u{1b}[0;m\n"), "{trace}");
}

#[tokio::test]
async fn steps_run_by_their_conditions_and_one_may_fail() {
    let step =
        |name: &str, line: &str, when, allow_failure| Step { name: name.into(), script: vec![line.into()], when, allow_failure };
    let mut pod = Pod::new(&["echo first"]).await;
    pod.job.steps.push(step("lint", "echo lint; exit 3", When::OnSuccess, true));
    pod.job.steps.push(step("release", "echo second", When::OnSuccess, false));
    pod.job.steps.push(step("rescue", "echo not needed", When::OnFailure, false));
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
    let trace = pod.gitlab.trace();
    assert!(trace.contains("Executing \"step_release\" stage of the job script"), "{trace}");
    assert!(trace.contains("\nfirst\n") && trace.contains("\nlint\n") && trace.contains("\nsecond\n"), "{trace}");
    assert!(!trace.contains("not needed"), "{trace}");
    let mut pod = Pod::new(&["exit 4"]).await;
    pod.job.steps.push(step("release", "echo left out", When::OnSuccess, false));
    pod.job.steps.push(step("rescue", "echo rescue", When::OnFailure, false));
    pod.job.steps.push(step("always", "echo always; exit 5", When::Always, false));
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(verdict.exit_code, Some(4), "the first failure counts: {trace}");
    assert!(trace.contains("\nrescue\n") && trace.contains("\nalways\n") && !trace.contains("left out"), "{trace}");
}

#[tokio::test]
async fn a_dependency_without_an_archive_is_left_out() {
    let mut pod = Pod::new(&["true"]).await;
    let token = Secret::new("other");
    pod.job.dependencies = vec![job::Dependency { id: 5, token, name: "first".into(), filename: String::new(), size: 0 }];
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
    assert!(!pod.gitlab.trace().contains("download_artifacts"), "{}", pod.gitlab.trace());
}
