//! The measurements on a real cluster, one file each.

pub mod bare;
pub mod idle;
pub mod latency;
pub mod load;
pub mod log;
pub mod requests;

mod pod_cpu;

use crate::cluster::Cluster;
use crate::report::Report;
use crate::runner::{self, Contender, Running};
use crate::scenario::Scenario;
use crate::stand_in::{Job, StandIn};
use crate::template::Values;
use anyhow::{Result, bail};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long jobs may take beyond what they do.
const PATIENCE: Duration = Duration::from_secs(420);

/// What every measurement works with.
pub struct Bench {
    /// The GitLab stand-in.
    pub stand_in: StandIn,
    /// The cluster.
    pub cluster: Cluster,
    /// The runners, one after another in every measurement.
    pub contenders: Vec<Contender>,
    /// Their ways into the cluster, by name.
    pub kubeconfigs: HashMap<String, PathBuf>,
    /// What they are told.
    pub settings: Settings,
    /// Where configurations and logs of the runners go.
    pub directory: PathBuf,
    /// What was found.
    pub report: Report,
}

/// What the command line says of all measurements.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This machine, as pods see it.
    pub host: String,
    /// Image of the jobs.
    pub image: String,
    /// More values for the templates.
    pub set: Values,
    /// Where the scenarios of the user are.
    pub scenarios: Option<PathBuf>,
    /// The audit log, when there is one.
    pub audit_log: Option<PathBuf>,
    /// Jobs one after another.
    pub serial: usize,
    /// Jobs at once.
    pub burst: usize,
    /// How often they are measured.
    pub rounds: usize,
    /// Numbers of running jobs in the measurement of memory.
    pub sizes: Vec<usize>,
    /// How long a job of that measurement runs.
    pub job_seconds: u64,
    /// How many idle entries.
    pub idle: usize,
    /// Lines of 100 bytes in the measurement of logs.
    pub lines: u64,
}

/// Values that every template may use.
pub fn values(url: &str, namespace: &str, concurrent: usize) -> Values {
    let pairs = [
        ("url", url.to_owned()),
        ("namespace", namespace.to_owned()),
        ("image", "busybox".to_owned()),
        ("concurrent", concurrent.to_string()),
        ("request_concurrency", "1".to_owned()),
        ("name", "bench".to_owned()),
        // Empty: the runner's own default.
        ("helper_image", String::new()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Settings {
    /// The values of `--set` for a runner: those for all, and over them those that name it (`NAME.KEY`).
    fn of(&self, name: &str) -> Values {
        let own = |key: &str| key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
        let of_all = self.set.iter().filter(|(key, _)| !key.contains('.')).map(|(key, value)| (key.clone(), value.clone()));
        let of_it = self.set.iter().filter_map(|(key, value)| Some((own(key)?, value.clone())));
        of_all.chain(of_it).collect()
    }
}

impl Bench {
    /// Address of the stand-in, for runners and pods.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.settings.host, self.stand_in.port())
    }

    /// A scenario by name.
    pub fn scenario(&self, name: &str) -> Result<Scenario> {
        Scenario::load(name, self.settings.scenarios.as_deref())
    }

    /// Starts a runner with this many entries.
    pub async fn start(&self, contender: &Contender, entries: usize) -> Result<Running> {
        let largest = self.settings.sizes.iter().copied().chain([self.settings.burst, entries]).max().unwrap_or(1);
        let mut values = values(&self.url(), &self.cluster.namespace, largest + 10);
        values.insert("image".to_owned(), self.settings.image.clone());
        values.extend(self.settings.of(&contender.name));
        let kubeconfig = self.kubeconfigs.get(&contender.name).cloned().unwrap_or_default();
        let place = runner::Place { directory: self.directory.clone(), kubeconfig, values, entries };
        runner::start(contender, &place, &self.stand_in).await
    }

    /// Gives jobs to a runner.
    pub fn offer(&self, running: &Running, scenario: &Scenario, number: usize) -> Vec<u64> {
        (0..number).map(|_| self.stand_in.offer(running.token(), scenario, &self.settings.image)).collect()
    }

    /// Waits until jobs ended; one that failed ends the measurement.
    pub async fn ended(&self, running: &Running, ids: &[u64], longest: Duration) -> Result<Vec<Job>> {
        let is_ended = |stand_in: &StandIn| ids.iter().all(|id| stand_in.job(*id).is_some_and(|job| job.ended.is_some()));
        let all = self.stand_in.until(longest + PATIENCE, is_ended).await;
        let jobs: Vec<_> = ids.iter().filter_map(|id| self.stand_in.job(*id)).collect();
        let failed: Vec<_> = jobs.iter().filter(|job| job.ended.is_some() && job.state != "success").collect();
        if let Some(job) = failed.first() {
            let reason = job.failure_reason.as_deref().unwrap_or_default();
            bail!("{} of {} jobs failed, the first with {reason}: {}", failed.len(), ids.len(), job.end_of_trace());
        }
        if !all {
            let open = jobs.iter().filter(|job| job.ended.is_none()).count();
            bail!("{open} of {} jobs did not end; the runner's last lines:\n{}", ids.len(), runner::end_of(&running.log));
        }
        self.stand_in.forget(ids);
        Ok(jobs)
    }
}
