//! `gantry run`: the manager, for as long as nobody stops it.
//!
//! What runs outlives it, so a signal has nothing to wait for: it is over within seconds, whatever runs.

use crate::arguments::{EXIT_INTERRUPTED, RunArguments};
use crate::connection::Connections;
use crate::reload::{self, Hangups, Watched};
use crate::rotate::Rotation;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name of the file that keeps this manager's id, beside the configuration (GitLab Runner's own).
pub(crate) const SYSTEM_ID_FILE: &str = ".runner_system_id";
/// A supervisor, a terminal and a wrapper may each pass on what is one wish: signals this close together are one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// A token that is being replaced at the stop has this long to be written down.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Runs the manager.
///
/// # Errors
/// When the configuration cannot be used or Kubernetes cannot be reached.
pub fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let (watched, warnings) = Watched::open(path)?;
    let config = watched.config();
    let format = if config.log_format == "json" { telemetry::Format::Json } else { telemetry::Format::Text };
    telemetry::start(level(&config.log_level)?, format)?;
    reload::tell(path, &warnings);
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let rotation = Rotation::new(path.clone(), system_id.clone(), manager::Connect::default());
    let ended = runtime.block_on(manage(watched, rotation, system_id));
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn manage(watched: Watched, rotation: Rotation, system_id: String) -> Result<()> {
    let hangups = Hangups::new()?;
    let mut connections = Connections::default();
    let stop = CancellationToken::new();
    tokio::spawn(end_on_signals(Signals::new()?, stop.clone()));
    let config = watched.config().clone();
    let clusters = tokio::select! { clusters = connections.of(&config) => clusters?, () = stop.cancelled() => return Ok(()) };
    let (sender, changes) = mpsc::channel(1);
    let watching = tokio::spawn(reload::watch(watched, connections, hangups, rotation, sender));
    let options = manager::Options {
        config,
        changes: Some(changes),
        clusters,
        system_id,
        helper_image: node::HELPER_IMAGE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connect: manager::Connect::default(),
        stop,
    };
    let ended = manager::run(options).await.context("the manager stopped");
    // Whoever watches the file ends by itself now; what it cannot end in time was not begun in time either.
    let _ = tokio::time::timeout(LAST_WRITE, watching).await;
    ended
}

/// The first signal stops the manager in peace, which takes seconds; another one ends it at once.
async fn end_on_signals(mut signals: Signals, stop: CancellationToken) {
    signals.next().await;
    // Before the log is written, which may take long where nobody reads it.
    stop.cancel();
    tracing::info!("stopping: no more jobs are asked for, running pods go on by themselves");
    let first = Instant::now();
    loop {
        signals.next().await;
        if first.elapsed() > SAME_SIGNAL {
            break;
        }
    }
    tracing::warn!("stopped at once; what was left half done is gone on with at the next start");
    std::process::exit(EXIT_INTERRUPTED.into());
}

/// What ends a manager.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::quit())?, signal(SignalKind::interrupt())?]))
    }

    async fn next(&mut self) {
        let [terminate, quit, interrupt] = &mut self.0;
        tokio::select! { _ = terminate.recv() => {}, _ = quit.recv() => {}, _ = interrupt.recv() => {} }
    }
}

/// GitLab Runner's `log_level` in our words. The Kubernetes client tells every failure that we tell as well, and better.
fn level(configured: &str) -> Result<&'static str> {
    Ok(match configured {
        "" | "info" => "info,kube_client=off",
        "trace" => "trace",
        "debug" => "debug",
        "warn" | "warning" => "warn,kube_client=off",
        "error" | "fatal" | "panic" => "error,kube_client=off",
        other => anyhow::bail!("unknown log_level {other:?}: debug, info, warn, error, fatal and panic are known"),
    })
}

/// This manager's id, `s_` and twelve digits as GitLab Runner makes it; kept, so that a restart finds its own pods.
pub(crate) fn system_id(path: &Path) -> Result<String> {
    let kept = || std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|id| !id.is_empty());
    if let Some(id) = kept() {
        return Ok(id);
    }
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    let id = format!("s_{id}");
    let Err(error) = keep(path, &id) else { return Ok(id) };
    // Another program with this file was faster.
    if let Some(id) = kept() {
        return Ok(id);
    }
    // A ConfigMap is mounted read-only.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("failed to read this machine's name")?;
    let host: String = host.chars().filter(|one| one.is_ascii_alphanumeric() || "-.".contains(*one)).take(60).collect();
    let (file, message) =
        (path.display(), "this manager's id cannot be kept: it is the name of its host, and jobs are found by it");
    tracing::warn!(%file, %error, host, "{message}");
    Ok(format!("r_{host}"))
}

/// Writes the id as a whole, unless there is one.
fn keep(path: &Path, id: &str) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(id.as_bytes())?;
    file.persist_noclobber(path).map_err(|failed| failed.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_id_of_a_manager_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("id");
        let first = super::system_id(&path).unwrap();
        assert_eq!(super::system_id(&path).unwrap(), first);
        assert_eq!(first.len(), 14);
    }

    #[test]
    fn where_nothing_can_be_written_the_name_of_the_host_is_the_id() {
        let first = super::system_id(std::path::Path::new("/nowhere/id")).unwrap();
        assert!(first.starts_with("r_") && first.len() > 2, "{first}");
        assert_eq!(super::system_id(std::path::Path::new("/nowhere/id")).unwrap(), first);
    }

    #[test]
    fn levels_are_those_of_gitlab_runner() {
        assert!(super::level("").unwrap().starts_with("info"));
        assert!(super::level("warning").unwrap().starts_with("warn"));
        assert!(super::level("panic").unwrap().starts_with("error"));
        assert!(super::level("loud").unwrap_err().to_string().contains("\"loud\""));
    }
}
