//! What the user can say on the command line.
//!
//! Exit codes are those of `gantry ci --help`; clap's own usage errors end with 2 as well.

use crate::register::RegisterArguments;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The pipeline failed.
pub const EXIT_FAILED: u8 = 1;
/// The configuration, the arguments or this machine do not allow a run.
pub const EXIT_CONFIGURATION: u8 = 2;
/// A manual job blocks the pipeline.
pub const EXIT_BLOCKED: u8 = 3;
/// The user pressed Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// GitLab CI jobs as Kubernetes pods.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, about, arg_required_else_help = true)]
pub struct GantryCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this repository's .gitlab-ci.yml in pods on this machine
    Ci(CiArguments),
    /// Ask GitLab for jobs and run them as pods (the manager)
    Run(RunArguments),
    /// Run the embedded node alone, with a Kubernetes API for managers and kubectl
    Node(NodeArguments),
    /// Print what the manager may do in Kubernetes, as a manifest for kubectl apply
    Rbac(RbacArguments),
    /// Add a runner to the configuration
    Register(Box<RegisterArguments>),
    /// Take runners away at GitLab and from the configuration
    Unregister(UnregisterArguments),
    /// Replace tokens of runners, at GitLab and in the configuration
    ResetToken(ResetTokenArguments),
    /// Ask GitLab whether it knows the runners of the configuration
    Verify(VerifyArguments),
}

/// Arguments of `gantry ci`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 success, 1 a job failed, 2 bad configuration, 3 blocked by a manual job, 130 interrupted")]
pub struct CiArguments {
    /// Jobs to run, with the jobs they need; all when none is named
    pub jobs: Vec<String>,
    /// Pipeline file, relative to the top of the repository
    #[arg(long, default_value = ".gitlab-ci.yml", value_name = "PATH")]
    pub file: String,
    /// Image of jobs that name none; `host` means this machine's own programs
    #[arg(long, default_value = "host", value_name = "IMAGE")]
    pub image_default: String,
    /// Set a pipeline variable (may be repeated)
    #[arg(long = "var", value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, String)>,
    /// Print one JSON object with the result on standard output; logs go to standard error
    #[arg(long)]
    pub json: bool,
    /// Keep traces and artifacts and say where they are
    #[arg(long)]
    pub keep: bool,
    /// Directory that jobs on the host image see read-only at its own place (may be repeated)
    #[arg(long = "host-path", value_name = "DIR")]
    pub host_paths: Vec<PathBuf>,
    /// Say what was mounted into the host image and what gantry itself does
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `gantry run`.
#[derive(Debug, Args)]
#[command(
    after_help = "The configuration is read again when it has changed (looked at every 3 s) and on SIGHUP: new jobs follow it, \
jobs that run go on as they began, and a file that cannot be used is told and changes nothing.\n\n\
SIGTERM, SIGQUIT and SIGINT end the manager within 5 s: it asks for no more jobs, and its pods go on by themselves until the \
next manager takes them over. A second signal, at least a second later, ends it at once."
)]
pub struct RunArguments {
    /// Configuration file, GitLab Runner's config.toml
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `gantry node`.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// Where to write a kubeconfig for kubectl and managers
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address the Kubernetes API listens at
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS")]
    pub listen: std::net::SocketAddr,
    /// TCP port of this machine that pods may reach, at any of its addresses but loopback (may be repeated)
    ///
    /// Pods reach other machines as this machine does, but nothing on this machine itself unless it is named here: a
    /// GitLab, a registry or a proxy that listens on more than loopback.
    #[arg(long = "allow-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub allowed_ports: Vec<u16>,
}

/// Arguments of `gantry rbac`.
#[derive(Debug, Args)]
pub struct RbacArguments {
    /// Configuration file, GitLab Runner's config.toml: its runners' namespaces each get a Role and a RoleBinding
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Namespace that the manager runs in
    #[arg(long, default_value = "default", value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: String,
    /// Service account that the manager runs as
    #[arg(long, default_value = "gantry", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub service_account: String,
}

/// Arguments of `gantry verify`; none but the file can come from the environment, where those of a registration may stand.
#[derive(Debug, Args)]
#[command(
    after_help = "One line for each runner: `Verifying runner... is valid` (or `is alive`, for a token of a registration), \
`is not valid` (or `is removed`) when GitLab does not know it, `failed` when GitLab could not be asked.\n\n\
Exit codes: 0 GitLab knows every runner that it could be asked for, or --delete removed the others; 1 it does not know one; \
2 bad configuration, or no runner is meant"
)]
pub struct VerifyArguments {
    /// Configuration file, GitLab Runner's config.toml
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Only runners of this name
    #[arg(long, short, value_name = "NAME")]
    pub name: Option<String>,
    /// Only the runner with this token
    #[arg(long, short, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Only runners of this GitLab
    #[arg(long, short, value_name = "URL")]
    pub url: Option<String>,
    /// Remove runners that GitLab does not know from the file; one that it could not be asked for stays
    #[arg(long)]
    pub delete: bool,
}

/// Arguments of `gantry unregister`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all are gone, 1 GitLab did not take one away, which stays in the file, 2 bad configuration"
)]
pub struct UnregisterArguments {
    /// Configuration file, GitLab Runner's config.toml
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Runners of this name
    #[arg(long, short, value_name = "NAME")]
    pub name: Option<String>,
    /// The runner with this token, at --url; it need not be in the file
    #[arg(long, short, env = "CI_SERVER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// GitLab's address, with --token
    #[arg(long, short, env = "CI_SERVER_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Every runner of the file
    #[arg(long)]
    pub all_runners: bool,
    /// Certificates (PEM) to trust at GitLab, with --token
    #[arg(long, env = "CI_SERVER_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<String>,
    /// Our own certificate (PEM) for GitLab, with --token
    #[arg(long, env = "CI_SERVER_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<String>,
    /// Its key
    #[arg(long, env = "CI_SERVER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<String>,
}

/// Arguments of `gantry reset-token`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all have another token, 1 one has not, 2 bad configuration, or no runner is meant")]
pub struct ResetTokenArguments {
    /// Configuration file, GitLab Runner's config.toml
    #[arg(long, short, env = "CONFIG_FILE", default_value = "/etc/gitlab-runner/config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Only runners of this name
    #[arg(long, short, value_name = "NAME")]
    pub name: Option<String>,
    /// Only runners of this GitLab
    #[arg(long, short, value_name = "URL")]
    pub url: Option<String>,
    /// Only the runner of this number
    #[arg(long, short, value_name = "NUMBER")]
    pub id: Option<u64>,
    /// Every runner of the file
    #[arg(long)]
    pub all_runners: bool,
    /// Personal access token to ask with, instead of the token that is replaced
    #[arg(long, value_name = "TOKEN")]
    pub pat: Option<String>,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a variable is written KEY=VALUE")?;
    let well_named = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !well_named {
        return Err(format!("{key:?} is not the name of a variable: letters, digits and _ are"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{GantryCommand, parse_variable};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        GantryCommand::command().debug_assert();
    }

    #[test]
    fn variables_are_checked() {
        assert_eq!(parse_variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(parse_variable("A").is_err());
        assert!(parse_variable("1A=x").is_err());
        assert!(parse_variable("=x").is_err());
    }
}
