//! Log set-up, one place for all programs.
//!
//! Logs go to standard error, because standard output belongs to what a command was asked for. The level comes from
//! `GANTRY_LOG` (tracing's filter syntax), else from the caller. Plain text is for people, JSON for log collectors.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Environment variable that overrides the level.
pub const LEVEL_VARIABLE: &str = "GANTRY_LOG";

/// Starts logging; `level` holds where [`LEVEL_VARIABLE`] is not set.
///
/// # Errors
/// When the filter cannot be read or logging was started before.
pub fn start(level: &str, format: Format) -> anyhow::Result<()> {
    let directives = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| anyhow::Error::new(error).context(format!("failed to read log level {directives:?}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("failed to start logging: {error}"))
}
