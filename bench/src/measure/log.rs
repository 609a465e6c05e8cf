//! A job that prints much, with and without masked variables.
//!
//! Where the work is done differs: a manager that carries the log spends its own processor time, an agent in the pod
//! spends the pod's. So the time until GitLab has all of it stands beside.

use super::Bench;
use super::pod_cpu::PodCpu;
use crate::percentiles::count;
use crate::report::Place;
use crate::runner::Contender;
use anyhow::{Context, Result, bail};
use std::time::Duration;

const BYTES_A_LINE: u64 = 100;
const MASKED: usize = 200;

/// Measures one runner.
pub async fn measure(bench: &mut Bench, contender: &Contender) -> Result<()> {
    let lines = bench.settings.lines;
    let section = format!("A log of {} MB", lines * BYTES_A_LINE / 1_000_000);
    for masked in [0, MASKED] {
        eprintln!("{section}, {masked} masked variables: {}", contender.name);
        let scenario = bench.scenario("log")?.with("lines", lines).masking(masked);
        let running = bench.start(contender, 1).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = running.usage()?;
        let ids = bench.offer(&running, &scenario, 1);
        let mut pods = PodCpu::default();
        let jobs = tokio::select! {
            jobs = bench.ended(&running, &ids, Duration::from_secs(120)) => jobs?,
            looked = pods.watch(&bench.cluster) => bail!("the pod was not looked at to its end: {looked:?}"),
        };
        let after = running.usage()?;
        bench.cluster.become_empty().await?;
        running.stop().await?;
        let job = jobs.first().context("the job is not known")?;
        let place = Place { section: &section, of: &contender.name };
        let took = job.ended.zip(job.handed_out).map(|(end, begin)| end.saturating_duration_since(begin).as_secs_f64());
        let name = |what: &str| format!("{masked} masked variables: {what}");
        let report = &mut bench.report;
        report.add(place, &name("handed out → ended"), took, "s");
        report.add(place, &name("CPU of the manager"), Some(after.cpu.saturating_sub(before.cpu).as_secs_f64()), "s");
        report.add(place, &name("CPU of the pod"), pods.total(), "s");
        let whole = count(usize::try_from(job.trace_bytes / 1000).unwrap_or(usize::MAX)) / 1000.0;
        report.add(place, &name("arrived"), Some(whole), "MB");
        if job.trace_bytes < lines * BYTES_A_LINE {
            report.note(format!("{}: the log did not arrive whole", contender.name));
        }
    }
    Ok(())
}
