//! Pods on a real machine, through a real client.
//!
//! These need root and namespaces. Without root they are skipped, and say so; where root is there and `CI` is set, what
//! cannot run has failed. Ends with a line `N passed, N failed`.

#[path = "pods/bench.rs"]
mod bench;
#[path = "pods/leftovers.rs"]
mod leftovers;
#[path = "pods/scenarios.rs"]
mod scenarios;

use bench::Bench;
use futures::FutureExt;
use futures::future::BoxFuture;
use leftovers::{Counts, count};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long one scenario may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes this program a node that leaves its pods behind.
const LEAVE_PODS: &str = "leave-pods";

type Scenario = (&'static str, for<'a> fn(&'a Bench) -> BoxFuture<'a, ()>);

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => { vec![$((stringify!($name), |bench| Box::pin(scenarios::$name(bench)))),*] };
}

fn all() -> Vec<Scenario> {
    scenarios![
        a_script_succeeds_and_its_log_is_kept,
        a_script_fails_with_its_exit_code_and_message,
        a_program_that_does_not_exist_is_a_start_error,
        too_much_memory_is_oom_killed,
        an_image_that_cannot_be_had_is_told_and_the_pod_goes_at_once,
        secrets_come_as_files_and_environment,
        a_missing_secret_is_waited_for,
        containers_share_a_directory_and_localhost,
        memory_volumes_are_bounded,
        a_deleted_pod_has_its_grace_period,
        a_pod_that_runs_too_long_is_ended,
        commands_run_in_a_running_container,
        a_command_can_have_a_terminal,
        the_helper_image_has_the_agent,
        a_container_has_what_its_security_context_says,
        a_part_of_a_volume_is_mounted,
        what_a_node_does_not_serve_is_told,
        a_pod_reaches_the_ports_of_its_machine_that_are_allowed,
        the_volumes_belong_to_the_group,
        init_containers_and_sidecars_run_in_their_order,
        a_pod_that_fits_nowhere_waits_with_a_sentence,
        a_container_is_started_again_when_its_policy_says_so,
        a_long_log_is_whole,
        two_hundred_children_are_gone_with_their_pod,
        many_pods_at_once_all_succeed,
        the_first_byte_comes_fast,
    ]
}

fn main() -> ExitCode {
    node::reexec();
    if let Some(directory) = std::env::args().skip_while(|argument| argument != LEAVE_PODS).nth(1) {
        return leave_pods(Path::new(&directory));
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<_> = all()
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())))
        .collect();
    if chosen.is_empty() {
        println!("0 passed, 0 failed");
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("{} skipped, because pods need root", chosen.len());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = node::enter() {
        return cannot(&error.to_string(), chosen.len());
    }
    // One line per failure; the rest of a backtrace says nothing about a pod.
    std::panic::set_hook(Box::new(|panic| println!("    {panic}")));
    runtime().block_on(play(chosen))
}

/// Root is there, so on CI this is a failure and not an excuse.
fn cannot(why: &str, scenarios: usize) -> ExitCode {
    if std::env::var_os("CI").is_some() {
        println!("failed, because {why}");
        println!("0 passed, {scenarios} failed");
        return ExitCode::FAILURE;
    }
    println!("{scenarios} skipped, because {why}");
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made")
}

/// A node that runs pods until it is killed.
fn leave_pods(directory: &Path) -> ExitCode {
    node::enter().expect("the parent could");
    std::panic::set_hook(Box::new(|panic| println!("    {panic}")));
    runtime().block_on(async {
        let bench = Bench::start(directory).await.expect("the parent could");
        for number in 0..5 {
            scenarios::sleeping(&bench, &format!("left-{number}")).await;
        }
        println!("ready");
        std::future::pending().await
    })
}

/// Kills a node that runs five pods, and starts another one.
async fn a_killed_node_is_swept_by_the_next(directory: &Path, names: &mut BTreeSet<String>) {
    let program = std::env::current_exe().unwrap();
    let mut command = tokio::process::Command::new(program);
    let mut child =
        command.arg(LEAVE_PODS).arg(directory).stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("five pods run").unwrap();
    assert_eq!(ready.as_deref(), Some("ready"));
    names.extend(leftovers::instances());
    child.kill().await.unwrap();
    let bench = Bench::start(directory).await.unwrap();
    let swept = bench.node.swept();
    println!("    {swept:?}");
    assert!(swept.instances >= 1 && swept.processes >= 5, "{swept:?}");
    names.extend(leftovers::instances());
    bench.node.shutdown().await;
}

async fn play(chosen: Vec<Scenario>) -> ExitCode {
    let directory = tempfile::tempdir().expect("a directory can be made");
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect("it is ours");
    let others = leftovers::instances();
    let bench = match Bench::start(directory.path()).await {
        Ok(bench) => bench,
        Err(error) => return cannot(&error.to_string(), chosen.len()),
    };
    // Another run of these tests may be going on; what is new is ours.
    let mut names = leftovers::instances();
    names.retain(|name| !others.contains(name));
    let mut tally = Tally::default();
    for (name, scenario) in chosen {
        tally.play(name, scenario(&bench)).await;
    }
    tally.play("a_node_ends_with_a_pod_that_runs", scenarios::sleeping(&bench, "left-running")).await;
    bench.node.shutdown().await;
    drop(bench);
    tally.play("nothing_is_left_behind", nothing_of(&names, directory.path())).await;
    let sweeping = a_killed_node_is_swept_by_the_next(directory.path(), &mut names);
    tally.play("a_killed_node_is_swept_by_the_next", sweeping).await;
    tally.play("nothing_is_left_behind_by_the_killed_one", nothing_of(&names, directory.path())).await;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn nothing_of(names: &BTreeSet<String>, directory: &Path) {
    assert!(!names.is_empty(), "a node has a name");
    assert_eq!(count(names, directory), Counts::default());
    assert!(leftovers::instances().is_disjoint(names), "the directory of a node is left");
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    async fn play(&mut self, name: &str, scenario: impl Future<Output = ()>) {
        let start = Instant::now();
        let outcome = tokio::time::timeout(PATIENCE, AssertUnwindSafe(scenario).catch_unwind()).await;
        let word = match outcome {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED",
            Err(_) => "FAILED: it took too long",
        };
        *(if word == "ok" { &mut self.passed } else { &mut self.failed }) += 1;
        println!("{name} ... {word} ({:?})", start.elapsed());
    }
}
