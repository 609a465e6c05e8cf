//! How long a job waits: handed out → the script's first line at GitLab → the final state.

use super::Bench;
use super::bare::{self, Floor};
use crate::percentiles::Sample;
use crate::report::{Place, Report};
use crate::runner::Contender;
use crate::stand_in::Job;
use crate::svg::{Chart, Line, shares};
use anyhow::Result;
use std::time::{Duration, Instant};

pub const SERIAL: &str = "One job at a time";
pub const BURST: &str = "All at once";
/// First line of a job alone, image present.
const GOAL_FIRST_LINE: f64 = 1.2;
/// Last first line of a burst, in parts of what bare pods take.
const GOAL_RATIO: f64 = 1.0;

/// Jobs one after another, in turns: a bare pod, then a job of each runner. The machine's hour is the same for all.
pub async fn serial(bench: &mut Bench) -> Result<()> {
    let (number, scenario, contenders) = (bench.settings.serial, bench.scenario("trivial")?, bench.contenders.clone());
    eprintln!("{number} turns of a bare pod and a job of each runner");
    let (mut pods, mut runners) = (Vec::new(), Vec::new());
    for contender in &contenders {
        runners.push((bench.start(contender, 1).await?, Vec::new()));
    }
    for turn in 0..number {
        eprint!("\r  turn {} of {number}", turn + 1);
        pods.push(bare::one(bench, turn).await?);
        for (running, jobs) in &mut runners {
            let ids = bench.offer(running, &scenario, 1);
            jobs.extend(bench.ended(running, &ids, Duration::ZERO).await?);
            bench.cluster.become_empty().await?;
        }
    }
    eprintln!();
    let place = Place { section: SERIAL, of: "bare pods" };
    let outputs = Sample::of_times(pods.iter().map(|pod| pod.output));
    percentiles(&mut bench.report, place, "first line", &outputs);
    percentiles(&mut bench.report, place, "ended", &Sample::of_times(pods.iter().map(|pod| pod.ended)));
    for (contender, (running, jobs)) in contenders.iter().zip(runners) {
        running.stop().await?;
        let place = Place { section: SERIAL, of: &contender.name };
        let first = times(&jobs, |job| job.first_line);
        percentiles(&mut bench.report, place, "first line", &first);
        percentiles(&mut bench.report, place, "ended", &times(&jobs, |job| job.ended));
        bench.report.add(place, "confirmed, p50", times(&jobs, |job| job.confirmed).percentile(50), "s");
        let ratio = first.percentile(50).zip(outputs.percentile(50)).map(|(ours, bare)| ours / bare);
        bench.report.add(place, "first line, p50: times a bare pod's first output", ratio, "");
    }
    Ok(())
}

fn percentiles(report: &mut Report, place: Place<'_>, what: &str, sample: &Sample) {
    for percent in [50, 90, 99] {
        let goal = (percent == 50 && what == "first line" && place.of != "bare pods").then_some(GOAL_FIRST_LINE);
        report.add_with_goal(place, &format!("{what}, p{percent}"), (sample.percentile(percent), "s"), goal);
    }
}

/// One burst of a runner, in seconds since the first job was handed out.
#[derive(Clone)]
pub struct Burst {
    handed_out: Vec<f64>,
    first_lines: Vec<f64>,
    ended: Vec<f64>,
    /// What bare pods took just before.
    floor: Floor,
}

/// Jobs at once.
pub async fn burst(bench: &mut Bench, contender: &Contender, floor: Floor) -> Result<Burst> {
    let (number, scenario) = (bench.settings.burst, bench.scenario("trivial")?);
    eprintln!("{number} jobs at once: {}", contender.name);
    let running = bench.start(contender, 1).await?;
    let ids = bench.offer(&running, &scenario, number);
    let jobs = bench.ended(&running, &ids, Duration::ZERO).await?;
    bench.cluster.become_empty().await?;
    running.stop().await?;
    let began = jobs.iter().filter_map(|job| job.handed_out).min().unwrap_or_else(Instant::now);
    let since = |at: &dyn Fn(&Job) -> Option<Instant>| -> Vec<f64> {
        jobs.iter().filter_map(at).map(|at| at.saturating_duration_since(began).as_secs_f64()).collect()
    };
    let (handed_out, first_lines, ended) = (since(&|job| job.handed_out), since(&|job| job.first_line), since(&|job| job.ended));
    Ok(Burst { handed_out, first_lines, ended, floor })
}

/// What the bursts of one runner say; answers all its first lines, for the plot.
pub fn bursts(report: &mut Report, name: &str, bursts: &[Burst]) -> Line {
    let all = |of: fn(&Burst) -> &Vec<f64>| bursts.iter().flat_map(of).copied().collect::<Vec<_>>();
    let last = |of: fn(&Burst) -> &Vec<f64>| Sample::new(bursts.iter().filter_map(|one| Sample::new(of(one).clone()).max()));
    let (lines, ended) = (all(|one| &one.first_lines), all(|one| &one.ended));
    let (first, place) = (Sample::new(lines.clone()), Place { section: BURST, of: name });
    report.add(place, "rounds", Some(crate::percentiles::count(bursts.len())), "");
    report.add(place, "succeeded", Some(crate::percentiles::count(ended.len())), "");
    report.add(place, "all handed out", last(|one| &one.handed_out).percentile(50), "s");
    report.add(place, "first line, p50", first.percentile(50), "s");
    report.add(place, "first line, p90", first.percentile(90), "s");
    report.add(place, "first line, p99", first.percentile(99), "s");
    report.add(place, "first line, last", last(|one| &one.first_lines).percentile(50), "s");
    report.add(place, "ended, p50", Sample::new(ended).percentile(50), "s");
    report.add(place, "ended, last", last(|one| &one.ended).percentile(50), "s");
    for (what, with_volumes) in [("bare pods", false), ("bare pods with the same volumes", true)] {
        let bare = |floor: &Floor| if with_volumes { floor.with_volumes } else { floor.plain };
        let ratio = |one: &Burst| Sample::new(one.first_lines.clone()).max().map(|ours| ours / bare(&one.floor));
        let ratios = Sample::new(bursts.iter().filter_map(ratio));
        let name = format!("last first line, times until all {what} succeeded");
        report.add_with_goal(place, &name, (ratios.percentile(50), ""), Some(GOAL_RATIO));
        for (round, ratio) in (1..).zip(bursts.iter().map(ratio)) {
            report.add(place, &format!("{name}, round {round}"), ratio, "");
        }
    }
    Line { name: name.to_owned(), points: shares(lines) }
}

/// The plot of bursts.
pub fn chart(number: usize, lines: Vec<Line>) -> Chart {
    Chart {
        title: format!("{number} jobs at once: first lines"),
        across: "seconds since the first was handed out".to_owned(),
        up: "% of all".to_owned(),
        lines,
    }
}

fn times(jobs: &[Job], at: impl Fn(&Job) -> Option<Instant>) -> Sample {
    let time = |job: &Job| Some(at(job)?.saturating_duration_since(job.handed_out?));
    Sample::of_times(jobs.iter().filter_map(time))
}
