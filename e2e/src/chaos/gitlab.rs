//! The suite's side of the coordinator: the process, and what is asked of it.

use super::host::{Facts, JobView, Manners, Wanted};
use super::script::SUBMODULE;
use crate::gitlab::{commit_all, commit_itself};
use crate::target::{Target, free_port, spawn};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
const CALL: Duration = Duration::from_secs(20);

/// A coordinator that can be killed.
pub struct GitLab {
    /// Its address as pods see it.
    pub url: String,
    /// Where its journal is.
    pub journal: PathBuf,
    directory: PathBuf,
    listen: SocketAddr,
    control: SocketAddr,
    sha: String,
    http: reqwest::Client,
    child: Mutex<Child>,
}

impl GitLab {
    /// Starts one with a project of a few files.
    pub async fn start(target: &Target, directory: &Path) -> Result<Self> {
        let repository = directory.join("repository");
        std::fs::create_dir_all(repository.join("source"))?;
        std::fs::write(repository.join("README.md"), "A repository to clone.\n")?;
        std::fs::write(repository.join("source/data"), vec![b'x'; 200_000])?;
        let sha = commit_itself(&repository, SUBMODULE, &commit_all(&repository)?)?;
        let listen = SocketAddr::new(target.gateway, target.port);
        let control = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let http = reqwest::Client::builder().timeout(CALL).no_proxy().build()?;
        let child = Mutex::new(spawn_host(directory, (listen, control), &sha)?);
        let (url, journal) = (format!("http://{listen}"), super::host::journal_of(directory));
        let gitlab = Self { url, journal, directory: directory.to_owned(), listen, control, sha, http, child };
        gitlab.ready().await?;
        Ok(gitlab)
    }

    /// Token of its runner.
    pub fn token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.directory.join("token"))?)
    }

    /// Its process, while it has one.
    pub async fn pid(&self) -> Option<u32> {
        self.child.lock().await.id()
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        self.child.lock().await.kill().await.context("failed to kill the coordinator")
    }

    /// Starts it on what it left.
    pub async fn start_again(&self) -> Result<()> {
        *self.child.lock().await = spawn_host(&self.directory, (self.listen, self.control), &self.sha)?;
        self.ready().await
    }

    async fn ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Ok(answer) = self.http.get(self.address("ready")).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if begun.elapsed() > START {
                bail!("the coordinator did not start: {}", crate::target::text_of(&self.directory.join("coordinator.log")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn address(&self, path: &str) -> String {
        format!("http://{}/{path}", self.control)
    }

    /// Makes a pipeline; its number.
    pub async fn make(&self, wanted: &Wanted) -> Result<u64> {
        let answer = self.http.post(self.address("pipelines")).json(wanted).send().await?;
        if !answer.status().is_success() {
            bail!("no pipeline was made: {}", answer.text().await.unwrap_or_default());
        }
        Ok(answer.json().await?)
    }

    /// All jobs of the pipelines from this one on.
    pub async fn jobs(&self, from: u64) -> Result<Vec<JobView>> {
        let answer = self.http.get(self.address(&format!("jobs?from={from}"))).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// The log of a job, without its stamps.
    pub async fn trace(&self, job: u64) -> Result<Vec<u8>> {
        let answer = self.http.get(self.address(&format!("jobs/{job}/trace"))).send().await?;
        Ok(coordinator::log::without_stamps(&answer.error_for_status()?.bytes().await?))
    }

    /// Its length and checksum.
    pub async fn facts(&self, job: u64) -> Result<Facts> {
        let answer = self.http.get(self.address(&format!("jobs/{job}/facts"))).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Cancels a job; one that is over stays as it is.
    pub async fn cancel(&self, job: u64) -> Result<()> {
        self.http.post(self.address(&format!("jobs/{job}/cancel"))).send().await?.error_for_status()?;
        Ok(())
    }

    /// Treats runners and pods like this from now on.
    pub async fn behave(&self, manners: Manners) -> Result<()> {
        self.http.put(self.address("manners")).json(&manners).send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits a little for a job to be `handed`, `confirmed` or `ended`; whether one was.
    pub async fn passed(&self, what: &str) -> bool {
        let answer = self.http.get(self.address(&format!("passed/{what}"))).send().await;
        let Ok(answer) = answer else { return false };
        matches!(answer.json::<Option<u64>>().await, Ok(Some(_)))
    }
}

fn spawn_host(directory: &Path, (listen, control): (SocketAddr, SocketAddr), sha: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    command.args(["host", "--sha", sha, "--listen", &listen.to_string(), "--control", &control.to_string()]);
    command.arg("--directory").arg(directory).arg("--repository").arg(directory.join("repository"));
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    spawn(command, &directory.join("coordinator.log"))
}
