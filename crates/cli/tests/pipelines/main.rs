//! Whole pipelines on a real machine: the program `gantry ci` in temporary repositories, and its parts in this process.
//!
//! These need root and namespaces. Without root they are skipped, and say so; where root is there and `CI` is set, what
//! cannot run has failed. `/run/gantry` and `/var/lib/gantry` are directories of our own here, so that nothing of the
//! user's is touched and every leftover is ours. After each case the machine must be as it was before.

mod burdens;
mod configuration;
mod gantry;
mod inside;
mod leftovers;
mod parts;
mod places;
mod repository;
mod secrets;
mod stops;
mod verdicts;

use leftovers::Watch;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long pods may take to go after a case.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A case: its name and what it does.
type Case = (&'static str, fn());

macro_rules! cases {
    ($($module:ident: $($name:ident),* $(,)?;)*) => { vec![$($((stringify!($name), $module::$name as fn())),*),*] };
}

fn all() -> Vec<Case> {
    cases![
        configuration:
            an_error_of_syntax_is_told_with_its_place_and_nothing_starts,
            all_errors_of_a_file_are_told_at_once,
            outside_a_repository_a_sentence_says_so,
            a_job_that_is_not_there_is_told,
            a_variable_that_is_none_is_told,
            a_keyword_that_is_not_handled_is_named_in_a_warning;
        verdicts:
            the_example_passes,
            a_failing_script_fails_the_pipeline_and_its_line_is_shown,
            a_failure_that_is_allowed_does_not_count,
            what_comes_after_a_failure_runs,
            a_manual_job_that_blocks_is_told_by_the_exit_code,
            a_named_job_runs_with_what_it_needs,
            a_variable_of_the_command_line_reaches_the_job,
            the_result_is_one_json_object,
            a_job_sees_the_tree_as_it_is_without_ignored_files,
            a_job_that_takes_too_long_is_timed_out,
            a_script_that_reads_its_input_or_leaves_children_ends;
        stops:
            an_image_that_cannot_be_pulled_is_told,
            a_name_that_is_no_image_is_told,
            two_hundred_children_are_gone_after_an_interrupt,
            a_run_that_is_told_to_end_while_an_image_is_pulled_ends,
            an_interrupt_while_it_starts_is_heard,
            a_helper_that_dies_is_told,
            a_build_container_that_dies_is_told,
            a_second_interrupt_exits_at_once_and_the_next_start_cleans,
            a_killed_run_is_swept_by_the_next;
        places:
            a_subdirectory_a_worktree_and_a_shallow_clone_will_do,
            a_repository_without_a_commit_and_with_a_strange_name_will_do,
            the_tools_of_the_user_are_found_and_their_credentials_are_not,
            two_runs_at_once_do_not_disturb_each_other,
            a_reader_that_goes_away_stops_nothing,
            a_terminal_is_told_how_far_it_is,
            bytes_of_every_kind_and_lines_of_any_length_are_kept,
            a_job_that_removes_all_it_can_still_ends,
            a_service_that_cannot_start_is_told,
            files_are_passed_on_and_only_those;
        secrets:
            a_masked_value_never_appears_however_it_is_written,
            a_masked_value_is_in_no_object_but_the_plan;
        inside:
            too_much_memory_is_told_as_such,
            a_hundred_megabytes_are_the_same_on_both_sides;
        burdens:
            thirty_jobs_in_ten_stages_pass,
            a_hundred_megabytes_of_output_are_whole;
    ]
}

fn main() -> ExitCode {
    node::reexec();
    let wanted = Wanted::parse(std::env::args().skip(1));
    let chosen: Vec<_> = all().into_iter().filter(|(name, _)| wanted.takes(name)).collect();
    if wanted.list {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        println!("0 passed, 0 failed");
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("{} skipped, because pods need root", chosen.len());
        return ExitCode::SUCCESS;
    }
    let ours = match prepare() {
        Ok(ours) => ours,
        Err(why) => return cannot(&why, chosen.len()),
    };
    // One line per failure; the rest of a backtrace says nothing about a pipeline.
    std::panic::set_hook(Box::new(|panic| println!("    {panic}")));
    let code = play(&chosen);
    unmount();
    drop(ours);
    code
}

/// Root is there, so on CI this is a failure and not an excuse.
fn cannot(why: &str, cases: usize) -> ExitCode {
    if std::env::var_os("CI").is_some() {
        println!("failed, because {why}");
        println!("0 passed, {cases} failed");
        return ExitCode::FAILURE;
    }
    println!("{cases} skipped, because {why}");
    ExitCode::SUCCESS
}

/// Gives this process and its children a `/run/gantry` and a `/var/lib/gantry` of their own.
fn prepare() -> Result<tempfile::TempDir, String> {
    use std::os::unix::fs::PermissionsExt;
    node::enter().map_err(|error| error.to_string())?;
    cli::ci::install_crypto();
    let agent = parts::agent();
    if !agent.exists() {
        return Err(format!("there is no {}; `cargo xtask agent` builds it", agent.display()));
    }
    let ours = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (name, place) in ["run", "lib"].into_iter().zip(leftovers::DIRECTORIES) {
        let directory = ours.path().join(name);
        let made = std::fs::create_dir_all(place)
            .and_then(|()| std::fs::create_dir(&directory))
            .and_then(|()| std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o711)))
            .and_then(|()| Ok(rustix::mount::mount_bind(&directory, Path::new(place))?));
        made.map_err(|error| format!("{place} cannot be replaced: {error}"))?;
    }
    std::fs::set_permissions(ours.path(), PermissionsExt::from_mode(0o711)).map_err(|error| error.to_string())?;
    Ok(ours)
}

fn unmount() {
    for place in leftovers::DIRECTORIES {
        // The namespace ends with this process anyway.
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
    }
}

fn play(chosen: &[Case]) -> ExitCode {
    let watch = Watch::start();
    let mut failed = 0;
    for (name, case) in chosen {
        let begun = Instant::now();
        let before = watch.read();
        let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
        let left = watch.wait_until_as(&before, GONE_WITHIN);
        for thing in &left {
            println!("    left behind: {thing}");
        }
        let good = passed && left.is_empty();
        failed += usize::from(!good);
        println!("test {name} ... {} ({:.1} s)", if good { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Which cases are wanted, as cargo passes it on.
#[derive(Default)]
struct Wanted {
    list: bool,
    exact: bool,
    ignored: bool,
    names: Vec<String>,
    skip: Vec<String>,
}

impl Wanted {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => wanted.list = true,
                "--exact" => wanted.exact = true,
                "--ignored" => wanted.ignored = true,
                "--skip" => wanted.skip.extend(arguments.next()),
                // These take a value and say nothing about which cases.
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(arguments.next()),
                flag if flag.starts_with('-') => {}
                _ => wanted.names.push(argument),
            }
        }
        wanted
    }

    fn takes(&self, name: &str) -> bool {
        let fits = |part: &String| if self.exact { name == part } else { name.contains(part.as_str()) };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}
