//! Plays `e2e/scenarios` on the embedded node and on the cluster: `cargo xtask e2e [--target node|cluster] [NAME…]`.

use anyhow::{Context, Result, bail};
use e2e::gitlab::Sites;
use e2e::play::{STATE_FILE, Stage, play};
use e2e::scenario::{Folder, read_all};
use e2e::target::{Target, TestImages, program};
use futures::StreamExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Plays at once: most of a scenario is waiting.
const AT_ONCE: usize = 6;

#[derive(Debug, Default)]
struct Arguments {
    targets: Vec<String>,
    names: Vec<String>,
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn main() -> ExitCode {
    match run() {
        Ok(counts) => {
            println!("\n{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
            if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Counts> {
    let arguments = parse(std::env::args().skip(1))?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut folders = read_all(&directory)?;
    folders.retain(|folder| arguments.names.is_empty() || arguments.names.iter().any(|name| folder.name.contains(name)));
    if !rustix::process::geteuid().is_root() {
        println!("skipped, because pods need root");
        return Ok(Counts { skipped: folders.len(), ..Counts::default() });
    }
    // There may be a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut counts = Counts::default();
        let images = TestImages::make().await?;
        for name in &arguments.targets {
            on_target(name, &images, &folders, &mut counts).await?;
        }
        Ok(counts)
    })
}

fn parse(words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--target" => arguments.targets.push(words.next().context("--target needs node or cluster")?),
            // What `cargo test` passes on to every test program.
            "--nocapture" | "--quiet" | "-q" | "--include-ignored" => {}
            flag if flag.starts_with('-') => bail!("{flag} is unknown; --target node|cluster and names are known"),
            _ => arguments.names.push(word),
        }
    }
    if let Some(wrong) = arguments.targets.iter().find(|target| !["node", "cluster"].contains(&target.as_str())) {
        bail!("the target {wrong} is unknown: node and cluster are known");
    }
    if arguments.targets.is_empty() {
        arguments.targets = ["node", "cluster"].map(str::to_owned).to_vec();
    }
    Ok(arguments)
}

async fn on_target(name: &str, images: &TestImages, folders: &[Folder], counts: &mut Counts) -> Result<()> {
    let work = tempfile::Builder::new().prefix("gantry-e2e-").tempdir()?;
    let target = match name {
        "node" => Target::node(&program()?, images, work.path()).await,
        _ => Target::cluster(images).await,
    };
    let target = match target {
        Ok(target) => target,
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("{name}: skipped, because {error:#}");
            counts.skipped += folders.len();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let sites = Sites::serve(target.gateway, target.port).await?;
    let run = format!("{:x}", std::process::id());
    let stage = Stage { target, sites, program: program()?, run };
    let failed_before = counts.failed;
    for (alone, at_once) in [(false, AT_ONCE), (true, 1)] {
        let plays = folders.iter().filter(|folder| folder.scenario.alone == alone);
        let plays = plays.map(|folder| one(&stage, folder, work.path()));
        let mut plays = futures::stream::iter(plays).buffer_unordered(at_once);
        while let Some(result) = plays.next().await {
            match result {
                Some(true) => counts.passed += 1,
                Some(false) => counts.failed += 1,
                None => counts.skipped += 1,
            }
        }
    }
    stage.target.stop().await;
    if counts.failed > failed_before {
        println!("files of the failed ones: {}", work.keep().display());
    }
    Ok(())
}

/// Plays one and says how it went; `None` when it is not played.
async fn one(stage: &Stage, folder: &Folder, work: &Path) -> Option<bool> {
    let (target, scenario) = (&stage.target, &folder.scenario);
    let offers = |word: &&String| target.offers.contains(word.as_str());
    let missing = scenario.needs.iter().find(|word| !offers(word)).map(|word| format!("it offers no {word}"));
    let unfit = scenario.lacks.iter().find(offers).map(|word| format!("it offers {word}"));
    let reason = scenario.skip.get(target.name).cloned().or(missing).or(unfit);
    if let Some(reason) = reason {
        println!("{:<8} {:<40} skipped, because {reason}", target.name, folder.name);
        return None;
    }
    let begun = Instant::now();
    let directory = work.join(&folder.name);
    let played = match std::fs::create_dir(&directory) {
        Ok(()) => play(stage, folder, &directory).await,
        Err(error) => Err(error.into()),
    };
    let seconds = begun.elapsed().as_secs_f64();
    match &played {
        Ok(()) => {
            println!("{:<8} {:<40} ok {seconds:>8.1} s", target.name, folder.name);
            // Only failed ones are looked at.
            let _ = std::fs::remove_dir_all(&directory);
        }
        Err(error) => {
            let state = std::fs::read_to_string(directory.join(STATE_FILE)).unwrap_or_default();
            println!("{:<8} {:<40} FAILED {seconds:.1} s: {error:#}\n{state}", target.name, folder.name);
        }
    }
    Some(played.is_ok())
}
