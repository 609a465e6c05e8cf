//! `gantry register`: one more runner in the configuration.
//!
//! A token that was made in GitLab is asked for and written down; with a registration token a runner is made first. The
//! file is opened for writing, and the new entry read as `gantry run` will read it, before GitLab is asked for anything.

mod arguments;
mod options;

pub use arguments::{RegisterArguments, Settings};

use crate::config_file::ConfigFile;
use crate::manager_run::{SYSTEM_ID_FILE, system_id};
use anyhow::{Context, Result, bail};
use manager::Connect;
use manager::runners::{self, Registered, Registration, is_of_new_kind};
use runner_config::edit::with_entry;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use toml::{Table, Value};

/// What stands for a token until there is one.
const NO_TOKEN_YET: &str = "pending";

/// Registers.
///
/// # Errors
/// When something is missing or cannot be used, or GitLab refuses.
pub fn run(arguments: &RegisterArguments) -> Result<ExitCode> {
    let credential = Credential::of(arguments)?;
    let path = &arguments.config;
    let mut entry = entry(arguments)?;
    entry.insert("token".to_owned(), credential.known_token().into());
    let runner = read(&entry)?;
    make(path).with_context(|| format!("failed to write {}", path.display()))?;
    let mut file = ConfigFile::open(path)?;
    let whole = with_entry(file.text(), &entry)?;
    let whole = runner_config::parse(&whole).with_context(|| path.display().to_string())?.config;
    if whole.runners.iter().filter(|one| one.is_same(&runner)).count() > 1 {
        eprintln!("gantry: this token is registered in {} already; its jobs are now asked for twice", path.display());
    }
    let system_id = system_id(&path.with_file_name(SYSTEM_ID_FILE))?;
    super::ci::install_crypto();
    let runtime = tokio::runtime::Runtime::new().context("failed to start")?;
    let ended = runtime.block_on(async {
        let registered = credential.register(&runner, arguments, &system_id).await?;
        let written = write(&mut file, entry, &registered);
        if written.is_err() && matches!(credential, Credential::Registration(_)) && !arguments.leave_runner {
            let made = runner_config::Runner { token: registered.token.clone(), ..runner };
            let undone = at_gitlab(&made, &system_id)?.unregister().await;
            undone.context("the runner could neither be written down nor be taken away again")?;
        }
        written.with_context(|| format!("failed to write {}", path.display()))
    });
    runtime.shutdown_background();
    ended?;
    println!("Runner registered successfully in {}; a manager that runs already takes it up by itself.", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What lets us in.
enum Credential {
    /// The token of a runner that was made in GitLab.
    Authentication(String),
    /// A token that runners are made with.
    Registration(String),
}

impl Credential {
    fn of(arguments: &RegisterArguments) -> Result<Self> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let said = arguments.settings.said()?;
        let only = "which only a registration token can say: a runner that was made in GitLab has its settings there";
        match (given(&arguments.token), given(&arguments.registration_token)) {
            (None, Some(token)) if is_of_new_kind(&token) => {
                if !said.is_empty() {
                    eprintln!("gantry: {} has no effect, {only}", said.join(", "));
                }
                Ok(Self::Authentication(token))
            }
            (None, Some(token)) => Ok(Self::Registration(token)),
            (Some(token), other) if !said.is_empty() && other.as_ref() == Some(&token) => {
                eprintln!("gantry: {} has no effect, {only}", said.join(", "));
                Ok(Self::Authentication(token))
            }
            (Some(_), _) if !said.is_empty() => bail!("{} was given, {only}", said.join(", ")),
            (Some(token), _) => Ok(Self::Authentication(token)),
            (None, None) => bail!("The token needs to be entered: --token, or CI_SERVER_TOKEN"),
        }
    }

    fn known_token(&self) -> &str {
        match self {
            Self::Authentication(token) => token,
            Self::Registration(_) => NO_TOKEN_YET,
        }
    }

    async fn register(
        &self,
        runner: &runner_config::Runner,
        arguments: &RegisterArguments,
        system_id: &str,
    ) -> Result<Registered> {
        match self {
            Self::Authentication(_) => {
                let known = at_gitlab(runner, system_id)?.verify().await.context("failed to ask GitLab for the runner")?;
                let known = known.with_context(|| format!("GitLab at {} does not know this token", runner.url))?;
                if known.id == 0 {
                    bail!("GitLab at {} did not say which runner this is", runner.url);
                }
                // The token is the one that was given, whatever is answered.
                Ok(Registered { token: runner.token.clone(), ..known })
            }
            Self::Registration(token) => {
                let asker = runner_config::Runner { token: token.clone(), ..runner.clone() };
                let settings = arguments.settings.registration(&runner.name)?;
                at_gitlab(&asker, system_id)?.register(settings).await.context("failed to register the runner")
            }
        }
    }
}

fn at_gitlab(runner: &runner_config::Runner, system_id: &str) -> Result<runners::Runner> {
    Ok(runners::Runner::of(runner, system_id, env!("CARGO_PKG_VERSION"), &Connect::default())?)
}

/// The entry without its token: what was said, then what the template says.
fn entry(arguments: &RegisterArguments) -> Result<Table> {
    let mut entry = arguments.options.entry()?;
    for (key, value) in [
        ("url", &arguments.url),
        ("executor", &arguments.executor),
        ("tls-ca-file", &arguments.tls_ca_file),
        ("tls-cert-file", &arguments.tls_cert_file),
        ("tls-key-file", &arguments.tls_key_file),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            entry.insert(key.to_owned(), value.as_str().into());
        }
    }
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    let name = match arguments.name.as_ref().filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None => host().context("failed to read this machine's name")?,
    };
    entry.insert("name".to_owned(), name.into());
    if let Some(path) = arguments.template_config.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        fill(&mut entry, template(path)?);
    }
    entry.entry("executor").or_insert_with(|| "kubernetes".into());
    if !entry.contains_key("url") {
        bail!("The url needs to be entered: --url, or CI_SERVER_URL");
    }
    Ok(entry)
}

