//! What the manager needs per running job: jobs that print a line a second, in several numbers.

use super::Bench;
use crate::percentiles::{count, slope};
use crate::process::Usage;
use crate::report::Place;
use crate::runner::Contender;
use crate::svg::{Chart, Line};
use anyhow::Result;
use std::time::Duration;

const GOAL_MEGABYTES_A_JOB: f64 = 0.1;
const GOAL_CPU_A_JOB: f64 = 0.04;
/// How long a manager without jobs is looked at.
const REST: Duration = Duration::from_secs(10);

/// All numbers of jobs; answers a line of memory over jobs.
pub async fn measure(bench: &mut Bench, contender: &Contender) -> Result<Line> {
    let mut points = Vec::new();
    let sizes: Vec<_> = [0].into_iter().chain(bench.settings.sizes.clone()).collect();
    for size in sizes {
        let highest = at(bench, contender, size).await?;
        points.push((count(size), highest.megabytes()));
    }
    let place = Place { section: "The manager, per running job", of: &contender.name };
    bench.report.add_with_goal(place, "RSS a job (slope)", (slope(&points), "MB"), Some(GOAL_MEGABYTES_A_JOB));
    Ok(Line { name: contender.name.clone(), points })
}

async fn at(bench: &mut Bench, contender: &Contender, size: usize) -> Result<Usage> {
    let seconds = bench.settings.job_seconds;
    eprintln!("{size} jobs of {seconds} s: {}", contender.name);
    let running = bench.start(contender, 1).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = running.usage()?;
    let mut highest = before;
    if size == 0 {
        tokio::time::sleep(REST).await;
        highest = running.usage()?;
    } else {
        let scenario = bench.scenario("lines")?.with("seconds", seconds);
        let ids = bench.offer(&running, &scenario, size);
        let ending = bench.ended(&running, &ids, Duration::from_secs(seconds));
        tokio::pin!(ending);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let jobs = loop {
            tokio::select! {
                jobs = &mut ending => break jobs?,
                _ = ticks.tick() => {
                    let now = running.usage()?;
                    highest.rss_bytes = highest.rss_bytes.max(now.rss_bytes);
                    highest.threads = highest.threads.max(now.threads);
                    highest.fds = highest.fds.max(now.fds);
                }
            }
        };
        anyhow::ensure!(jobs.len() == size, "{} of {size} jobs are known", jobs.len());
        bench.cluster.become_empty().await?;
    }
    let cpu = running.usage()?.cpu.saturating_sub(before.cpu).as_secs_f64();
    running.stop().await?;
    let section = format!("The manager with {size} running jobs");
    let place = Place { section: &section, of: &contender.name };
    bench.report.add(place, "RSS, highest", Some(highest.megabytes()), "MB");
    bench.report.add(place, "threads", Some(number(highest.threads)), "");
    bench.report.add(place, "file descriptors", Some(number(highest.fds)), "");
    if size > 0 {
        let goal = (seconds == 90).then_some(GOAL_CPU_A_JOB);
        bench.report.add_with_goal(place, &format!("CPU per job of {seconds} s"), (Some(cpu / count(size)), "s"), goal);
    } else {
        bench.report.add(place, "cores", Some(cpu / REST.as_secs_f64()), "");
    }
    Ok(highest)
}

fn number(value: u64) -> f64 {
    count(usize::try_from(value).unwrap_or(usize::MAX))
}

/// The plot of all runners.
pub fn chart(lines: Vec<Line>) -> Chart {
    Chart {
        title: "Memory of the manager".to_owned(),
        across: "running jobs".to_owned(),
        up: "MB (RSS, highest)".to_owned(),
        lines,
    }
}
