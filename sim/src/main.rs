//! `cargo xtask sim`: plays seeds and says which fail.

use clap::Parser;
use sim::many;
use std::process::ExitCode;

/// Plays schedules of faults against the shipped manager, in virtual time.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one, with all that happens
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Threads; by default one for each processor
    #[arg(long)]
    jobs: Option<usize>,
    /// End after so many seeds that fail
    #[arg(long, default_value_t = 20)]
    failures: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    many::catch_panics();
    if let Some(seed) = arguments.seed {
        let outcome = sim::play(seed, true);
        for line in &outcome.log {
            println!("{line}");
        }
        return told(&[(seed, outcome.violations)]);
    }
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let tally = many::play_many(seeds, jobs, arguments.failures, |seed, violations| {
        println!("seed {seed}: {}", violations.join("\n    "));
    });
    println!(
        "{} schedules of {} s on average in {:.1} s: {:.0} a minute, {} failed",
        tally.played,
        tally.simulated.as_secs() / tally.played.max(1),
        tally.took.as_secs_f64(),
        tally.per_minute(),
        tally.failed.len()
    );
    told(&tally.failed)
}

/// The end: how to see a failure again.
fn told(failed: &[(u64, Vec<String>)]) -> ExitCode {
    let Some((seed, violations)) = failed.iter().find(|(_, violations)| !violations.is_empty()) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("seed {seed} failed: {}\nagain, with all that happens: cargo xtask sim --seed {seed}", violations.join("\n    "));
    ExitCode::FAILURE
}
