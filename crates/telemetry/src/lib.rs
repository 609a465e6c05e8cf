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
    // A line that cannot be written (a full disk, a reader that left) is lost; to complain of it on the same standard error
    // would panic.
    let builder = builder.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("failed to start logging: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    /// Set in the copy of this test that has no room for its log.
    const INSIDE: &str = "GANTRY_TEST_FULL_DISK";

    #[test]
    fn a_log_on_a_full_disk_costs_its_lines_and_nothing_else() {
        if std::env::var_os(INSIDE).is_some() {
            super::start("info", super::Format::Text).unwrap();
            tracing::info!("nobody can read this");
            return;
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut copy = Command::new(std::env::current_exe().unwrap());
        copy.args(["--exact", "tests::a_log_on_a_full_disk_costs_its_lines_and_nothing_else", "--nocapture"]);
        let output = copy.env(INSIDE, "1").stderr(full).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
