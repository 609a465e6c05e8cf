//! `gantry verify`: whether GitLab knows the runners of the configuration.
//!
//! The words are GitLab Runner's, because probes look for them. Only a clear no is one: a runner that GitLab could not
//! be asked for counts as known, so that a broken server never removes runners.

use crate::arguments::{EXIT_FAILED, VerifyArguments};
use crate::config_file::ConfigFile;
use crate::manager_run::{SYSTEM_ID_FILE, system_id};
use anyhow::{Context, Result, bail};
use manager::Connect;
use manager::runners::{self, is_of_new_kind};
use runner_config::Runner;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// A GitLab that takes longer for one runner could not be asked.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks, and says what GitLab says.
///
/// # Errors
/// When the configuration cannot be used, no runner is meant, or the file cannot be written.
pub fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let parsed = runner_config::parse(&text).with_context(|| path.display().to_string())?;
    let meant: Vec<_> = parsed.config.runners.into_iter().filter(|runner| is_meant(runner, arguments)).collect();
    if meant.is_empty() {
        bail!("{}: no runner has this name, token and URL", path.display());
    }
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let unknown = runtime.block_on(unknown(&meant, &system_id));
    runtime.shutdown_background();
    let unknown = unknown?;
    if unknown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.delete {
        eprintln!("gantry: Failed to verify runners");
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    remove(path, &unknown)?;
    say(&format!("Updated {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn is_meant(runner: &Runner, arguments: &VerifyArguments) -> bool {
    let fits = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
    fits(&arguments.name, &runner.name) && fits(&arguments.token, &runner.token) && fits(&arguments.url, &runner.url)
}

/// Those that GitLab does not know.
async fn unknown<'a>(meant: &'a [Runner], system_id: &str) -> Result<Vec<&'a Runner>> {
    let mut unknown = Vec::new();
    for runner in meant {
        let at_gitlab = runners::Runner::of(runner, system_id, env!("CARGO_PKG_VERSION"), &Connect::default())?;
        let is_new = is_of_new_kind(&runner.token);
        let (word, why) = match tokio::time::timeout(LIMIT, at_gitlab.verify()).await {
            Ok(Ok(Some(_))) => (if is_new { "is valid" } else { "is alive" }, String::new()),
            Ok(Ok(None)) => {
                unknown.push(runner);
                (if is_new { "is not valid" } else { "is removed" }, String::new())
            }
            Ok(Err(error)) => ("failed", format!(": {:#}", anyhow::Error::new(error))),
            Err(_) => ("failed", format!(": no answer within {} s", LIMIT.as_secs())),
        };
        say(&format!("Verifying runner... {word} runner={} name={:?}{why}", runner.short_token(), runner.name))?;
    }
    Ok(unknown)
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("failed to print the result")
}

/// Takes entries out of the file as it is now.
fn remove(path: &Path, gone: &[&Runner]) -> Result<()> {
    let mut file = ConfigFile::open(path)?;
    let now = runner_config::parse(file.text()).with_context(|| path.display().to_string())?;
    file.remove(&now.config.runners, gone)
}