/// The one entry of a template, without what belongs to one runner.
fn template(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    // What a parser repeats of it may be a secret.
    let mut table: Table = text.parse().map_err(|_| anyhow::anyhow!("{} is not valid TOML", path.display()))?;
    let runners = table.remove("runners").and_then(|runners| if let Value::Array(all) = runners { Some(all) } else { None });
    match runners.unwrap_or_default().as_mut_slice() {
        [Value::Table(entry)] => {
            for key in ["token", "token_obtained_at", "token_expires_at", "id", "name"] {
                entry.remove(key);
            }
            Ok(std::mem::take(entry))
        }
        others => bail!("{} has {} [[runners]] entries, and not one", path.display(), others.len()),
    }
}

/// Adds what is not there yet.
fn fill(entry: &mut Table, template: Table) {
    for (key, value) in template {
        match (entry.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => fill(inner, value),
            (Some(_), _) => {}
            (None, value) => drop(entry.insert(key, value)),
        }
    }
}

/// The entry as a manager reads it; what has no effect is told.
fn read(entry: &Table) -> Result<runner_config::Runner> {
    let mut parsed = runner_config::parse(&with_entry("", entry)?).map_err(|problems| {
        let sentences: Vec<_> = problems.0.iter().map(|problem| problem.message.as_str()).collect();
        anyhow::anyhow!("the entry cannot be used: {}", sentences.join("; "))
    })?;
    for warning in &parsed.warnings {
        eprintln!("gantry: {}", warning.message);
    }
    Ok(parsed.config.runners.remove(0))
}

/// Makes the file where there is none, for its owner only.
fn make(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    Ok(())
}

fn write(file: &mut ConfigFile, mut entry: Table, registered: &Registered) -> Result<()> {
    let time = |text: &str| text.parse().map(Value::Datetime);
    entry.insert("id".to_owned(), i64::try_from(registered.id)?.into());
    entry.insert("token".to_owned(), registered.token.as_str().into());
    entry.insert("token_obtained_at".to_owned(), time(&format!("{:.0}", jiff::Timestamp::now()))?);
    if let Some(ends) = &registered.token_expires_at {
        entry.insert("token_expires_at".to_owned(), time(ends).context("GitLab did not say when the token ends")?);
    }
    let text = with_entry(file.text(), &entry)?;
    Ok(file.replace(text)?)
}
