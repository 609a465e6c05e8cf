//! `gantry ci`: the pipeline of the repository at hand, in pods on this machine.
//!
//! ```text
//! snapshot → compile → start (node, coordinator, manager) → follow → report → clean
//! ```
//!
//! Everything that can be wrong with the input is told before anything is started. A first Ctrl-C cancels the jobs as
//! GitLab would and waits for their end; a second one exits at once, and the next start cleans.

pub mod follow;
pub mod log_lines;
pub mod report;
pub mod screen;
pub mod snapshot;
pub mod started;

use crate::arguments::{CiArguments, EXIT_CONFIGURATION, EXIT_INTERRUPTED};
use anyhow::{Context, Result};
use snapshot::Snapshot;
use started::Started;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the pipeline.
///
/// # Errors
/// When this machine, the repository or the arguments do not allow a run.
pub fn run(arguments: &CiArguments) -> Result<ExitCode> {
    node::enter()?;
    let level = if arguments.verbose { "info" } else { "warn" };
    telemetry::start(level, telemetry::Format::Text)?;
    install_crypto();
    let begun = Instant::now();
    let work = work_directory()?;
    let here = std::env::current_dir().context("failed to find the current directory")?;
    let snapshot = Snapshot::take(&here, work.path())?;
    let Some(compiled) = compile(arguments, &snapshot)? else { return Ok(ExitCode::from(EXIT_CONFIGURATION)) };
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let report = runtime.block_on(async {
        let mut stops = follow::Stops::new()?;
        let started = Started::start(arguments, &snapshot, compiled, work.path()).await?;
        let ended = follow::follow(&started, arguments, &mut stops).await;
        tokio::select! {
            () = started.stop() => {}
            // Who cannot wait for that either.
            () = stops.next() => std::process::exit(i32::from(EXIT_INTERRUPTED)),
        }
        started.report(ended?, begun.elapsed())
    })?;
    tell(arguments, &report)?;
    keep_or_remove(arguments, work);
    Ok(ExitCode::from(report.status.exit_code()))
}

/// One TLS provider for the whole program; a second installation is no error.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A directory of this run, on the disk that holds the images.
fn work_directory() -> Result<tempfile::TempDir> {
    let runs = PathBuf::from(crate::local_node::DATA_DIRECTORY).join("runs");
    std::fs::create_dir_all(&runs).with_context(|| format!("failed to make {}", runs.display()))?;
    remove_dead_runs(&runs);
    let made = tempfile::Builder::new().prefix(&format!("{}-", std::process::id())).tempdir_in(&runs);
    made.with_context(|| format!("failed to make a directory in {}", runs.display()))
}

/// Directories of runs that were killed: their names begin with the number of a process that is no more. Kept ones
/// have no number.
fn remove_dead_runs(runs: &std::path::Path) {
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().and_then(|number| number.parse::<u32>().ok());
        if owner.is_some_and(|owner| !std::path::Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The pipeline, or `None` when its file is wrong, which has been told.
fn compile(arguments: &CiArguments, snapshot: &Snapshot) -> Result<Option<ci_yaml::Compiled>> {
    struct InSnapshot<'a>(&'a Snapshot);
    impl ci_yaml::Files for InSnapshot<'_> {
        fn read(&self, path: &str) -> Result<Option<String>, String> {
            self.0.read(path).map_err(|error| format!("{error:#}"))
        }

        fn list(&self) -> Result<Vec<String>, String> {
            Ok(self.0.paths.clone())
        }
    }
    let files = InSnapshot(snapshot);
    let variables = started::predefined(snapshot, arguments);
    let input = ci_yaml::Input { path: &arguments.file, files: &files, variables: &variables, overrides: &arguments.variables };
    let color = console::colors_enabled_stderr();
    match ci_yaml::compile(&input) {
        Ok(compiled) => {
            if !compiled.warnings.0.is_empty() {
                eprintln!("{}", compiled.warnings.render(color));
            }
            Ok(Some(compiled))
        }
        Err(diagnostics) => {
            eprintln!("{}", diagnostics.render(color));
            Ok(None)
        }
    }
}

fn tell(arguments: &CiArguments, report: &report::Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let told =
        if arguments.json { writeln!(out, "{}", serde_json::to_string(report)?) } else { writeln!(out, "\n{}", report.table()) };
    match told {
        // Whoever reads us may have seen enough, as `head` does.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("failed to write the report"),
        _ => Ok(()),
    }
}

fn keep_or_remove(arguments: &CiArguments, work: tempfile::TempDir) {
    if arguments.keep {
        let path = work.keep();
        let kept = path.with_file_name(format!("kept-{}", uuid::Uuid::new_v4().simple()));
        let shown = if std::fs::rename(&path, &kept).is_ok() { kept } else { path };
        eprintln!("traces and artifacts are kept in {}", shown.display());
    }
}
