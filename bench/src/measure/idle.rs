//! Many `[[runners]]` entries without jobs: memory, and whether each of them is asking all the time.

use super::Bench;
use crate::percentiles::{Sample, count};
use crate::report::Place;
use crate::runner::Contender;
use anyhow::Result;
use std::time::{Duration, Instant};

const GOAL_MEGABYTES: f64 = 40.0;
/// All entries have asked by then, when they do at all.
const SETTLING: Duration = Duration::from_secs(10);
/// Longer than a question is held, so that every entry asks anew once.
const LOOKING: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(50);

/// Measures one runner.
pub async fn measure(bench: &mut Bench, contender: &Contender) -> Result<()> {
    let entries = bench.settings.idle;
    eprintln!("{entries} idle entries: {}", contender.name);
    let running = bench.start(contender, entries).await?;
    tokio::time::sleep(SETTLING).await;
    let (before, began) = (running.usage()?, Instant::now());
    let mut open = Vec::new();
    while began.elapsed() < LOOKING {
        open.push(running.tokens.iter().map(|token| bench.stand_in.questions(token).1.min(1)).sum::<usize>());
        tokio::time::sleep(EVERY).await;
    }
    let usage = running.usage()?;
    let asked: u64 = running.tokens.iter().map(|token| bench.stand_in.questions(token).0).sum();
    let gap = running.tokens.iter().map(|token| bench.stand_in.longest_gap(token)).max().unwrap_or_default();
    let silent = running.tokens.iter().filter(|token| bench.stand_in.questions(token).0 == 0).count();
    running.stop().await?;
    let section = format!("{entries} idle entries");
    let place = Place { section: &section, of: &contender.name };
    let report = &mut bench.report;
    report.add_with_goal(place, "RSS", (Some(usage.megabytes()), "MB"), Some(GOAL_MEGABYTES));
    let cores = usage.cpu.saturating_sub(before.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    report.add(place, "cores", Some(cores), "");
    report.add(place, "file descriptors", Some(count(usize::try_from(usage.fds).unwrap_or(usize::MAX))), "");
    report.add(place, "threads", Some(count(usize::try_from(usage.threads).unwrap_or(usize::MAX))), "");
    let sample = Sample::new(open.iter().map(|number| count(*number)));
    report.add(place, "entries with an open question, mean", sample.mean(), "");
    report.add(place, "entries with an open question, fewest", sample.percentile(0), "");
    report.add(place, "longest time of an entry without an open question", Some(gap.as_secs_f64() * 1000.0), "ms");
    report.add(place, "questions so far", Some(count(usize::try_from(asked).unwrap_or(usize::MAX))), "");
    report.add_with_goal(place, "entries that never asked", (Some(count(silent)), ""), Some(0.0));
    Ok(())
}
