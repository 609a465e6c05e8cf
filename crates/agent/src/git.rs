//! The source: clone or fetch with the git CLI, then a detached checkout of the commit.
//!
//! Credentials travel in git's environment as a header for this one server, never in a URL, an argument or a file.
//! The directory is open to every user (umask 0), because the build container may run as any.

use crate::trace::Trace;
use agent_contract::Coordinator;
use anyhow::{Context, Result, bail};
use base64::Engine;
use job::{Job, Secret};
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How the source is fetched (`GIT_STRATEGY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// From nothing.
    Clone,
    /// Into what is there.
    Fetch,
    /// Not at all.
    None,
    /// An empty directory.
    Empty,
}

impl Strategy {
    /// The job's choice.
    ///
    /// # Errors
    /// A word that GitLab does not know.
    pub fn of(job: &Job) -> Result<Self> {
        match job.variables.get("GIT_STRATEGY").map(|text| job.variables.expand(text)).unwrap_or_default().as_str() {
            "" if job.allow_git_fetch => Ok(Self::Fetch),
            "" | "clone" => Ok(Self::Clone),
            "fetch" => Ok(Self::Fetch),
            "none" => Ok(Self::None),
            "empty" => Ok(Self::Empty),
            other => bail!("unknown GIT_STRATEGY {other:?}: clone, fetch, none and empty are known"),
        }
    }
}

/// Makes the project directory as the job wants it.
///
/// # Errors
/// When git fails, with what it did; git's own words are in the trace.
pub async fn get_sources(job: &Job, coordinator: &Coordinator, directory: &Path, trace: &Trace) -> Result<()> {
    let strategy = Strategy::of(job)?;
    match strategy {
        Strategy::None => {
            trace.line("\x1b[32;1mSkipping Git repository setup").await;
            return make_directory(directory);
        }
        Strategy::Empty => {
            trace.line("\x1b[32;1mSkipping Git repository setup and creating an empty build directory").await;
            remove(directory)?;
            return make_directory(directory);
        }
        Strategy::Clone => remove(directory)?,
        Strategy::Fetch => {}
    }
    make_directory(directory)?;
    let authority = coordinator.ca_pem.as_deref().map(authority_file).transpose()?;
    let git = Git { directory, remote: Remote::of(job, coordinator.clone_url.as_deref())?, authority, trace };
    let depth = depth(job);
    let shown = depth.map_or_else(String::new, |depth| format!(" with git depth set to {depth}"));
    trace.line(&format!("\x1b[32;1mFetching changes{shown}...")).await;
    let fresh = !directory.join(".git").exists();
    if fresh {
        let format = format!("--object-format={}", job.git.object_format);
        git.run(&["init", "--quiet", &format]).await?;
        git.run(&["remote", "add", "origin", &git.remote.url]).await?;
        trace.line("\x1b[32;1mCreated fresh repository.").await;
    } else {
        for lock in ["index.lock", "shallow.lock", "HEAD.lock", "config.lock"] {
            let _ = std::fs::remove_file(directory.join(".git").join(lock));
        }
        git.run(&["remote", "set-url", "origin", &git.remote.url]).await?;
        let flags = job.variables.get("GIT_CLEAN_FLAGS").map_or_else(|| "-ffdx".to_owned(), |text| job.variables.expand(text));
        if flags.trim() != "none" {
            git.run(&["clean"].into_iter().chain(flags.split_whitespace()).collect::<Vec<_>>()).await?;
        }
    }
    let depth = depth.map(|depth| format!("--depth={depth}"));
    let mut fetch = vec!["fetch", "origin", "--no-recurse-submodules", "--prune", "--quiet", "--force"];
    fetch.extend(depth.as_deref());
    if job.git.refspecs.is_empty() {
        fetch.push(&job.git.sha);
    }
    fetch.extend(job.git.refspecs.iter().map(String::as_str));
    git.run(&fetch).await?;
    if job.variables.get("GIT_CHECKOUT") == Some("false") {
        trace.line("\x1b[32;1mSkipping Git checkout").await;
    } else {
        let short: String = job.git.sha.chars().take(8).collect();
        trace.line(&format!("\x1b[32;1mChecking out {short} as detached HEAD (ref is {})...", job.git.reference)).await;
        git.run(&["checkout", "--force", "--quiet", "--detach", &job.git.sha]).await?;
    }
    if matches!(job.variables.get("GIT_SUBMODULE_STRATEGY"), Some("normal" | "recursive")) {
        trace.line("\x1b[0;33mWARNING: submodules are not supported by gantry yet, they were left out").await;
    } else {
        trace.line("\x1b[32;1mSkipping Git submodules setup").await;
    }
    Ok(())
}

/// The certificates of the plan as a file, because git reads no other form; gone when it is dropped.
fn authority_file(pem: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new().context("failed to make room for the certificates")?;
    std::fs::write(file.path(), pem).context("failed to write the certificates")?;
    Ok(file)
}

fn depth(job: &Job) -> Option<u32> {
    let asked = job.variables.get("GIT_DEPTH").and_then(|text| text.trim().parse().ok());
    Some(asked.unwrap_or(job.git.depth)).filter(|depth| *depth > 0)
}

fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Where from, with the login apart.
struct Remote {
    url: String,
    /// Scheme, host and port, for which the header holds.
    origin: String,
    header: Option<Secret>,
}

impl Remote {
    fn of(job: &Job, clone_url: Option<&str>) -> Result<Self> {
        // The address may hold the token, so an error must not show it.
        let mut url = url::Url::parse(job.git.repo_url.expose()).ok().context("the repository's address cannot be read")?;
        let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
        if let Some(base) = clone_url.and_then(|base| url::Url::parse(base).ok()) {
            let _ = url.set_scheme(base.scheme());
            let _ = url.set_host(base.host_str());
            let _ = url.set_port(base.port());
        }
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let mut origin = url.clone();
        origin.set_path("/");
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let header = (!password.is_empty()).then(|| Secret::new(format!("Authorization: Basic {login}")));
        Ok(Self { url: url.to_string(), origin: origin.to_string(), header })
    }
}

struct Git<'a> {
    directory: &'a Path,
    remote: Remote,
    authority: Option<tempfile::NamedTempFile>,
    trace: &'a Trace,
}

impl Git<'_> {
    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let what = arguments.first().copied().unwrap_or_default();
        let mut command = Command::new("git");
        command.arg("-C").arg(self.directory).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
        let directory = self.directory.display().to_string();
        let mut settings = vec![("safe.directory".to_owned(), directory), ("advice.detachedHead".to_owned(), "false".to_owned())];
        if let Some(authority) = &self.authority {
            settings.push(("http.sslCAInfo".to_owned(), authority.path().display().to_string()));
        }
        if let Some(header) = &self.remote.header {
            settings.push((format!("http.{}.extraHeader", self.remote.origin), header.expose().to_owned()));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        let mut child = command.spawn().context("failed to start git; the helper image must have it")?;
        let mut words = child.stderr.take().context("git has no error output")?;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = words.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            self.trace.write(&buffer[..length]).await;
        }
        let status = child.wait().await?;
        if !status.success() {
            bail!("git {what} failed ({status})");
        }
        Ok(())
    }
}
