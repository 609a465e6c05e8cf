//! Repositories, machines and jobs of every shape.

use crate::gantry::{Gantry, ci};
use crate::repository::Repository;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn a_subdirectory_a_worktree_and_a_shallow_clone_will_do() {
    let pipeline = "job: {script: ['cat deep/below/file', 'git log --oneline | wc -l', 'echo \"on $CI_COMMIT_REF_NAME\"']}\n";
    let repository = Repository::with(&[(".gitlab-ci.yml", pipeline), ("deep/below/file", "it is here\n")]);
    repository.git(&["commit", "--quiet", "--allow-empty", "--message=another"]);
    ci(&repository.path().join("deep/below"), &[]).expect(0).shows("it is here").shows("on main");
    let places = tempfile::tempdir().unwrap();
    let (tree, clone) = (places.path().join("tree"), places.path().join("clone"));
    repository.git(&["worktree", "add", "--quiet", "-b", "feature/x", tree.to_str().unwrap()]);
    std::fs::write(tree.join("deep/below/file"), "in the worktree\n").unwrap();
    ci(&tree, &[]).expect(0).shows("in the worktree").shows("on feature/x");
    let from = format!("file://{}", repository.path().display());
    repository.git(&["clone", "--quiet", "--depth=1", &from, clone.to_str().unwrap()]);
    ci(&clone, &[]).expect(0).shows("it is here");
    std::fs::write(clone.join("deep/below/file"), "in the clone\n").unwrap();
    ci(&clone, &[]).expect(0).shows("in the clone");
}

pub fn a_repository_without_a_commit_and_with_a_strange_name_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("--my repo's $name, ü");
    std::fs::create_dir(&repository).unwrap();
    let init = Command::new("git").args(["init", "--quiet", "--initial-branch=trunk"]).current_dir(&repository).status();
    assert!(init.unwrap().success());
    let pipeline = "job: {script: ['cat \"a file\"', 'echo \"$CI_COMMIT_REF_NAME of $CI_PROJECT_PATH\"']}\n";
    std::fs::write(repository.join(".gitlab-ci.yml"), pipeline).unwrap();
    std::fs::write(repository.join("a file"), "never committed\n").unwrap();
    ci(&repository, &[]).expect(0).shows("never committed").shows("trunk of local/");
    assert!(!repository.join(".git/index").exists());
}

fn program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

pub fn the_tools_of_the_user_are_found_and_their_credentials_are_not() {
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let place = |name: &str| home.path().join(name);
    program(&place(".cargo/bin/my-cargo"), "echo the tool of the user runs");
    program(&place("named/my-tool"), "echo the named one runs");
    for (name, text) in [
        (".cargo/credentials.toml", "secret-of-cargo"),
        (".cargo/config.toml", "# plain"),
        (".netrc", "secret-of-netrc"),
        (".ssh/id_ed25519", "secret-of-ssh"),
        ("named/.npmrc", "secret-of-npm"),
    ] {
        std::fs::create_dir_all(place(name).parent().unwrap()).unwrap();
        std::fs::write(place(name), text).unwrap();
    }
    let at = home.path().display();
    let pipeline = format!(
        "job:\n  script:\n    - my-cargo\n    - {at}/named/my-tool\n    - cat {at}/.cargo/config.toml\n    \
         - cat {at}/.cargo/credentials.toml {at}/.netrc {at}/.ssh/id_ed25519 {at}/named/.npmrc || true\n    \
         - touch {at}/.cargo/bin/new || echo read-only\n"
    );
    let repository = Repository::new(&pipeline);
    let path = format!("{at}/.cargo/bin:{}", std::env::var("PATH").unwrap());
    let named = place("named");
    let arguments = ["--verbose", "--host-path", named.to_str().unwrap()];
    let gantry = Gantry::start_with(repository.path(), &arguments, |command| {
        command.env("PATH", path).env("HOME", home.path());
    });
    let ended = gantry.end().expect(0).shows("the tool of the user runs").shows("the named one runs").shows("# plain");
    let ended = ended.shows("│ read-only").hides("secret-of");
    // What was mounted is told.
    ended.shows(&format!("{at}/.cargo")).shows(&format!("{at}/named"));
    assert!(!place(".cargo/bin/new").exists());
}

pub fn two_runs_at_once_do_not_disturb_each_other() {
    let script = "['echo \"it runs: $((1+1))\"', 'for i in $(seq 40); do sleep 0.1; done', 'echo the end']";
    let repository = Repository::new(&format!("job: {{script: {script}}}\n"));
    let mut first = Gantry::start(repository.path(), &[]);
    first.wait_for("it runs: 2");
    let second = Gantry::start(repository.path(), &[]);
    second.end().expect(0).shows("│ the end").hides("removed what");
    first.end().expect(0).shows("│ the end");
}

