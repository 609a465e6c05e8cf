//! Variables as they arrive in scripts, and scripts as GitLab Runner runs them.

use super::Pod;
use job::{Artifact, ArtifactFormat, Secret, Step, Variable, When};
use std::io::Read;

async fn succeed(pod: &Pod) -> String {
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    trace
}

fn step(name: &str, line: &str) -> Step {
    Step { name: name.into(), script: vec![line.into()], when: When::OnSuccess, allow_failure: false }
}

#[tokio::test]
async fn a_thousand_variables_of_any_content_arrive_as_they_are() {
    let nasty = "it's \"$(id)\" `id` \\n !! * ~ é\nsecond\tline\r\n  ";
    let check = "i=0; while [ $i -lt 1000 ]; do eval \"value=\\$V$i\"; cat \"$FILE\" > expected; printf '%s' $i >> expected; \
                 printf '%s' \"$value\" | cmp - expected || exit 9; i=$((i+1)); done; echo all arrived";
    let mut pod = Pod::new(&[check]).await;
    let raw = |name: String, value: String| Variable { raw: true, ..Variable::internal(name, value) };
    pod.job.variables.extend((0..1000).map(|index| raw(format!("V{index}"), format!("{nasty}{index}"))));
    pod.job.variables.push(Variable { file: true, ..raw("FILE".into(), nasty.into()) });
    assert!(succeed(&pod).await.contains("\nall arrived\n"));
}

#[tokio::test]
async fn variables_expand_once_and_files_are_paths() {
    let script =
        ["printf '%s|' \"$A\" \"$B\" \"$RAW\" \"$MONEY\" \"$CALL\" \"$LAST\"; echo", "cat \"$FILE\"; echo; echo \"$OF_FILE\""];
    let mut pod = Pod::new(&script).await;
    for (name, value) in [
        ("A", "$B-$NOBODY"),
        ("B", "$A"),
        ("MONEY", "5$$"),
        ("CALL", "$(echo no)"),
        ("LAST", "1"),
        ("LAST", "2"),
        ("OF_FILE", "at $FILE"),
    ] {
        pod.job.variables.push(Variable::public(name, value));
    }
    pod.job.variables.push(Variable { raw: true, ..Variable::public("RAW", "$A $$") });
    pod.job.variables.push(Variable { file: true, ..Variable::public("FILE", "content $B") });
    let trace = succeed(&pod).await;
    assert!(trace.contains("\n$A-|$B-$NOBODY|$A $$|5$|$(echo no)|2|\n"), "{trace}");
    let path = pod.path("builds/project.tmp/FILE").display().to_string();
    assert!(trace.contains(&format!("\nat {path}\n")), "{trace}");
}

