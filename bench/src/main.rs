//! The benchmark: any runner beside any other on one cluster, and a manager with thousands of jobs.
//!
//! Absolute times differ from machine to machine and from hour to hour; so whatever is compared is measured in one run,
//! with bare pods beside it. Nothing here is a test: no time is asserted.

mod arguments;
mod audit;
mod cluster;
mod measure;
mod percentiles;
mod process;
mod report;
mod runner;
mod scale;
mod scenario;
mod stand_in;
mod svg;
mod template;

use anyhow::{Context, Result, bail};
use arguments::{Arguments, What};
use clap::Parser;
use cluster::Cluster;
use measure::{Bench, Settings};
use report::Report;
use runner::Contender;
use stand_in::StandIn;
use std::path::{Path, PathBuf};
use std::time::Duration;
use svg::Line;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Another provider may be linked in by a test; the first one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = tempfile::tempdir().context("failed to make a directory for configurations and logs")?;
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(&arguments.name);
    let mut report = Report::default();
    facts(&mut report);
    let mut ended = Ok(());
    if arguments.needs_cluster() {
        (report, ended) = on_cluster(&arguments, files.path(), report).await?;
    }
    if ended.is_ok() && arguments.wants(What::Scale) {
        ended = until_interrupted(at_scale(&arguments, files.path(), &mut report)).await;
    }
    report.write(&results)?;
    println!("{}", report.markdown());
    eprintln!("results: {}", results.display());
    ended
}

fn facts(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.fact("cores", cores.to_string());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.fact("Linux", kernel.trim());
}

/// Ends a measurement at Ctrl-C, so that what it made is cleaned up.
async fn until_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

/// Everything that needs a cluster; what was measured before an error is kept.
async fn on_cluster(arguments: &Arguments, files: &Path, report: Report) -> Result<(Report, Result<()>)> {
    let (settings, contenders) = (settings(arguments)?, arguments.contenders()?);
    let stand_in = StandIn::start(arguments.port).await?;
    let cluster = Cluster::connect(files).await?;
    eprintln!("namespace {}, stand-in on port {}", cluster.namespace, stand_in.port());
    let mut bench = Bench {
        stand_in,
        cluster: cluster.clone(),
        contenders,
        kubeconfigs: std::collections::HashMap::new(),
        settings,
        directory: files.to_owned(),
        report,
    };
    let ended = until_interrupted(all(&mut bench, arguments)).await;
    eprintln!("deleting namespace {}", cluster.namespace);
    cluster.delete().await?;
    Ok((bench.report, ended))
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let pair = |text: &String| {
        let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.with_context(|| format!("--set {text}: a value is written KEY=VALUE"))
    };
    Ok(Settings {
        host: arguments.host.clone(),
        image: arguments.image.clone(),
        set: arguments.set.iter().map(pair).collect::<Result<_>>()?,
        scenarios: arguments.scenarios.clone(),
        audit_log: arguments.audit_log.clone(),
        serial: arguments.serial,
        burst: arguments.burst,
        rounds: arguments.rounds,
        sizes: arguments.sizes.clone(),
        job_seconds: arguments.job_seconds,
        idle: arguments.idle,
        lines: arguments.lines,
    })
}

async fn all(bench: &mut Bench, arguments: &Arguments) -> Result<()> {
    let version = bench.cluster.client.apiserver_version().await.context("failed to reach the cluster")?;
    bench.report.fact("Kubernetes", version.git_version);
    for contender in bench.contenders.clone() {
        let kubeconfig = bench.cluster.account(&contender).await?;
        bench.kubeconfigs.insert(contender.name.clone(), kubeconfig);
        bench.report.fact(&format!("runner {}", contender.name), program_version(&contender.program));
    }
    let contenders = bench.contenders.clone();
    let mut failed = Vec::new();
    if arguments.wants(What::Serial) {
        let done = measure::latency::serial(bench).await;
        go_on(bench, &mut failed, ("one job at a time", ""), done).await;
    }
    let (mut bursts, mut loads) = (Vec::new(), Vec::new());
    if arguments.wants(What::Burst) {
        let done = bursts_of_all(bench, &contenders).await;
        bursts.extend(go_on(bench, &mut failed, ("all at once", ""), done).await.into_iter().flatten());
    }
    for contender in &contenders {
        let name = contender.name.as_str();
        if arguments.wants(What::Requests) {
            let done = measure::requests::measure(bench, contender).await;
            go_on(bench, &mut failed, ("requests", name), done).await;
        }
        if arguments.wants(What::Idle) {
            let done = measure::idle::measure(bench, contender).await;
            go_on(bench, &mut failed, ("idle entries", name), done).await;
        }
        if arguments.wants(What::Log) {
            let done = measure::log::measure(bench, contender).await;
            go_on(bench, &mut failed, ("a long log", name), done).await;
        }
        if arguments.wants(What::Load) {
            let done = measure::load::measure(bench, contender).await;
            loads.extend(go_on(bench, &mut failed, ("running jobs", name), done).await);
        }
    }
    if !bursts.is_empty() {
        bench.report.plot("burst", measure::latency::chart(bench.settings.burst, bursts));
    }
    if !loads.is_empty() {
        bench.report.plot("memory", measure::load::chart(loads));
    }
    if failed.is_empty() { Ok(()) } else { bail!("not all could be measured: {}", failed.join(", ")) }
}

/// Bare pods and each runner in turns, several times: the machine's hour is the same for all, and one slow moment is not
/// the result. What a burst leaves is removed by the kubelet during the next minute, which slows the next one: one burst
/// that does not count comes before all, so that none begins on a node where nothing was.
async fn bursts_of_all(bench: &mut Bench, contenders: &[Contender]) -> Result<Vec<Line>> {
    let (mut floors, mut bursts) = (Vec::new(), vec![Vec::new(); contenders.len()]);
    eprintln!("one burst that does not count");
    measure::bare::burst(bench, "first", false).await?;
    for _ in 0..bench.settings.rounds {
        let floor = measure::bare::bursts(bench).await?;
        floors.push(floor);
        for (contender, bursts) in contenders.iter().zip(&mut bursts) {
            bursts.push(measure::latency::burst(bench, contender, floor).await?);
        }
    }
    measure::bare::report(&mut bench.report, &floors);
    let both = contenders.iter().zip(&bursts);
    Ok(both.map(|(contender, bursts)| measure::latency::bursts(&mut bench.report, &contender.name, bursts)).collect())
}

/// What failed becomes a note, and the next measurement begins with an empty cluster: half an hour of figures is not
/// thrown away for one of them.
async fn go_on<T>(bench: &mut Bench, failed: &mut Vec<String>, (what, of): (&str, &str), done: Result<T>) -> Option<T> {
    let error = match done {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    bench.report.note(format!("{what} {of} could not be measured: {error:#}"));
    failed.push(what.to_owned());
    if let Err(error) = bench.cluster.clear().await {
        bench.report.note(format!("{error:#}"));
    }
    None
}

fn program_version(program: &PathBuf) -> String {
    let output = std::process::Command::new(program).arg("--version").output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

async fn at_scale(arguments: &Arguments, files: &Path, report: &mut Report) -> Result<()> {
    let contenders = arguments.contenders()?;
    for jobs in &arguments.scale {
        for contender in contenders.iter().filter(|one| arguments.scale_runners.contains(&one.name)) {
            let steady = Duration::from_secs(arguments.scale_seconds);
            let plan = scale::Plan { jobs: *jobs, steady, starts_a_minute: arguments.starts_a_minute };
            scale::measure(&plan, contender, files, report).await?;
        }
    }
    Ok(())
}
