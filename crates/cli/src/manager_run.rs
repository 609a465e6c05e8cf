//! `gantry run`: the manager, for as long as nobody stops it.

use crate::arguments::RunArguments;
use anyhow::{Context, Result};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Helper image when the configuration names none.
const HELPER_IMAGE: &str = "gantry-helper";
/// Name of the file that keeps this manager's id, beside the configuration (GitLab Runner's own).
const SYSTEM_ID_FILE: &str = ".runner_system_id";

/// Runs the manager.
///
/// # Errors
/// When the configuration cannot be used or Kubernetes cannot be reached.
pub fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let parsed = runner_config::parse(&text).map_err(|problems| anyhow::anyhow!("{}:\n{problems}", path.display()))?;
    let level = if parsed.config.log_level.is_empty() { "info" } else { &parsed.config.log_level };
    let format =
        if parsed.config.log_format == "json" { telemetry::Format::Json } else { telemetry::Format::Text };
    telemetry::start(level, format)?;
    for warning in &parsed.warnings {
        tracing::warn!(file = %path.display(), line = warning.line, "{}", warning.message);
    }
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    runtime.block_on(async {
        let client = kube::Client::try_default().await.context("failed to find a Kubernetes cluster; set KUBECONFIG")?;
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopper = stop.clone();
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = quit.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping: no more jobs are asked for, running pods go on by themselves");
            stopper.cancel();
        });
        manager::run(manager::Options {
            config: parsed.config,
            client,
            system_id,
            helper_image: HELPER_IMAGE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stop,
        })
        .await
        .context("the manager stopped")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// This manager's id, `s_` and twelve digits as GitLab Runner makes it; kept, so that a restart finds its own pods.
fn system_id(path: &std::path::Path) -> Result<String> {
    if let Ok(text) = std::fs::read_to_string(path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    let id = format!("s_{id}");
    std::fs::write(path, &id).with_context(|| format!("failed to keep this manager's id in {}", path.display()))?;
    Ok(id)
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
}
