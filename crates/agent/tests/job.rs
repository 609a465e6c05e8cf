//! A whole job: `gantry-agent run` and `serve` as two processes, a GitLab that misbehaves, a repository over HTTP.

mod gitlab;
#[path = "job/opening.rs"]
mod opening;
#[path = "job/outages.rs"]
mod outages;
#[path = "job/scripts.rs"]
mod scripts;
#[path = "job/services.rs"]
mod services;
#[path = "job/sources.rs"]
mod sources;
#[path = "job/timing.rs"]
mod timing;

use agent_contract::{Coordinator, Plan, Settings, Verdict, Workspace, names};
use gitlab::{Fault, Gitlab};
use job::{Job, Secret, Step, Variable, When};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The agent under test: the static one that ships when `cargo xtask test` names it, else the one cargo just built.
fn agent() -> PathBuf {
    std::env::var_os("GANTRY_AGENT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_gantry-agent")), PathBuf::from)
}

struct Pod {
    place: tempfile::TempDir,
    gitlab: Gitlab,
    job: Job,
    timestamps: bool,
    tries: u32,
    settings: Settings,
    /// User of the build container, when it is not ours.
    user: Option<u32>,
    /// More of the environment of `run`.
    environment: Vec<(&'static str, String)>,
    /// Searched for programs before the machine's own.
    programs: Option<PathBuf>,
}

impl Pod {
    async fn new(script: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        for directory in ["plan", "shared", "builds", "origin"] {
            std::fs::create_dir(place.path().join(directory)).unwrap();
        }
        let origin = place.path().join("origin");
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=A", "-c", "user.email=a@b"];
            let output = Command::new("git").arg("-C").arg(&origin).args(identity).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        std::fs::write(origin.join("README"), "from git\n").unwrap();
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message=one"]);
        let sha = git(&["rev-parse", "HEAD"]);
        let gitlab = Gitlab::start().await;
        let step = |name: &str, script: &[&str], when| Step {
            name: name.into(),
            script: script.iter().map(|line| (*line).to_owned()).collect(),
            when,
            allow_failure: false,
        };
        let payload = serde_json::json!({
            "id": 7, "token": "job-token-7", "job_info": {"name": "test", "stage": "test", "project_id": 1},
            "git_info": {"repo_url": format!("file://{}", origin.display()), "ref": "main", "sha": sha,
                "refspecs": ["+refs/heads/*:refs/remotes/origin/*"], "depth": 20},
            "runner_info": {"timeout": 60}, "features": {"trace_sections": true, "failure_reasons": ["job_canceled"]},
        });
        let payload: gitlab_api::JobResponse = serde_json::from_value(payload).unwrap();
        let mut job = payload.into_job().unwrap();
        job.steps = vec![step("script", script, When::OnSuccess)];
        Self {
            place,
            gitlab,
            job,
            timestamps: false,
            tries: 20,
            settings: Settings::default(),
            programs: None,
            user: None,
            environment: vec![],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn after_script(&mut self, line: &str) {
        let script = vec![line.to_owned()];
        self.job.steps.push(Step { name: "after_script".into(), script, when: When::Always, allow_failure: true });
    }

    fn start(&self) -> Running {
        let plan = Plan {
            job: self.job.clone(),
            coordinator: Coordinator {
                url: self.gitlab.url(),
                ca_pem: self.gitlab.authority.clone(),
                identity: self.gitlab.identity.clone(),
                ..Coordinator::default()
            },
            workspace: Workspace {
                builds_dir: self.path("builds").display().to_string(),
                project_dir: self.path("builds/project").display().to_string(),
            },
            settings: Settings {
                version: "1.0".into(),
                final_update_tries: self.tries,
                cancel_grace_seconds: 1,
                timestamps: self.timestamps,
                output_limit: 1024 * 1024 * 1024,
                ..self.settings.clone()
            },
        };
        let parts = plan.to_parts().unwrap();
        for (index, part) in parts.iter().enumerate() {
            std::fs::write(self.path("plan").join(names::plan_key(index)), part).unwrap();
        }
        std::fs::write(self.path("plan").join(names::PLAN_COUNT_KEY), parts.len().to_string()).unwrap();
        let start = |arguments: &[&str], extra: &[(&str, PathBuf)]| {
            let mut command = Command::new(agent());
            command.args(arguments).arg("--shared").arg(self.path("shared"));
            for (flag, path) in extra {
                command.arg(flag).arg(path);
            }
            if let (Some(user), ["serve"]) = (self.user, arguments) {
                std::os::unix::process::CommandExt::gid(std::os::unix::process::CommandExt::uid(&mut command, user), user);
            }
            if let Some(programs) = &self.programs {
                let path = std::env::var("PATH").unwrap_or_default();
                command.env("PATH", format!("{}:{path}", programs.display()));
            }
            if arguments == ["run"] {
                command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            }
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        let serve = start(&["serve"], &[]);
        let run = start(&["run"], &[("--plan", self.path("plan")), ("--verdict", self.path("verdict"))]);
        Running { serve, run }
    }

    /// Runs to the end: exit code of `run`, of `serve`, and the verdict.
    async fn finish(&self) -> (i32, i32, Verdict) {
        let mut running = self.start();
        self.join(&mut running).await
    }

    async fn join(&self, running: &mut Running) -> (i32, i32, Verdict) {
        let run = exit_code(&mut running.run, "gantry-agent run").await;
        let serve = exit_code(&mut running.serve, "gantry-agent serve").await;
        (run, serve, verdict(&self.path("verdict")))
    }
}

struct Running {
    serve: Child,
    run: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.run.kill();
        let _ = self.serve.wait();
        let _ = self.run.wait();
    }
}

fn verdict(path: &Path) -> Verdict {
    Verdict::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

async fn exit_code(child: &mut Child, what: &str) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < deadline, "{what} did not end within a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_job_clones_runs_and_reports() {
    let mut pod = Pod::new(&["cat README", "echo \"$GREETING in $CI_PROJECT_DIR\"", "cat \"$FILE\""]).await;
    pod.job.variables.push(Variable::public("GREETING", "Hi $WHO"));
    pod.job.variables.push(Variable::public("WHO", "there"));
    pod.job.variables.push(Variable { file: true, ..Variable::internal("FILE", "in a file") });
    pod.after_script("echo \"status $CI_JOB_STATUS\"");
    let (run, serve, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, serve, verdict.state.as_str(), verdict.reported), (0, 0, "success", true), "{trace}");
    let project = pod.path("builds/project").display().to_string();
    for expected in ["from git\n", &format!("Hi there in {project}\n"), "in a file", "status success\n", "Job succeeded"] {
        assert!(trace.contains(expected), "{expected:?} is not in\n{trace}");
    }
    let update = pod.gitlab.final_update().unwrap();
    let output = update.output.unwrap();
    assert_eq!(output.bytesize, trace.len() as u64);
    assert_eq!(output.checksum, Some(gitlab_api::update_job::checksum_text(crc32fast::hash(trace.as_bytes()))));
    assert!(!pod.path("builds/project.tmp").exists(), "file variables must not stay");
}

#[tokio::test]
async fn a_failing_script_fails_the_job_with_its_exit_code() {
    let mut pod = Pod::new(&["echo before", "exit 42"]).await;
    pod.after_script("echo \"status $CI_JOB_STATUS\"");
    let (run, serve, verdict) = pod.finish().await;
    assert_eq!((run, serve, verdict.exit_code), (1, 42, Some(42)));
    let update = pod.gitlab.final_update().unwrap();
    assert_eq!(
        (update.state.as_str(), update.exit_code, update.failure_reason.as_deref()),
        ("failed", Some(42), Some("script_failure"))
    );
    let trace = pod.gitlab.trace();
    assert!(
        trace.contains("ERROR: Job failed: command terminated with exit code 42") && trace.contains("status failed"),
        "{trace}"
    );
}

#[tokio::test]
async fn masked_values_never_leave_the_pod() {
    let mut pod = Pod::new(&["for c in h u n t e r 2 2; do printf $c; done; echo", "echo $SECRET", "echo job-token-7"]).await;
    pod.job.variables.push(Variable { masked: true, ..Variable::internal("SECRET", "hunter22") });
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    assert!(!trace.contains("hunter22") && !trace.contains("job-token-7"), "{trace}");
    assert!(trace.contains("[MASKED]\n"), "{trace}");
}

#[tokio::test]
async fn the_first_words_of_a_script_do_not_wait_for_the_interval() {
    let mut pod = Pod::new(&["until [ -e \"$GO\" ]; do sleep 0.05; done"]).await;
    let go = pod.path("go");
    pod.job.variables.push(Variable::public("GO", go.display().to_string()));
    pod.gitlab.set_interval(300);
    let mut running = pod.start();
    pod.gitlab.wait_for("the script's echo", |trace| trace.contains("$ until")).await;
    std::fs::write(go, "").unwrap();
    let (run, ..) = pod.join(&mut running).await;
    assert_eq!(run, 0, "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn trouble_at_gitlab_is_waited_out_and_the_trace_is_exact() {
    let pod =
        Pod::new(&["for i in $(seq 20000); do echo line $i of a log that is long enough to need several patches; done"]).await;
    pod.gitlab.faults([
        Fault::Status(500),
        Fault::Resync,
        Fault::Status(503),
        Fault::Drop,
        Fault::Status(502),
        Fault::StillChecking,
    ]);
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0);
    assert_eq!(trace.matches("line ").count(), 20_000 + 1, "every line once, and the echoed command");
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!(output.checksum, Some(gitlab_api::update_job::checksum_text(crc32fast::hash(trace.as_bytes()))));
}

#[tokio::test]
async fn a_log_of_100_mb_is_exact_and_the_agent_stays_small() {
    let mut pod = Pod::new(&["head -c 100000000 /dev/zero | tr '\\0' x | fold -w 99"]).await;
    pod.job.variables.push(Variable { masked: true, ..Variable::internal("SECRET", "xyz-not-there") });
    let mut running = pod.start();
    let status = format!("/proc/{}/status", running.run.id());
    let watched = std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:")) else { break };
            peak = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(peak);
            std::thread::sleep(Duration::from_millis(50));
        }
        peak
    });
    let (run, ..) = pod.join(&mut running).await;
    let peak = watched.join().unwrap();
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0);
    assert!(trace.len() > 101_000_000 && trace.matches(&"x".repeat(99)).count() > 1_000_000, "{} bytes", trace.len());
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!(output.checksum, Some(gitlab_api::update_job::checksum_text(crc32fast::hash(trace.as_bytes()))));
    println!("peak resident memory of the agent: {peak} KiB");
    // A debug build's code alone takes some 10 MiB more than the agent that ships.
    let limit = if std::env::var_os("GANTRY_AGENT").is_some() { 30_000_000 / 1024 } else { 45 * 1024 };
    assert!(peak < limit, "the agent took {peak} KiB, more than {limit}");
}

