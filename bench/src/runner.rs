//! A runner under test: any program that understands `run --config FILE` and `KUBECONFIG`, as GitLab Runner does.

use crate::process::{self, Usage};
use crate::stand_in::StandIn;
use crate::template::{self, Values};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a runner may take to ask for its first job, and to end.
const STARTING: Duration = Duration::from_secs(60);
const ENDING: Duration = Duration::from_secs(20);

/// What the command line says of a runner.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in the results.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// The template of its configuration.
    pub template: PathBuf,
}

impl Contender {
    /// Reads `NAME=PATH:CONFIG`; the name is that of the program where none is given, the template is `config`.
    pub fn parse(text: &str, config: Option<&Path>) -> Result<Self> {
        let (name, rest) = text.split_once('=').map_or((None, text), |(name, rest)| (Some(name), rest));
        let (program, template) = rest.split_once(':').map_or((rest, None), |(program, template)| (program, Some(template)));
        let template = template.map(PathBuf::from).or_else(|| config.map(Path::to_owned));
        let template = template.with_context(|| format!("{text}: the configuration is missing: PATH:CONFIG, or --config"))?;
        let program = PathBuf::from(program);
        let of_file = || program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = name.map_or_else(of_file, str::to_owned);
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 30 || !name.bytes().all(is_plain) {
            bail!("{name:?} is not a name: up to 30 lower case letters, digits and dashes");
        }
        Ok(Self { name, program, template })
    }
}

/// Where and how a runner is started.
#[derive(Clone, Debug)]
pub struct Place {
    /// Directory of its configuration and log.
    pub directory: PathBuf,
    /// Its way into the cluster.
    pub kubeconfig: PathBuf,
    /// Values for its template.
    pub values: Values,
    /// How many `[[runners]]` entries it has.
    pub entries: usize,
}

/// A runner at work; ended when dropped.
pub struct Running {
    child: Child,
    /// Its process.
    pub pid: u32,
    /// The tokens of its entries.
    pub tokens: Vec<String>,
    /// Where its log is.
    pub log: PathBuf,
    stand_in: StandIn,
}

/// Starts a runner and waits until each of its entries has asked for a job, or at least one did.
pub async fn start(contender: &Contender, place: &Place, stand_in: &StandIn) -> Result<Running> {
    let directory = place.directory.join(format!("{}-{}", contender.name, uniq()));
    std::fs::create_dir_all(&directory).with_context(|| format!("failed to make {}", directory.display()))?;
    let tokens: Vec<_> = (0..place.entries).map(|index| format!("glrt-{:04}{}", index, directory_tag(&directory))).collect();
    let entries: Vec<_> = tokens.iter().enumerate().map(|(index, token)| entry(index, token)).collect();
    let template = std::fs::read_to_string(&contender.template)
        .with_context(|| format!("failed to read {}", contender.template.display()))?;
    let text = template::fill(&template, &place.values, &entries).with_context(|| contender.template.display().to_string())?;
    let (config, log) = (directory.join("config.toml"), directory.join("log"));
    std::fs::write(&config, text)?;
    tokens.iter().for_each(|token| stand_in.admit(token));
    let output = std::fs::File::create(&log)?;
    let program = std::path::absolute(&contender.program)?;
    let child = Command::new(&program)
        .args(["run", "--config"])
        .arg(&config)
        .env("KUBECONFIG", &place.kubeconfig)
        .env("HOME", &directory)
        .current_dir(&directory)
        .stdin(std::process::Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {}", program.display()))?;
    let pid = child.id().with_context(|| format!("{} ended at once", contender.name))?;
    let mut running = Running { child, pid, tokens, log, stand_in: stand_in.clone() };
    running.await_first_question(&contender.name).await?;
    Ok(running)
}

impl Running {
    async fn await_first_question(&mut self, name: &str) -> Result<()> {
        let asked = |stand_in: &StandIn| self.tokens.iter().any(|token| stand_in.questions(token).0 > 0);
        let is_there = self.stand_in.until(STARTING, |stand_in| asked(stand_in) || process::look(self.pid).is_err()).await;
        if let Some(status) = self.child.try_wait()? {
            bail!("{name} ended at its start ({status}):\n{}", end_of(&self.log));
        }
        if !is_there {
            bail!("{name} did not ask for a job in {} s:\n{}", STARTING.as_secs(), end_of(&self.log));
        }
        Ok(())
    }

    /// What it uses now.
    pub fn usage(&self) -> Result<Usage> {
        process::look(self.pid).with_context(|| format!("the runner is gone:\n{}", end_of(&self.log)))
    }

    /// The token of its first entry.
    pub fn token(&self) -> &str {
        self.tokens.first().map_or("", String::as_str)
    }

    /// Ends it as an administrator does.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.pid)?) {
            // One that has ended already needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        if tokio::time::timeout(ENDING, self.child.wait()).await.is_err() {
            self.child.kill().await.context("failed to end the runner")?;
        }
        self.tokens.iter().for_each(|token| self.stand_in.dismiss(token));
        Ok(())
    }
}

fn entry(index: usize, token: &str) -> Values {
    [("name".to_owned(), format!("bench-{index}")), ("token".to_owned(), token.to_owned())].into()
}

/// Tells the runs of one program apart.
fn uniq() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn directory_tag(directory: &Path) -> String {
    directory
        .file_name()
        .map(|name| name.to_string_lossy().replace(|one: char| !one.is_ascii_alphanumeric(), ""))
        .unwrap_or_default()
}

/// The last lines of a log.
pub fn end_of(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::Contender;

    #[test]
    fn a_runner_is_written_with_name_program_and_configuration() {
        let one = Contender::parse("gantry=target/release/gantry:bench/config/gantry.toml", None).unwrap();
        assert_eq!((one.name.as_str(), one.template.to_str()), ("gantry", Some("bench/config/gantry.toml")));
        let one = Contender::parse("/usr/bin/gitlab-runner", Some("a.toml".as_ref())).unwrap();
        assert_eq!((one.name.as_str(), one.template.to_str()), ("gitlab-runner", Some("a.toml")));
        assert!(Contender::parse("gantry=x", None).is_err());
        assert!(Contender::parse("A b=x:y", None).is_err());
    }
}
