//! Managers in processes of their own: jobs end well whatever becomes of them.

use crate::bench::{Bench, wait_for};
use crate::gitlab::GitLab;
use coordinator::JobStatus;
use rustix::process::Signal;
use std::time::Duration;

/// How long a manager may take to leave.
const LEAVING: Duration = Duration::from_secs(5);

#[test]
fn a_job_goes_from_gitlab_through_the_manager_to_the_node_and_back() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let _manager = gitlab.manager("manager.log");
    let job = gitlab.job("cat hello.txt\necho \"host $(hostname)\"");
    let ended = gitlab.ends(job);
    let trace = gitlab.trace(job);
    assert_eq!(ended.status, JobStatus::Success, "{trace}");
    assert!(trace.contains("hello from the repository") && trace.contains("Job succeeded"), "{trace}");
    bench.is_clean();
    let failed = gitlab.ends(gitlab.job("exit 9"));
    let told = (failed.status, failed.failure_reason.as_deref(), failed.exit_code);
    assert_eq!(told, (JobStatus::Failed, Some("script_failure"), Some(9)));
    bench.is_clean();
}

#[test]
fn a_manager_that_is_told_to_stop_leaves_in_time_and_the_next_one_finishes_its_job() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let mut first = gitlab.manager("first.log");
    let job = gitlab.job(&format!("echo begun\n{}\necho passed", gitlab.gate()));
    gitlab.prints(job, "begun");
    first.signal(Signal::TERM);
    assert!(first.ends_within(LEAVING).success());
    let (pod, phase) = bench.only_pod();
    assert_eq!(phase, "Running", "the pod goes on");
    let before = gitlab.trace(job).len();
    wait_for("more of the log without a manager", || (gitlab.trace(job).len() > before).then_some(()));
    let second = gitlab.manager("second.log");
    wait_for("the second manager", || second.output().contains("job gone on with").then_some(()));
    assert_eq!(bench.only_pod().0, pod, "no other pod for the same job");
    let _open = gitlab.open_gate();
    let ended = gitlab.ends(job);
    let trace = gitlab.trace(job);
    assert_eq!(ended.status, JobStatus::Success, "{trace}");
    assert_eq!(trace.matches("\nbegun").count(), 1, "the job ran once: {trace}");
    assert!(trace.lines().any(|line| line.trim_end() == "passed"), "{trace}");
    bench.is_clean();
}

#[test]
fn a_configuration_that_changes_takes_effect_without_a_restart_and_a_broken_one_changes_nothing() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let mut manager = gitlab.manager("manager.log");
    let running = gitlab.job(&format!("echo begun\n{}\necho passed", gitlab.gate()));
    gitlab.prints(running, "begun");
    let path = bench.path("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("concurrent = 4", "concurrent = ")).unwrap();
    wait_for("the complaint", || manager.output().contains("cannot be used, the one before stays").then_some(()));
    let token = gitlab.coordinator.register_runner("another").unwrap();
    let old = config.lines().find(|line| line.starts_with("token")).unwrap();
    let rotated = config.replace(old, &format!("token = \"{token}\"\nenvironment = [\"SEASON=autumn\"]"));
    std::fs::write(&path, rotated).unwrap();
    wait_for("the new configuration", || (manager.output().matches("configuration loaded").count() == 2).then_some(()));
    let next = gitlab.job("echo in $SEASON");
    gitlab.ends(next);
    let trace = gitlab.trace(next);
    assert!(trace.contains("\nin autumn"), "{trace}");
    manager.signal(Signal::HUP);
    wait_for("the hangup", || manager.output().contains("SIGHUP").then_some(()));
    let _open = gitlab.open_gate();
    let ended = gitlab.ends(running);
    assert_eq!(ended.status, JobStatus::Success, "{}", gitlab.trace(running));
    bench.is_clean();
    assert_eq!(manager.output().matches("cannot be used").count(), 1, "it is told once");
    // One wish that came twice.
    manager.signal(Signal::TERM);
    manager.signal(Signal::INT);
    assert!(manager.ends_within(LEAVING).success());
}

