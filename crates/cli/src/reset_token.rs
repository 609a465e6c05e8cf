//! `gantry reset-token`: other tokens for runners of the configuration, now.
//!
//! A manager that runs takes them up from the file; what it does by itself when a token ends is in `rotate`.

use crate::arguments::{EXIT_FAILED, ResetTokenArguments};
use crate::config_file::ConfigFile;
use crate::manager_run::{SYSTEM_ID_FILE, system_id};
use crate::rotate::{Asker, renew};
use anyhow::{Context, Result, bail};
use manager::Connect;
use runner_config::Runner;
use std::process::ExitCode;

/// Replaces them.
///
/// # Errors
/// When the configuration cannot be used or written, or no runner is meant.
pub fn run(arguments: &ResetTokenArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    if !arguments.all_runners && arguments.name.is_none() && arguments.url.is_none() && arguments.id.is_none() {
        bail!("which runner? --name, --url, --id or --all-runners say so");
    }
    let mut file = ConfigFile::open(path)?;
    let parsed = runner_config::parse(file.text()).with_context(|| path.display().to_string())?;
    let mut meant: Vec<_> = parsed.config.runners.into_iter().filter(|runner| is_meant(runner, arguments)).collect();
    // Entries with one token have one runner.
    meant.sort_by(|one, other| (&one.url, &one.token).cmp(&(&other.url, &other.token)));
    meant.dedup_by(|one, other| one.is_same(other));
    if meant.is_empty() {
        bail!("{}: no runner has this name, URL and id", path.display());
    }
    // A new token that cannot be written for a while is told there.
    telemetry::start("warn", telemetry::Format::Text)?;
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    let person = arguments.pat.as_deref().filter(|pat| !pat.is_empty());
    let asker = Asker { system_id: &system_id, connect: &Connect::default(), person };
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let mut ended = ExitCode::SUCCESS;
    for runner in &meant {
        let (short, name) = (runner.short_token(), &runner.name);
        match runtime.block_on(renew(&mut file, runner, &asker)) {
            Ok(()) => println!("Resetting runner token... succeeded runner={short} name={name:?}"),
            Err(error) => {
                eprintln!("gantry: Resetting runner token... failed runner={short} name={name:?}: {error:#}");
                ended = ExitCode::from(EXIT_FAILED);
            }
        }
    }
    runtime.shutdown_background();
    Ok(ended)
}

fn is_meant(runner: &Runner, arguments: &ResetTokenArguments) -> bool {
    let fits = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
    let by_key = fits(&arguments.name, &runner.name) && fits(&arguments.url, &runner.url);
    arguments.all_runners || (by_key && arguments.id.is_none_or(|id| id == runner.id))
}