#[tokio::test]
async fn a_nul_byte_is_refused_by_name() {
    let mut pod = Pod::new(&["echo not to be seen"]).await;
    pod.job.variables.push(Variable::public("ODD", "a\0b"));
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_configuration_error"));
    assert!(pod.gitlab.trace().contains("the variable \"ODD\" has a NUL byte"), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn variables_too_long_for_a_shell_fail_the_job_in_plain_words() {
    let mut pod = Pod::new(&["echo not to be seen"]).await;
    pod.job.variables.push(Variable::internal("HUGE", "x".repeat(70 * 1024 * 1024)));
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_configuration_error"));
    let trace = pod.gitlab.trace();
    assert!(
        trace.contains("more than can be handed to a shell") && trace.contains("WARNING: HUGE has 73400320 bytes"),
        "{trace}"
    );
}

#[tokio::test]
async fn what_a_step_writes_to_gitlab_env_reaches_later_steps_and_after_script() {
    let mut pod = Pod::new(&["echo 'LEFT=two words' >> \"$GITLAB_ENV\"", "echo \"first $LEFT.\""]).await;
    pod.job.steps.push(step("second", "sh -c 'echo \"second $LEFT.\"'"));
    pod.after_script("echo \"after $LEFT.\"");
    let trace = succeed(&pod).await;
    for line in ["\nfirst .\n", "\nsecond two words.\n", "\nafter two words.\n"] {
        assert!(trace.contains(line), "{line:?} is not in\n{trace}");
    }
}

#[tokio::test]
async fn the_runners_scripts_share_the_session_of_the_jobs() {
    let mut pod = Pod::new(&["echo \"job $OF_RUNNER\"; OF_JOB=2"]).await;
    pod.settings.pre_build_script = "OF_RUNNER=1\necho begun".into();
    pod.settings.post_build_script = "echo \"post $OF_JOB\"".into();
    let trace = succeed(&pod).await;
    assert!(trace.contains("$ OF_RUNNER=1 # collapsed multi-line command"), "{trace}");
    assert!(trace.contains("\nbegun\n") && trace.contains("\njob 1\n") && trace.contains("\npost 2\n"), "{trace}");
}

#[tokio::test]
async fn flags_change_how_scripts_are_run_and_shown() {
    let mut pod =
        Pod::new(&["set +e", "echo a\necho b", "echo \"flag $FF_SCRIPT_SECTIONS\"", "false", "echo not to be seen"]).await;
    pod.job.variables.push(Variable::public("FF_ENABLE_BASH_EXIT_CODE_CHECK", "true"));
    pod.job.variables.push(Variable::public("FF_HASH_CACHE_KEYS", "perhaps"));
    pod.settings.feature_flags.insert("FF_SCRIPT_SECTIONS".into(), true);
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(verdict.exit_code, Some(1), "{trace}");
    for expected in [
        "  feature flags: FF_ENABLE_BASH_EXIT_CODE_CHECK:true, FF_SCRIPT_SECTIONS:true",
        "WARNING: FF_HASH_CACHE_KEYS: expected bool got \"perhaps\"",
        ":section_script_step_1[hide_duration=true,collapsed=true]\r\u{1b}[0K\u{1b}[32;1m$ echo a\necho b",
        "\nflag true\n",
    ] {
        assert!(trace.contains(expected), "{expected:?} is not in\n{trace}");
    }
    assert!(!trace.contains("\nnot to be seen"), "{trace}");
}

#[tokio::test]
async fn a_flag_that_means_nothing_here_is_taken_listed_and_exported() {
    let meaningless = [
        ("FF_TEST_FEATURE", true),
        ("FF_NETWORK_PER_BUILD", true),
        ("FF_USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY", true),
        ("FF_USE_FASTZIP", false),
        ("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", true),
        ("FF_USE_WINDOWS_LEGACY_PROCESS_STRATEGY", true),
        ("FF_USE_LEGACY_BASH_EVAL", true),
        ("FF_USE_POWERSHELL_PATH_RESOLVER", true),
        ("FF_POSIXLY_CORRECT_ESCAPES", true),
        ("FF_RESOLVE_FULL_TLS_CHAIN", true),
        ("FF_DISABLE_POWERSHELL_STDIN", true),
        ("FF_USE_DUMB_INIT_WITH_KUBERNETES_EXECUTOR", true),
        ("FF_USE_INIT_WITH_DOCKER_EXECUTOR", true),
        ("FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO", false),
        ("FF_USE_WINDOWS_JOB_OBJECT", true),
        ("FF_DISABLE_AUTOMATIC_TOKEN_ROTATION", true),
        ("FF_GIT_URLS_WITHOUT_TOKENS", true),
        ("FF_WAIT_FOR_POD_TO_BE_REACHABLE", true),
        ("FF_EXPORT_HIGH_CARDINALITY_METRICS", true),
        ("FF_USE_FLEETING_ACQUIRE_HEARTBEATS", true),
        ("FF_USE_JOB_ROUTER", true),
        ("FF_SCRIPT_TO_STEP_MIGRATION", true),
        ("FF_USE_PARALLEL_ARTIFACT_TRANSFER", true),
        ("FF_CONCRETE", true),
        ("FF_SUSPENDABLE_ENVIRONMENTS", true),
        ("FF_USE_NATIVE_CONTAINER_STOP", true),
    ];
    let echo = meaningless.map(|(name, _)| format!("{name}=${name}")).join(" ");
    let mut pod = Pod::new(&[&format!("echo \"resolved {echo}\"")]).await;
    pod.settings.feature_flags = meaningless.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let trace = succeed(&pod).await;
    let listed = meaningless.map(|(name, value)| format!("{name}:{value}")).join(", ");
    assert!(trace.contains(&format!("  feature flags: {listed}")), "{trace}");
    let exported = meaningless.map(|(name, value)| format!("{name}={value}")).join(" ");
    assert!(trace.contains(&format!("\nresolved {exported}\n")), "{trace}");
}

#[tokio::test]
async fn a_debug_trace_is_shown_unless_the_runner_forbids_it() {
    let mut pod = Pod::new(&["WORD=traced; echo said"]).await;
    pod.job.variables.push(Variable::public("CI_DEBUG_TRACE", "true"));
    let trace = succeed(&pod).await;
    assert!(trace.contains("+ WORD=traced\n") && trace.contains("\nsaid\n"), "{trace}");
    pod.gitlab = crate::gitlab::Gitlab::start().await;
    pod.settings.debug_trace_disabled = true;
    let trace = succeed(&pod).await;
    assert!(trace.contains("WARNING: CI_DEBUG_TRACE: usage is disabled on this Runner"), "{trace}");
    assert!(!trace.contains("+ WORD=traced\n") && trace.contains("\nsaid\n"), "{trace}");
}

#[tokio::test]
async fn what_was_changed_of_the_pod_stands_in_the_log() {
    let mut pod = Pod::new(&["true"]).await;
    pod.settings.notes = vec!["\"CPULimit\" overwritten with \"2\"".to_owned()];
    let trace = succeed(&pod).await;
    assert!(trace.contains("\u{1b}[0K\"CPULimit\" overwritten with \"2\"\u{1b}[0;m\n"), "{trace}");
}

#[tokio::test]
async fn the_configuration_chooses_the_shell() {
    let mut pod = Pod::new(&["echo \"bash <${BASH_VERSION}>\""]).await;
    assert!(!succeed(&pod).await.contains("\nbash <>\n"));
    pod.gitlab = crate::gitlab::Gitlab::start().await;
    pod.settings.shell = "sh".into();
    let trace = succeed(&pod).await;
    let sh_is_bash = std::fs::canonicalize("/bin/sh").is_ok_and(|path| path.ends_with("bash"));
    assert!(sh_is_bash || trace.contains("\nbash <>\n"), "{trace}");
    pod.gitlab = crate::gitlab::Gitlab::start().await;
    pod.settings.shell = "pwsh".into();
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_configuration_error"));
    assert!(pod.gitlab.trace().contains("shell \"pwsh\" is not supported"), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn only_the_commands_of_a_release_are_expanded_by_the_runner() {
    let mut pod = Pod::new(&["true"]).await;
    pod.job.variables.push(Variable::public("TAG", "v1"));
    pod.job.steps.push(step("release", "printf '%s\\n' '$TAG in $CI_JOB_STATUS'"));
    pod.job.steps.push(step("other", "printf '%s\\n' '$TAG here'"));
    let trace = succeed(&pod).await;
    assert!(trace.contains("\nv1 in running\n") && trace.contains("\n$TAG here\n"), "{trace}");
    assert!(trace.contains("Executing \"step_release\" stage of the job script"), "{trace}");
}

#[tokio::test]
async fn a_failing_after_script_counts_when_the_job_says_so() {
    let mut pod = Pod::new(&["true"]).await;
    pod.after_script("exit 6");
    succeed(&pod).await;
    pod.gitlab = crate::gitlab::Gitlab::start().await;
    pod.job.variables.push(Variable::public("AFTER_SCRIPT_IGNORE_ERRORS", "false"));
    let (_, _, verdict) = pod.finish().await;
    assert_eq!((verdict.failure_reason.as_deref(), verdict.exit_code), (Some("script_failure"), Some(6)));
}

#[tokio::test]
async fn native_steps_without_a_step_runner_are_refused_in_plain_words() {
    let mut pod = Pod::new(&[]).await;
    let run = serde_json::json!({"id": 7, "token": "job-token-7", "run": "[{\"name\": \"a\"}]"});
    pod.job.steps = serde_json::from_value::<gitlab_api::JobResponse>(run).unwrap().into_job().unwrap().steps;
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.exit_code, Some(127));
    assert!(pod.gitlab.trace().contains("the job has `run`, and its image has no step-runner"), "{}", pod.gitlab.trace());
}

fn report() -> Artifact {
    Artifact {
        name: String::new(),
        paths: vec!["$WHERE/*.env".into()],
        exclude: vec![],
        untracked: false,
        when: When::Always,
        artifact_type: "dotenv".into(),
        format: ArtifactFormat::Gzip,
        expire_in: String::new(),
    }
}

#[tokio::test]
async fn dotenv_reports_go_up_as_gzip() {
    let mut pod = Pod::new(&["mkdir out", "echo A=1 > out/a.env", "echo B=2 > out/b.env"]).await;
    pod.job.variables.push(Variable::public("WHERE", "out"));
    pod.job.artifacts = vec![report()];
    succeed(&pod).await;
    let uploads = pod.gitlab.uploads();
    assert_eq!(uploads[0].query, "artifact_format=gzip&artifact_type=dotenv");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(uploads[0].archive.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "A=1\nB=2\n");
}

#[tokio::test]
async fn a_download_is_tried_as_often_as_asked_for() {
    let mut pod = Pod::new(&["true"]).await;
    pod.job.variables.push(Variable::public("ARTIFACT_DOWNLOAD_ATTEMPTS", "2"));
    pod.job.variables.push(Variable::public("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false"));
    let token = Secret::new("other");
    pod.job.dependencies =
        vec![job::Dependency { id: 5, token, name: "first".into(), filename: "artifacts.zip".into(), size: 0 }];
    pod.after_script("echo not to be seen");
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((verdict.failure_reason.as_deref(), verdict.exit_code), (Some("script_failure"), Some(1)), "{trace}");
    assert_eq!(trace.matches("Downloading artifacts for first (5)...").count(), 2, "{trace}");
    assert!(!trace.contains("after_script"), "without a script nothing follows it: {trace}");
}

#[tokio::test]
async fn files_belong_to_the_build_containers_user_where_they_are_not_open_to_all() {
    let mut pod = Pod::new(&["id -u", "stat -c 'is %u:%g %a' README \"$FILE\"", "echo more >> README"]).await;
    let open = |path: std::path::PathBuf, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    open(pod.place.path().to_owned(), 0o755);
    open(pod.path("shared"), 0o777);
    let ours = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(pod.path("shared")).unwrap());
    let user = if ours == 0 { 4321 } else { ours };
    // Only root can be another user.
    pod.user = (ours == 0).then_some(user);
    pod.job.variables.push(Variable { file: true, ..Variable::internal("FILE", "x") });
    pod.settings.feature_flags.insert("FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR".into(), true);
    let trace = succeed(&pod).await;
    assert!(trace.contains(&format!("\n{user}\n")), "{trace}");
    assert_eq!((trace.matches(&format!("\nis {user}:")).count(), trace.matches(" 644\n").count()), (2, 2), "{trace}");
}

#[tokio::test]
async fn a_long_transfer_says_how_far_it_is() {
    let mut pod = Pod::new(&["mkdir out", "head -c 3000000 /dev/urandom > out/a.env"]).await;
    pod.job.variables.push(Variable::public("WHERE", "out"));
    pod.job.variables.push(Variable::public("TRANSFER_METER_FREQUENCY", "100ms"));
    pod.job.artifacts = vec![report()];
    pod.gitlab.hold_uploads(std::time::Duration::from_millis(700));
    let trace = succeed(&pod).await;
    assert!(trace.contains("Uploading artifacts: 3.0") && trace.contains(" MB/s"), "{trace}");
}

#[tokio::test]
async fn an_artifact_can_say_where_it_comes_from() {
    let mut pod = Pod::new(&["mkdir out", "echo content > out/file", "ln -s /etc/passwd good-metadata.json"]).await;
    for (name, value) in [
        ("RUNNER_GENERATE_ARTIFACTS_METADATA", "true"),
        ("SLSA_PROVENANCE_SCHEMA_VERSION", "v0.2"),
        ("CI_RUNNER_ID", "12"),
        ("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64"),
    ] {
        pod.job.variables.push(Variable::public(name, value));
    }
    let artifact_type = "archive".to_owned();
    pod.job.artifacts =
        vec![Artifact { name: "good".into(), paths: vec!["out".into()], format: ArtifactFormat::Zip, artifact_type, ..report() }];
    let trace = succeed(&pod).await;
    assert!(trace.contains("WARNING: there is no provenance schema \"v0.2\", v1 is used"), "{trace}");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(pod.gitlab.uploads().remove(0).archive)).unwrap();
    let mut text = String::new();
    archive.by_name("good-metadata.json").unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("\n \"predicate\""), "{text}");
    let statement: serde_json::Value = serde_json::from_str(&text).unwrap();
    let at = |pointer: &str| statement.pointer(pointer).cloned().unwrap_or_default();
    let sha256 = "434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53";
    assert_eq!(at("/subject"), serde_json::json!([{"name": "out/file", "digest": {"sha256": sha256}}]));
    let source = format!("file://{}", pod.path("origin").display());
    for (pointer, value) in [
        ("/_type", "https://in-toto.io/Statement/v0.1"),
        ("/predicateType", "https://slsa.dev/provenance/v1"),
        ("/predicate/buildDefinition/externalParameters/CI_RUNNER_ID", ""),
        ("/predicate/buildDefinition/externalParameters/entryPoint", "test"),
        ("/predicate/buildDefinition/externalParameters/source", &source),
        ("/predicate/buildDefinition/internalParameters/architecture", "amd64"),
        ("/predicate/buildDefinition/resolvedDependencies/0/digest/sha256", &pod.job.git.sha),
        ("/predicate/runDetails/builder/id", &format!("{source}/-/runners/12")),
        ("/predicate/runDetails/metadata/invocationId", "7"),
    ] {
        assert_eq!(at(pointer), value, "{pointer}");
    }
    assert!(at("/predicate/runDetails/metadata/startedOn").as_str().unwrap().starts_with("20"));
}

#[tokio::test]
async fn archives_are_staged_where_the_job_says() {
    let mut pod = Pod::new(&["mkdir out", "echo A=1 > out/a.env"]).await;
    pod.job.variables.push(Variable::public("WHERE", "out"));
    pod.job.variables.push(Variable::public("ARCHIVER_STAGING_DIR", pod.path("stage/deep").display().to_string()));
    pod.job.artifacts = vec![report()];
    pod.gitlab.hold_uploads(std::time::Duration::from_secs(2));
    let staged = || pod.path("stage/deep").read_dir().map_or(0, Iterator::count);
    let mut running = pod.start();
    pod.gitlab.wait_for("a staged archive", |_| staged() == 1).await;
    assert_eq!(pod.join(&mut running).await.0, 0, "{}", pod.gitlab.trace());
    assert_eq!(staged(), 0, "nothing is left");
    pod.gitlab = crate::gitlab::Gitlab::start().await;
    pod.job.variables.push(Variable::public("ARCHIVER_STAGING_DIR", "/dev/null/stage"));
    let (run, ..) = pod.finish().await;
    assert!(
        run != 0 && pod.gitlab.trace().contains("failed to make room for the archive in /dev/null/stage"),
        "{}",
        pod.gitlab.trace()
    );
}