pub fn a_reader_that_goes_away_stops_nothing() {
    let kept = tempfile::tempdir().unwrap();
    let repository = Repository::new("one: {script: 'seq 100000'}\ntwo: {stage: deploy, script: exit 9}\n");
    let gantry = env!("CARGO_BIN_EXE_gantry");
    let script = format!("{{ {gantry} ci; echo $? > {}/code; }} | head -n 3 > /dev/null", kept.path().display());
    let status = Command::new("sh").arg("-c").arg(script).current_dir(repository.path()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    assert_eq!(std::fs::read_to_string(kept.path().join("code")).unwrap(), "1\n");
}

pub fn a_terminal_is_told_how_far_it_is() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("    not played, because there is no program `script` to make a terminal");
        return;
    }
    let repository = Repository::new("slow: {script: ['echo \"begins\"', sleep 2]}\nlast: {stage: deploy, script: echo x}\n");
    let command = format!("{} ci", env!("CARGO_BIN_EXE_gantry"));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let output = terminal.current_dir(repository.path()).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("0/2 jobs done, running: slow") && shown.contains("1/2 jobs done"), "{shown}");
    assert!(shown.contains("2 jobs in"), "{shown}");
}

pub fn bytes_of_every_kind_and_lines_of_any_length_are_kept() {
    let pipeline = "\
job:
  script:
    - printf 'bytes \\377\\376\\0 end\\n'
    - printf '10%%\\r50%%\\r100%%\\n'
    - head -c 3000000 /dev/zero | tr '\\0' '~'; echo
    - printf 'no newline at the end'
";
    let ended = ci(Repository::new(pipeline).path(), &["--keep"]).expect(0).shows("│ 100%").shows("no newline at the end");
    let kept = ended.kept();
    let trace = std::fs::read_dir(kept.join("coordinator/traces")).unwrap().next().unwrap().unwrap().path();
    let trace = coordinator::log::without_stamps(&std::fs::read(trace).unwrap());
    std::fs::remove_dir_all(kept).unwrap();
    let has = |text: &str| trace.windows(text.len()).any(|window| window == text.as_bytes());
    // Row "framing 9": what is no UTF-8 is shown as U+FFFD.
    assert!(has("bytes \u{fffd}\u{fffd}\0 end\n") && has("10%\r50%\r100%\n"));
    // One more is in the command itself.
    assert_eq!(trace.iter().filter(|byte| **byte == b'~').count(), 3_000_001);
    assert_eq!(ended.stdout.matches('~').count(), 3_000_001);
}

pub fn a_job_that_removes_all_it_can_still_ends() {
    // Its sources, the socket that its scripts are started over, all processes that it can see.
    let pipeline = "\
files:
  script:
    - cd / && rm -rf \"$CI_PROJECT_DIR\" /builds/* /gantry/* || true
    - echo the end
  after_script: [echo after the end]
killer:
  script:
    - echo kills
    - kill -9 -1 || true
    - kill -9 1 || true
    - kill -9 $$
  after_script: [echo after all]
";
    let ended = ci(Repository::new(pipeline).path(), &["--json"]).expect(1).shows("│ the end").shows("│ after all");
    let ended = ended.shows("WARNING: after_script failed").shows("does not listen any more");
    let result: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    for job in result["jobs"].as_array().unwrap() {
        println!("    {}: {} {} {}", job["name"], job["status"], job["failure_reason"], job["exit_code"]);
    }
    assert_eq!(result["jobs"][1]["exit_code"], 137);
}

pub fn a_service_that_cannot_start_is_told() {
    let pipeline = |service: &str| format!("job:\n  services: [{service}]\n  script: [sleep 3, echo on]\n");
    let ended = ci(Repository::new(&pipeline("'127.0.0.1:1/no/such'")).path(), &[]).expect(1);
    ended.shows("ERROR: Job failed").shows("127.0.0.1:1/no/such");
    // One that ends by itself is the job's business.
    let ends = "{name: host, alias: short, entrypoint: [/bin/sh, -c], command: ['exit 5']}";
    ci(Repository::new(&pipeline(ends)).path(), &[]).expect(0).shows("│ on");
}

pub fn files_are_passed_on_and_only_those() {
    let pipeline = "\
stages: [one, two]
make:
  stage: one
  script:
    - mkdir -p out/deep && echo kept > out/deep/file && echo excluded > out/file.log && echo other > other
    - ln -s deep/file out/link && printf '#!/bin/sh\\necho it runs' > out/program && chmod 755 out/program
  artifacts: {paths: [out/], exclude: ['**/*.log'], expire_in: 1 hour, name: $CI_JOB_NAME}
use:
  stage: two
  script: [cat out/deep/file out/link, out/program, 'test ! -e out/file.log && test ! -e other']
without:
  stage: two
  dependencies: []
  script: test ! -e out
by_need:
  stage: two
  needs: [{job: make, artifacts: false}]
  script: test ! -e out
";
    ci(Repository::new(pipeline).path(), &[]).expect(0).shows("│ kept").shows("│ it runs");
}