#[tokio::test]
async fn bytes_that_the_manager_wrote_stay_in_front() {
    let pod = Pod::new(&["echo mine"]).await;
    pod.gitlab.write_first(b"Waiting for pod ...\n");
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    assert!(trace.starts_with("Waiting for pod ...\n\u{1b}[0KRunning with gantry 1.0"), "{trace}");
    let output = pod.gitlab.final_update().unwrap().output.unwrap();
    assert_eq!((output.checksum, output.bytesize), (None, trace.len() as u64));
}

#[tokio::test]
async fn a_script_hears_the_signal_that_ends_it() {
    let trap = "trap 'echo \"heard it\"; exit 3' TERM";
    let pod = Pod::new(&["grep SigBlk: /proc/self/status", trap, "echo started", "while :; do sleep 0.1; done"]).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the script's last line", |trace| trace.contains("\nstarted\n")).await;
    pod.gitlab.set_job_status("canceling");
    pod.join(&mut running).await;
    let trace = pod.gitlab.trace();
    assert!(trace.contains("\nheard it\n") && trace.contains("SigBlk:\t0000000000000000"), "{trace}");
}

#[tokio::test]
async fn background_processes_that_hold_the_output_do_not_hold_the_job() {
    // The second one is in a session of its own, so that it is not ended with its script.
    let script = ["sleep 600 &", "setsid sleep 5 &", "(for i in 1 2 3; do sleep 0.1; echo late $i; done) &", "echo done"];
    let pod = Pod::new(&script).await;
    let begun = Instant::now();
    let (run, _, _) = pod.join(&mut pod.start()).await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    assert!(trace.contains("late 3"), "what comes at once is still taken: {trace}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_silent_job_learns_of_its_cancel_as_soon_as_the_server_wants_to_hear() {
    let pod = Pod::new(&["sleep 600"]).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the script's last line", |trace| trace.contains("$ sleep 600")).await;
    pod.gitlab.set_job_status("canceling");
    let begun = Instant::now();
    let (_, _, verdict) = pod.join(&mut running).await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("job_canceled"));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cancel_ends_the_script_and_runs_after_script() {
    let mut pod = Pod::new(&["echo started", "trap '' TERM", "while :; do sleep 1; done"]).await;
    pod.after_script("echo \"status $CI_JOB_STATUS\"");
    let mut running = pod.start();
    pod.gitlab.wait_for("the script's first line", |trace| trace.contains("\nstarted\n")).await;
    pod.gitlab.set_job_status("canceling");
    let (run, _, verdict) = pod.join(&mut running).await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_canceled")), "{trace}");
    assert!(trace.contains("status canceled"), "{trace}");
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_ended_without_after_script() {
    let mut pod = Pod::new(&["echo started", "sleep 600"]).await;
    pod.after_script("echo not to be seen");
    pod.job.timeout = Duration::from_secs(2);
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_execution_timeout")));
    assert!(trace.contains("execution took longer than 2s seconds") && !trace.contains("not to be seen"), "{trace}");
}

#[tokio::test]
async fn a_script_that_takes_too_long_leaves_time_for_after_script() {
    let mut pod = Pod::new(&["sleep 600"]).await;
    pod.job.variables.push(Variable::public("RUNNER_SCRIPT_TIMEOUT", "1s"));
    pod.after_script("echo \"status $CI_JOB_STATUS\"");
    let (run, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("job_execution_timeout")));
    assert!(trace.contains("status failed"), "{trace}");
}

#[tokio::test]
async fn a_fetch_cleans_what_the_job_before_left_as_far_as_it_is_asked_to() {
    let mut pod = Pod::new(&["cat README", "ls"]).await;
    pod.job.variables.push(Variable::public("GIT_STRATEGY", "fetch"));
    pod.job.variables.push(Variable::public("GIT_CLEAN_FLAGS", "-ffdx -e kept"));
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
    for name in ["kept", "left"] {
        std::fs::write(pod.path("builds/project").join(name), "x").unwrap();
    }
    std::fs::write(pod.path("builds/project/README"), "changed\n").unwrap();
    pod.gitlab = Gitlab::start().await;
    assert_eq!(pod.finish().await.0, 0, "{}", pod.gitlab.trace());
    let trace = pod.gitlab.trace();
    assert!(trace.contains("\nfrom git\n") && trace.contains("\nkept\n") && !trace.contains("\nleft\n"), "{trace}");
}

#[tokio::test]
async fn a_job_whose_source_cannot_be_had_fails_without_after_script() {
    let mut pod = Pod::new(&["echo not to be seen"]).await;
    pod.job.git.repo_url = Secret::new("file:///nowhere");
    pod.after_script("echo not to be seen");
    let (run, _, verdict) = pod.finish().await;
    assert_eq!((run, verdict.failure_reason.as_deref()), (1, Some("script_failure")));
    assert_eq!(verdict.exit_code, Some(1));
    assert!(!pod.gitlab.trace().contains("not to be seen\n"), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn a_build_container_that_is_told_to_stop_ends_its_script_at_once() {
    let pod = Pod::new(&["echo started", "sleep 600"]).await;
    let mut running = pod.start();
    pod.gitlab.wait_for("the script's first line", |trace| trace.contains("\nstarted\n")).await;
    let told = Command::new("kill").arg(running.serve.id().to_string()).status().unwrap();
    assert!(told.success());
    assert_eq!(exit_code(&mut running.serve, "gantry-agent serve").await, 143);
    assert_eq!(exit_code(&mut running.run, "gantry-agent run").await, 1);
    assert!(verdict(&pod.path("verdict")).reported);
}

#[tokio::test]
async fn a_script_that_removes_the_socket_costs_no_more_than_its_after_script() {
    let mut pod = Pod::new(&[]).await;
    pod.job.steps[0].script = vec![format!("rm {}/*.sock", pod.path("shared").display())];
    pod.after_script("echo not to be seen");
    let mut running = pod.start();
    let begun = Instant::now();
    assert_eq!(exit_code(&mut running.run, "gantry-agent run").await, 0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let trace = pod.gitlab.trace();
    assert!(trace.contains("WARNING: after_script failed") && trace.contains("does not listen any more"), "{trace}");
}

#[tokio::test]
async fn artifacts_go_up_and_come_down_in_another_job() {
    let mut first = Pod::new(&["mkdir -p out", "echo made > out/file"]).await;
    let artifact = |paths: &[&str]| job::Artifact {
        name: String::new(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        exclude: vec![],
        untracked: false,
        when: When::OnSuccess,
        artifact_type: "archive".into(),
        format: job::ArtifactFormat::Zip,
        expire_in: "1 day".into(),
    };
    first.job.artifacts = vec![artifact(&["out/", "missing"])];
    assert_eq!(first.finish().await.0, 0, "{}", first.gitlab.trace());
    assert!(first.gitlab.trace().contains("WARNING: missing: no matching files"));
    let uploads = first.gitlab.uploads();
    assert_eq!(uploads[0].query, "artifact_format=zip&artifact_type=archive&expire_in=1+day");
    let mut second = Pod::new(&["cat out/file"]).await;
    second.gitlab.offer(5, uploads[0].archive.clone());
    let token = Secret::new("other");
    second.job.dependencies =
        vec![job::Dependency { id: 5, token, name: "first".into(), filename: "artifacts.zip".into(), size: 0 }];
    let (run, ..) = second.finish().await;
    assert_eq!(run, 0, "{}", second.gitlab.trace());
    assert!(second.gitlab.trace().contains("\nmade\n"));
}

#[tokio::test]
async fn a_plan_that_cannot_be_used_leaves_a_verdict_that_says_so() {
    let place = tempfile::tempdir().unwrap();
    let verdict_file = place.path().join("verdict");
    std::fs::write(place.path().join(names::PLAN_COUNT_KEY), "1").unwrap();
    std::fs::write(place.path().join(names::plan_key(0)), "not a plan").unwrap();
    let status = Command::new(agent())
        .args(["run", "--plan"])
        .arg(place.path())
        .arg("--shared")
        .arg(place.path())
        .arg("--verdict")
        .arg(&verdict_file)
        .status()
        .unwrap();
    assert!(!status.success());
    let verdict = verdict(&verdict_file);
    assert!(!verdict.reported && verdict.message.contains("the plan cannot be used"), "{verdict:?}");
}

#[tokio::test]
async fn output_and_errors_stand_in_the_log_as_they_were_written() {
    let pod = Pod::new(&["for i in $(seq 300); do echo out$i; echo err$i >&2; done"]).await;
    assert_eq!(pod.finish().await.0, 0);
    let expected: String = (1..=300).map(|number| format!("out{number}\nerr{number}\n")).collect();
    assert!(pod.gitlab.trace().contains(&expected), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn a_stamped_log_is_framed_byte_for_byte() {
    let mut pod = Pod::new(&["printf '10%%\\r20%%\\r'; printf 'secret-4711 \\377 no newline'"]).await;
    pod.timestamps = true;
    pod.job.variables.push(Variable { masked: true, ..Variable::internal("SECRET", "secret-4711") });
    assert_eq!(pod.finish().await.0, 0);
    let trace = pod.gitlab.trace();
    let numbers = |text: &str| match text.split_once("section_").and_then(|(_, rest)| rest.split(':').nth(1)) {
        Some(seconds) => text.replace(seconds, "N"),
        None => text.to_owned(),
    };
    let line = |line: &str| {
        let stamped = gitlab_api::log::parse_stamp(line.as_bytes());
        assert!(stamped.is_some(), "{line:?}");
        numbers(&line[28..])
    };
    let lines: Vec<_> = trace.split_inclusive('\n').map(line).collect();
    let from = lines.iter().position(|line| line.contains(":step_script\r")).unwrap();
    let expected = [
        "00O+section_start:N:step_script\r\x1b[0K\n",
        "00O+\x1b[0K\x1b[36;1mExecuting \"step_script\" stage of the job script\x1b[0;m\x1b[0;m\n",
        "01O \x1b[32;1m$ printf '10%%\\r20%%\\r'; printf '[MASKED] \\377 no newline'\x1b[0;m\n",
        "01O 10%\r\n",
        "01O+20%\r\n",
        "01O+[MASKED] \u{fffd} no newline\n",
        "00O section_end:N:step_script\r\x1b[0K\n",
        "00O+section_start:N:cleanup_file_variables\r\x1b[0K\n",
        "00O+\x1b[0K\x1b[36;1mCleaning up project directory and file based variables\x1b[0;m\x1b[0;m\n",
        "00O section_end:N:cleanup_file_variables\r\x1b[0K\n",
        "00O+\x1b[32;1mJob succeeded\x1b[0;m\n",
    ];
    assert_eq!(lines[from..], expected);
    assert_eq!(lines[0], "00O \x1b[0KRunning with gantry 1.0\x1b[0;m\n");
}
