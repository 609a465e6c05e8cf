//! What can be said of a runner that is registered, with GitLab Runner's flags and variables. A variable that is empty
//! says nothing.

use super::Registration;
use super::options::{Options, switch};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `gantry register`.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is ever asked for on the terminal. With --token (glrt-…, made in GitLab) the runner is looked up and written \
down; with --registration-token it is made first.\n\n`gantry register --help` lists the flags and variables of all keys; a key that \
gantry does not read is written down for GitLab Runner and told to have no effect."
)]
pub struct RegisterArguments {
    /// Configuration file to add the runner to, GitLab Runner's config.toml; made when it is not there
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// File with one [[runners]] entry, for the keys that nothing else says
    #[arg(long, env = "TEMPLATE_CONFIG_FILE", value_name = "FILE")]
    pub template_config: Option<PathBuf>,
    /// For scripts of GitLab Runner; has no effect, because nothing is ever asked for
    #[arg(long, short, env = "REGISTER_NON_INTERACTIVE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub non_interactive: Option<String>,
    /// GitLab's address
    #[arg(long, short, env = "CI_SERVER_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Token of a runner that was made in GitLab (glrt-…)
    #[arg(long, short, env = "CI_SERVER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Token to make a runner with, in a GitLab that still has them
    #[arg(long, short, env = "REGISTRATION_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub registration_token: Option<String>,
    /// Name of the runner; this machine's when there is none
    #[arg(long, visible_alias = "description", env = "RUNNER_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Executor; only kubernetes, which it is when nothing says another, can be used
    #[arg(long, env = "RUNNER_EXECUTOR", value_name = "NAME")]
    pub executor: Option<String>,
    /// Certificates (PEM) to trust at GitLab besides the public ones
    #[arg(long, env = "CI_SERVER_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<String>,
    /// Our own certificate (PEM) for GitLab
    #[arg(long, env = "CI_SERVER_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<String>,
    /// Its key
    #[arg(long, env = "CI_SERVER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<String>,
    /// Keep a runner that was made when it could not be written down
    #[arg(long, env = "REGISTER_LEAVE_RUNNER", value_parser = clap::builder::FalseyValueParser::new())]
    pub leave_runner: bool,
    /// Settings of a runner that is made.
    #[command(flatten)]
    pub settings: Settings,
    /// Keys of its entry.
    #[command(flatten)]
    pub options: Options,
}

/// What only a registration token can say.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "With --registration-token only")]
pub struct Settings {
    /// Tags, separated by commas
    #[arg(long, env = "RUNNER_TAG_LIST", value_name = "TAGS")]
    pub tag_list: Option<String>,
    /// Take jobs without tags; true when there are no tags
    #[arg(long, env = "REGISTER_RUN_UNTAGGED", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub run_untagged: Option<String>,
    /// Stay with the project; true unless said otherwise
    #[arg(long, env = "REGISTER_LOCKED", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub locked: Option<String>,
    /// `not_protected` or `ref_protected`
    #[arg(long, env = "REGISTER_ACCESS_LEVEL", value_name = "LEVEL")]
    pub access_level: Option<String>,
    /// The longest that a job may take, in seconds
    #[arg(long, env = "REGISTER_MAXIMUM_TIMEOUT", value_name = "SECONDS")]
    pub maximum_timeout: Option<String>,
    /// Take no jobs for now
    #[arg(long, env = "REGISTER_PAUSED", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub paused: Option<String>,
    /// A note for whoever looks after the runner
    #[arg(long, env = "REGISTER_MAINTENANCE_NOTE", value_name = "TEXT")]
    pub maintenance_note: Option<String>,
}

impl Settings {
    /// Flags that say something else than a runner has anyway.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub fn said(&self) -> Result<Vec<&'static str>> {
        let made = self.registration("")?;
        let flags = [
            ("--tag-list", !made.tag_list.is_empty()),
            ("--run-untagged", self.yes(&self.run_untagged, "run-untagged", false)?),
            ("--locked", !made.locked),
            ("--access-level", !made.access_level.is_empty()),
            ("--maximum-timeout", made.maximum_timeout != 0),
            ("--paused", made.paused),
            ("--maintenance-note", !made.maintenance_note.is_empty()),
        ];
        Ok(flags.into_iter().filter(|(_, said)| *said).map(|(flag, _)| flag).collect())
    }

    /// What GitLab is told of the runner.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub fn registration(&self, description: &str) -> Result<Registration> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let access_level = text(&self.access_level);
        if !["", "not_protected", "ref_protected"].contains(&access_level.as_str()) {
            anyhow::bail!("--access-level: not_protected or ref_protected is expected");
        }
        let timeout = text(&self.maximum_timeout);
        let maximum_timeout =
            if timeout.is_empty() { 0 } else { timeout.parse().context("--maximum-timeout: a number of seconds is expected")? };
        Ok(Registration {
            description: description.to_owned(),
            maintenance_note: text(&self.maintenance_note),
            tag_list: text(&self.tag_list),
            run_untagged: self.yes(&self.run_untagged, "run-untagged", text(&self.tag_list).is_empty())?,
            locked: self.yes(&self.locked, "locked", true)?,
            access_level,
            maximum_timeout,
            paused: self.yes(&self.paused, "paused", false)?,
            ..Registration::default()
        })
    }

    fn yes(&self, said: &Option<String>, flag: &str, otherwise: bool) -> Result<bool> {
        let text = said.as_deref().unwrap_or_default();
        if text.is_empty() { Ok(otherwise) } else { switch(text).with_context(|| format!("--{flag}")) }
    }
}
