//! Seeds of the simulation: the first ones, and those that once failed.

use sim::many;

/// How many: half a minute without optimization. `cargo xtask sim` plays more, and faster.
const SEEDS: u64 = 500;
/// Seeds that found something, with what it was.
const KEPT: &str = include_str!("../regressions.txt");

#[test]
fn no_schedule_breaks_an_invariant() {
    many::catch_panics();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let tally = many::play_many(1..SEEDS + 1, jobs, 5, |seed, violations| {
        println!("seed {seed}: {}; again: cargo xtask sim --seed {seed}", violations.join("\n    "));
    });
    println!("{} schedules, {:.0} a minute", tally.played, tally.per_minute());
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
}

#[test]
fn seeds_that_once_failed_do_so_no_more() {
    let seeds = KEPT.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let failed: Vec<_> =
        seeds.map(|seed| (seed, sim::play(seed, false).violations)).filter(|(_, found)| !found.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