#[test]
fn a_killed_manager_costs_no_job_and_leaves_nothing_behind() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let mut first = gitlab.manager("first.log");
    let script = format!("echo begun\n{}\nexit 7", gitlab.gate());
    let (ends_alone, ends_with_another) = (gitlab.job(&script), gitlab.job("echo begun\nwhile true; do echo .; sleep 0.2; done"));
    gitlab.prints(ends_alone, "begun");
    gitlab.prints(ends_with_another, "begun");
    first.signal(Signal::KILL);
    first.ends_within(LEAVING);
    // Without any manager, the pod tells GitLab its verdict by itself.
    let open = gitlab.open_gate();
    let ended = gitlab.ends(ends_alone);
    let told = (ended.status, ended.failure_reason.as_deref(), ended.exit_code);
    assert_eq!(told, (JobStatus::Failed, Some("script_failure"), Some(7)), "{}", gitlab.trace(ends_alone));
    assert_eq!((bench.pods().len(), bench.secrets().len()), (2, 2), "nobody has cleaned up yet");
    drop(open);
    let _second = gitlab.manager("second.log");
    wait_for("the end of the pod of the ended job", || (bench.pods().len() == 1).then_some(()));
    gitlab.coordinator.cancel_pipeline(ends_with_another).unwrap();
    assert_eq!(gitlab.ends(ends_with_another).status, JobStatus::Canceled, "{}", gitlab.trace(ends_with_another));
    bench.is_clean();
}

#[test]
fn a_job_that_takes_too_much_memory_is_told_to_raise_its_limit() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "memory_limit = \"64Mi\"");
    let _manager = gitlab.manager("manager.log");
    let job = gitlab.job("x=$(head -c 300000000 /dev/zero | tr '\\0' x)\necho not reached");
    let ended = gitlab.ends(job);
    let trace = gitlab.trace(job);
    let told = (ended.status, ended.failure_reason.as_deref(), ended.exit_code);
    assert_eq!(told, (JobStatus::Failed, Some("script_failure"), Some(137)), "{trace}");
    assert!(trace.contains("the kernel killed a process for lack of memory, raise the memory limit"), "{trace}");
    assert!(!trace.contains("\nnot reached"), "{trace}");
    bench.is_clean();
}

#[test]
fn a_log_of_100_mb_is_exact_and_no_byte_of_it_passes_the_manager() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let manager = gitlab.manager("manager.log");
    assert_eq!(gitlab.ends(gitlab.job("echo small")).status, JobStatus::Success);
    bench.is_clean();
    let before = manager.peak_memory();
    let ended = gitlab.ends(gitlab.job("head -c 100000000 /dev/zero | tr '\\0' x | fold -w 99"));
    assert_eq!(ended.status, JobStatus::Success);
    let facts = gitlab.coordinator.trace_facts(ended.id).unwrap();
    assert!(facts.bytes > 100_000_000, "{facts:?}");
    assert_eq!(facts.reported_bytes, Some(facts.bytes));
    assert_eq!(facts.reported_checksum, Some(format!("crc32:{:08x}", facts.crc32)));
    bench.is_clean();
    let grown = manager.peak_memory() - before;
    println!("the manager's memory grew by {grown} KiB from {before} KiB over a log of {} bytes", facts.bytes);
    assert!(grown < 4096, "the manager grew by {grown} KiB");
}

#[test]
fn a_manager_sees_that_its_node_died_with_the_pods() {
    let Some(mut bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let manager = gitlab.manager("manager.log");
    let job = gitlab.job("echo begun\nsleep 1000");
    gitlab.prints(job, "begun");
    drop(gitlab);
    // GitLab's address goes with the node here, so that only the manager can say what it has found.
    bench.another_node();
    wait_for("the verdict", || manager.output().contains("job ended, telling GitLab").then_some(()));
    let text = manager.output();
    let verdict = text.lines().find(|line| line.contains("telling GitLab")).unwrap();
    assert!(verdict.contains("state=\"failed\" reason=\"runner_system_failure\""), "{verdict}");
    assert!(!text.contains(" ERROR "), "{text}");
}

#[test]
fn a_token_that_gitlab_does_not_know_is_told_and_never_shown() {
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let path = bench.path("config.toml");
    let config = std::fs::read_to_string(&path).unwrap().replace("token = \"", "token = \"wrong-and-secret-");
    std::fs::write(&path, config).unwrap();
    let mut manager = gitlab.manager("manager.log");
    wait_for("the refusal", || manager.output().contains("does not accept the token").then_some(()));
    manager.signal(Signal::TERM);
    assert!(manager.ends_within(LEAVING).success());
    assert!(!manager.output().contains("and-secret"), "{}", manager.output());
}
