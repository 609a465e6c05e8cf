//! Jobs that cannot start, and runs that are stopped, gently or not.

use crate::gantry::{Gantry, ci};
use crate::leftovers::{agents, instances, processes, read};
use crate::repository::Repository;
use rustix::process::{Signal, kill_process};
use std::time::{Duration, Instant};

fn job(image: &str) -> Repository {
    Repository::new(&format!("job:\n  image: \"{image}\"\n  script: echo never\n"))
}

pub fn an_image_that_cannot_be_pulled_is_told() {
    // GitLab Runner counts a registry that is not there among what is outside of it.
    let reason = "\"failure_reason\":\"runner_external_dependency_failure\"";
    let ended = ci(job("127.0.0.1:1/no/such:1").path(), &["--json"]).expect(1).hides("$ echo never").shows(reason);
    let sentence = "ERROR: Job failed: prepare environment: image pull failed: image 127.0.0.1:1/no/such:1 (container build): ";
    ended.shows(sentence).shows("Connection refused");
}

pub fn a_name_that_is_no_image_is_told() {
    let reason = "\"failure_reason\":\"runner_configuration_error\"";
    let ended = ci(job("UPPER CASE:::").path(), &["--json"]).expect(1).hides("$ echo never").shows(reason);
    ended.shows("ERROR: Job failed: prepare environment: image pull failed: \"UPPER CASE:::\" is not the name of an image (container build)");
}

pub fn two_hundred_children_are_gone_after_an_interrupt() {
    let forks = "for i in $(seq 200); do (trap '' TERM; sleep 1000) & done; echo \"all $((199 + 1)) run\"; wait";
    let repository =
        Repository::new(&format!("job:\n  script:\n    - {forks:?}\nlater: {{stage: deploy, script: echo later}}\n"));
    let mut gantry = Gantry::start(repository.path(), &[]);
    gantry.wait_for("all 200 run");
    let running = processes(&instances()).len();
    assert!(running >= 200, "{running}");
    let begun = Instant::now();
    gantry.signal(Signal::INT);
    gantry.end().expect(130).shows("cancelling the jobs").shows("canceled").hides("$ echo later");
    println!("    {running} processes, gone {:.1} s after the interrupt", begun.elapsed().as_secs_f64());
}

pub fn a_run_that_is_told_to_end_while_an_image_is_pulled_ends() {
    // A registry that takes the connection and never says a word.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/silent:1", listener.local_addr().unwrap());
    let repository = job(&image);
    let mut gantry = Gantry::start(repository.path(), &[]);
    // The log begins when the build container is up, or with the manager's word that it is not.
    gantry.wait_for("Waiting for pod");
    let begun = Instant::now();
    gantry.signal(Signal::TERM);
    gantry.end().expect(130).hides("$ echo never");
    println!("    gone {:.1} s after the signal", begun.elapsed().as_secs_f64());
}

pub fn an_interrupt_while_it_starts_is_heard() {
    let repository = Repository::new("job: {script: sleep 1000}\n");
    let mut gantry = Gantry::start(repository.path(), &[]);
    gantry.wait_until("the node is made", |_| !instances().is_empty());
    gantry.signal(Signal::INT);
    gantry.end().expect(130).shows("interrupted");
}

/// Kills the agents of a container of the only job there is, from outside.
fn without_its(container: &str) {
    let repository = Repository::new("job:\n  script: ['echo \"it runs: $((1+1))\"', sleep 1000]\n");
    let mut gantry = Gantry::start(repository.path(), &["--json"]);
    gantry.wait_until("the job runs", |gantry| gantry.printed("stderr").contains("it runs: 2"));
    let killed = agents(&instances(), container);
    assert!(!killed.is_empty());
    for process in killed {
        let _ = kill_process(process, Signal::KILL);
    }
    let begun = Instant::now();
    let ended = gantry.end().expect(1).shows("\"failure_reason\":\"runner_system_failure\"").shows("ERROR: Job failed");
    let told = ended.stderr.lines().find(|line| line.contains("ERROR: Job failed")).unwrap();
    println!("    {:.1} s later: {told}", begun.elapsed().as_secs_f64());
}

pub fn a_helper_that_dies_is_told() {
    without_its("helper");
}

pub fn a_build_container_that_dies_is_told() {
    without_its("build");
}

pub fn a_second_interrupt_exits_at_once_and_the_next_start_cleans() {
    let repository = Repository::new("job:\n  script: [\"trap '' TERM INT\", 'echo \"it runs: $((1+1))\"', sleep 1000]\n");
    let mut gantry = Gantry::start(repository.path(), &[]);
    gantry.wait_for("it runs: 2");
    gantry.signal(Signal::INT);
    gantry.wait_for("cancelling the jobs");
    gantry.signal(Signal::INT);
    let begun = Instant::now();
    gantry.end().expect(130);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    next_start(&Repository::new("job:\n  script: echo next\n"));
}

pub fn a_killed_run_is_swept_by_the_next() {
    let jobs = (1..=5).map(|number| format!("job{number}: {{script: ['echo \"job {number} runs: $((1+1))\"', sleep 1000]}}\n"));
    let repository = Repository::new(&jobs.collect::<String>());
    let mut gantry = Gantry::start(repository.path(), &[]);
    for number in 1..=5 {
        gantry.wait_for(&format!("job {number} runs: 2"));
    }
    gantry.signal(Signal::KILL);
    assert_eq!(gantry.end().code, None);
    let left = instances();
    let things = read(&left);
    let count = |kind: &str| things.iter().filter(|thing| thing.starts_with(kind)).count();
    println!(
        "    killed: {} directories, {} processes, {} groups, {} interfaces",
        count("directory"),
        count("process"),
        count("group"),
        count("interface")
    );
    assert!(count("process") >= 5 && count("group") >= 5 && count("interface") >= 5, "{things:?}");
    next_start(&Repository::new("job:\n  script: echo next\n"));
}

/// The next run tells what it swept; that nothing is left is seen after the case.
fn next_start(repository: &Repository) {
    ci(repository.path(), &[]).expect(0).shows("removed what an earlier run had left").shows("│ next");
}
