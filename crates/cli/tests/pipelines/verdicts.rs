//! How jobs end, what runs after them, and what the user gets told.

use crate::gantry::{Ended, ci};
use crate::repository::Repository;
use std::path::Path;

fn run(pipeline: &str, arguments: &[&str]) -> Ended {
    ci(Repository::new(pipeline).path(), arguments)
}

/// The JSON object of a run.
fn result(ended: &Ended) -> serde_json::Value {
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// `name status` of all jobs of a run.
fn statuses(ended: &Ended) -> Vec<String> {
    let jobs = result(ended)["jobs"].as_array().unwrap().clone();
    jobs.iter().map(|job| format!("{} {}", job["name"].as_str().unwrap(), job["status"].as_str().unwrap())).collect()
}

pub fn the_example_passes() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/.gitlab-ci.yml");
    let ended = run(&std::fs::read_to_string(example).unwrap(), &[]).expect(0);
    let lines = ["Hello from compile at", "Hello from the service", "31 out/greeting.txt", "3 jobs in", "passed"];
    lines.iter().fold(ended, |ended, line| ended.shows(line));
}

pub fn a_failing_script_fails_the_pipeline_and_its_line_is_shown() {
    let ended = run("job:\n  script:\n    - echo before\n    - ls /no/such/place\n    - echo after\n", &[]).expect(1);
    ended.shows("$ ls /no/such/place").shows("cannot access '/no/such/place'").shows("(exit code 2)").hides("$ echo after");
}

pub fn a_failure_that_is_allowed_does_not_count() {
    let pipeline = "a:\n  stage: build\n  script: exit 3\n  allow_failure: true\nb:\n  stage: test\n  script: echo on\n";
    run(pipeline, &[]).expect(0).shows("exit code 3), allowed").shows("$ echo on");
    let codes = "a:\n  script: exit 3\n  allow_failure: {exit_codes: 4}\n";
    run(codes, &[]).expect(1).shows("exit code 3)").hides("allowed");
}

pub fn what_comes_after_a_failure_runs() {
    let pipeline = "\
stages: [one, two]
bad:
  stage: one
  script: exit 7
  after_script: ['echo \"after: $CI_JOB_STATUS\"']
  artifacts: {when: always, paths: [.gitlab-ci.yml]}
usual:
  stage: two
  script: echo never
rescue:
  stage: two
  when: on_failure
  script: echo rescued
always:
  stage: two
  when: always
  script: echo anyhow
";
    let ended = run(pipeline, &["--json"]).expect(1).shows("after: failed").hides("$ echo never");
    assert_eq!(statuses(&ended), ["bad failed", "usual skipped", "rescue success", "always success"]);
}

pub fn a_manual_job_that_blocks_is_told_by_the_exit_code() {
    let pipeline = |allow: bool| {
        format!(
            "a:\n  stage: build\n  script: echo x\n  when: manual\n  allow_failure: {allow}\nb:\n  stage: test\n  script: echo y\n"
        )
    };
    let ended = run(&pipeline(false), &["--json"]).expect(3).hides("$ echo x").hides("$ echo y");
    assert_eq!(result(&ended)["status"], "blocked");
    run(&pipeline(true), &[]).expect(0).hides("$ echo x").shows("$ echo y");
    // Named, it is meant.
    run(&pipeline(false), &["a"]).expect(0).shows("$ echo x");
}

pub fn a_named_job_runs_with_what_it_needs() {
    let pipeline = "\
a: {stage: build, script: 'echo 1 > one', artifacts: {paths: [one]}}
b: {stage: test, needs: [a], script: 'cat one'}
c: {stage: test, script: echo c}
d: {stage: deploy, script: echo d}
";
    let ended = run(pipeline, &["--json", "b"]).expect(0).hides("$ echo c").hides("$ echo d");
    assert_eq!(statuses(&ended), ["a success", "b success"]);
}

pub fn a_variable_of_the_command_line_reaches_the_job() {
    let pipeline = "variables: {A: from the file}\njob:\n  script:\n    - echo \"A is <$A>, B is <$B>\"\n";
    run(pipeline, &["--var", "A=b = c", "--var", "B=$A"]).expect(0).shows("A is <b = c>, B is <b = c>");
    let rules = "job:\n  script: echo x\n  rules: [{if: '$GO == \"yes\"'}]\nother: {script: echo other}\n";
    run(rules, &["--var", "GO=yes"]).expect(0).shows("$ echo x");
    run(rules, &[]).expect(0).hides("$ echo x");
}

pub fn the_result_is_one_json_object() {
    let ended = run("good: {script: echo well}\nbad: {script: exit 4}\n", &["--json"]).expect(1);
    assert!(ended.stderr.contains("│ well"), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["status"], "failed");
    assert_eq!(result["sha"].as_str().unwrap().len(), 40);
    let bad = result["jobs"].as_array().unwrap().iter().find(|job| job["name"] == "bad").unwrap().clone();
    assert_eq!((&bad["status"], &bad["failure_reason"]), (&"failed".into(), &"script_failure".into()));
    assert_eq!((&bad["exit_code"], &bad["stage"]), (&4.into(), &"test".into()));
    assert!(bad["seconds"].as_f64().unwrap() > 0.0);
}

pub fn a_job_sees_the_tree_as_it_is_without_ignored_files() {
    let pipeline =
        "job:\n  script:\n    - cat tracked new\n    - test ! -e ignored && test ! -e gone\n    - git status --short\n";
    let files = [(".gitlab-ci.yml", pipeline), (".gitignore", "ignored\n"), ("tracked", "old\n"), ("gone", "")];
    let repository = Repository::with(&files);
    repository.write("tracked", "changed just now\n");
    repository.write("new", "nobody added this\n");
    repository.write("ignored", "x");
    std::fs::remove_file(repository.path().join("gone")).unwrap();
    let index = || std::fs::read(repository.path().join(".git/index")).unwrap();
    let before = index();
    ci(repository.path(), &[]).expect(0).shows("changed just now").shows("nobody added this");
    assert!(index() == before);
    assert_eq!(std::fs::read_to_string(repository.path().join("ignored")).unwrap(), "x");
}

pub fn a_job_that_takes_too_long_is_timed_out() {
    let pipeline = "job:\n  timeout: 3 seconds\n  script: ['echo begun', 'sleep 1000']\n  after_script: [echo cleaned]\n";
    let ended = run(pipeline, &["--json"]).expect(1).shows("begun").shows("execution took longer than 3s");
    let job = result(&ended)["jobs"][0].clone();
    assert_eq!(job["failure_reason"], "job_execution_timeout");
    assert!(job["seconds"].as_f64().unwrap() < 60.0, "{job}");
}

pub fn a_script_that_reads_its_input_or_leaves_children_ends() {
    let pipeline =
        "job:\n  script:\n    - cat\n    - sleep 1000 &\n    - (setsid sleep 1000 > /dev/null 2>&1 &)\n    - echo all the same\n";
    run(pipeline, &[]).expect(0).shows("│ all the same");
}
