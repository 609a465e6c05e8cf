//! `gantry unregister`: runners are taken away at GitLab, and then from the configuration.
//!
//! A runner that was made in GitLab stays there, only this manager of it goes. What GitLab does not take away stays in
//! the file.

use crate::arguments::{EXIT_FAILED, UnregisterArguments};
use crate::config_file::ConfigFile;
use crate::manager_run::{SYSTEM_ID_FILE, system_id};
use anyhow::{Context, Result, bail};
use manager::Connect;
use manager::runners;
use runner_config::Runner;
use std::process::ExitCode;

/// Takes them away.
///
/// # Errors
/// When the configuration cannot be used or written, or no runner is meant.
pub fn run(arguments: &UnregisterArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let mut file = path.exists().then(|| ConfigFile::open(path)).transpose()?;
    let known = file.as_ref().map_or(Ok(Vec::new()), |file| known(file.text()));
    let known = known.with_context(|| path.display().to_string())?;
    let meant = meant(&known, arguments)?;
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let gone = runtime.block_on(take_away(&meant, &system_id));
    runtime.shutdown_background();
    let gone = gone?;
    if let Some(file) = &mut file {
        file.remove(&known, &gone)?;
    }
    if gone.len() < meant.len() {
        eprintln!("gantry: Failed to unregister all runners");
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// The entries of a file, which may have none.
fn known(text: &str) -> Result<Vec<Runner>> {
    // What a parser repeats of it may be a token.
    let table: toml::Table = text.parse().map_err(|_| anyhow::anyhow!("the file is not valid TOML"))?;
    if table.get("runners").is_none_or(|runners| runners.as_array().is_some_and(Vec::is_empty)) {
        return Ok(Vec::new());
    }
    Ok(runner_config::parse(text)?.config.runners)
}

fn meant(known: &[Runner], arguments: &UnregisterArguments) -> Result<Vec<Runner>> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let found = if arguments.all_runners {
        known.to_vec()
    } else if let Some(name) = given(&arguments.name) {
        known.iter().filter(|runner| runner.name == name).cloned().collect()
    } else if let (Some(token), Some(url)) = (given(&arguments.token), given(&arguments.url)) {
        let entry = known.iter().find(|runner| runner.token == token && runner.url == url).cloned().unwrap_or_default();
        let file =
            |given: &Option<String>, entry: &String| given.clone().filter(|file| !file.is_empty()).unwrap_or(entry.clone());
        // It may stand in no file at all.
        vec![Runner {
            tls_ca_file: file(&arguments.tls_ca_file, &entry.tls_ca_file),
            tls_cert_file: file(&arguments.tls_cert_file, &entry.tls_cert_file),
            tls_key_file: file(&arguments.tls_key_file, &entry.tls_key_file),
            token,
            url,
            ..entry
        }]
    } else {
        bail!("which runner? --name, --token with --url, or --all-runners say so");
    };
    if found.is_empty() && !arguments.all_runners {
        bail!("{}: no runner has this name", arguments.config.display());
    }
    Ok(found)
}

/// Those that are gone at GitLab.
async fn take_away<'a>(meant: &'a [Runner], system_id: &str) -> Result<Vec<&'a Runner>> {
    let mut gone = Vec::new();
    for runner in meant {
        let at_gitlab = runners::Runner::of(runner, system_id, env!("CARGO_PKG_VERSION"), &Connect::default())?;
        let (short, name) = (runner.short_token(), &runner.name);
        match at_gitlab.unregister().await {
            Ok(()) => {
                println!("Unregistering runner from GitLab succeeded runner={short} name={name:?}");
                gone.push(runner);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                eprintln!("gantry: Unregistering runner from GitLab failed runner={short} name={name:?}: {error:#}");
            }
        }
    }
    Ok(gone)
}
