//! One scenario on one target, from its namespace to the last object that must be gone.

use crate::gitlab::{GitLab, Sites};
use crate::manager::{ACCOUNT, Manager, configuration, fill};
use crate::scenario::{Action, Folder, Outcome, When};
use crate::target::{Target, tail};
use crate::{audit, objects};
use anyhow::{Context, Result, bail, ensure};
use coordinator::{JobState, PipelineId, ProjectVariable};
use kube::api::{Api, DeleteParams, EvictParams};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a pipeline may take where the scenario does not say.
const SECONDS: u64 = 120;
/// Most requests that a job may cost (the design's budget).
const REQUESTS_PER_JOB: usize = 8;
/// What is kept beside the logs when a scenario fails.
pub const STATE_FILE: &str = "state.txt";
const LOOK: Duration = Duration::from_millis(50);

/// What all plays on a target share.
pub struct Stage {
    /// Where.
    pub target: Target,
    /// Everybody's GitLab.
    pub sites: Sites,
    /// The program under test.
    pub program: PathBuf,
    /// Makes names of this run differ from those of the last.
    pub run: String,
}

/// A scenario under way.
struct Play<'a> {
    stage: &'a Stage,
    folder: &'a Folder,
    namespace: String,
    namespaces: Vec<String>,
    gitlab: GitLab,
    manager: Manager,
    pipeline: PipelineId,
    deadline: Instant,
}

/// Plays it; `directory` is kept when it fails.
///
/// # Errors
/// Where something came out otherwise than the scenario says.
pub async fn play(stage: &Stage, folder: &Folder, directory: &Path) -> Result<()> {
    let target = &stage.target;
    let namespace = format!("{}-{}", folder.name, stage.run);
    let more = folder.scenario.more_namespaces.iter().map(|suffix| format!("{namespace}-{suffix}"));
    let namespaces: Vec<_> = std::iter::once(namespace.clone()).chain(more).collect();
    for name in &namespaces {
        objects::make_namespace(&target.client, name, &folder.scenario.namespace_labels).await?;
    }
    let played = act(stage, folder, directory, (namespace, namespaces.clone())).await;
    for name in &namespaces {
        objects::remove_namespace(&target.client, name).await;
    }
    played
}

async fn act(stage: &Stage, folder: &Folder, directory: &Path, names: (String, Vec<String>)) -> Result<()> {
    let (target, (namespace, namespaces)) = (&stage.target, names);
    if target.name == "cluster" {
        for name in &namespaces {
            objects::await_account(&target.client, name).await?;
        }
    }
    let file = folder.path.join("objects.yaml");
    if file.exists() {
        let text = fill(&std::fs::read_to_string(&file)?, target, &namespace);
        objects::create(&target.client, &text, &namespace).await?;
    }
    let url = format!("http://{}:{}/{namespace}", target.gateway, target.port);
    let gitlab = GitLab::open(&stage.sites, url, &folder.scenario.hold, directory)?;
    let config = configuration(folder, target, &namespace, (&gitlab.url, &gitlab.token))?;
    let audit_start = target.audit_log.as_deref().map_or(0, audit::end);
    let manager = Manager::start(&stage.program, target, &namespaces, &config, directory).await?;
    let pipeline = gitlab.run(folder, variables(target, folder, (&namespace, &gitlab)), directory)?;
    let deadline = Instant::now() + Duration::from_secs(folder.scenario.seconds.unwrap_or(SECONDS));
    let mut play = Play { stage, folder, namespace, namespaces, gitlab, manager, pipeline, deadline };
    let went = play.whole(audit_start).await;
    if went.is_err() {
        std::fs::write(directory.join(STATE_FILE), play.state()?)?;
    }
    went
}

/// Images, the gate, and what the scenario adds.
fn variables(target: &Target, folder: &Folder, (namespace, gitlab): (&str, &GitLab)) -> Vec<ProjectVariable> {
    let plain = |key: &str, value: &str| ProjectVariable { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    let mut all: Vec<_> = target.images.iter().map(|(word, image)| plain(word, image)).collect();
    all.push(plain("GATE", &gitlab.gate_url()));
    if let Some(generated) = folder.scenario.generated {
        // Of all bytes a few, so that it does not compress to nothing.
        let mut state = 1_u32;
        let mut letter = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (state >> 24) as u8 % 26)
        };
        let mut value = || (0..generated.bytes).map(|_| letter()).collect::<String>();
        all.extend(
            (1..=generated.count)
                .map(|index| ProjectVariable { file: generated.file, ..plain(&format!("GENERATED_{index}"), &value()) }),
        );
    }
    all.extend(folder.scenario.variables.iter().map(|(key, one)| {
        let (key, value) = (key.clone(), fill(&one.value, target, namespace));
        ProjectVariable { key, value, masked: one.masked, file: one.file, raw: one.raw }
    }));
    all
}

impl Play<'_> {
    async fn whole(&mut self, audit_start: u64) -> Result<()> {
        self.steps().await?;
        self.end().await?;
        self.verdicts()?;
        let left = objects::leftovers(&self.stage.target.client, &self.namespaces).await?;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        ensure!(self.manager.stop().await, "the manager did not end well when it was told to");
        self.manager_said()?;
        self.requests(audit_start)
    }

    fn jobs(&self) -> Result<Vec<JobState>> {
        Ok(self.gitlab.coordinator.pipeline(self.pipeline)?.jobs)
    }

    fn trace(&self, job: &JobState) -> Result<String> {
        let bytes = self.gitlab.coordinator.read_trace(job.id, 0, usize::MAX >> 8)?;
        Ok(String::from_utf8_lossy(&coordinator::log::without_stamps(&bytes)).into_owned())
    }

    async fn steps(&mut self) -> Result<()> {
        let steps = self.folder.scenario.steps.clone();
        for (index, step) in steps.iter().enumerate() {
            while !self.holds(&step.when).await? {
                self.look(&format!("step {}: {:?} was not seen", index + 1, step.when)).await?;
            }
            self.act(step.action).await.with_context(|| format!("step {}", index + 1))?;
        }
        Ok(())
    }

    /// Waits a little, unless nothing will come any more.
    async fn look(&mut self, missing: &str) -> Result<()> {
        if Instant::now() > self.deadline {
            bail!("{missing} in time");
        }
        if self.manager.has_ended() {
            bail!("the manager ended: {}", tail(&self.manager.log()));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    async fn holds(&self, when: &When) -> Result<bool> {
        let jobs = self.jobs()?;
        let job = match &when.job {
            Some(name) => jobs.iter().find(|job| &job.name == name).with_context(|| format!("no job {name}"))?,
            None => jobs.first().context("no jobs")?,
        };
        if when.status.as_deref().is_some_and(|status| status != job.status.as_str()) {
            return Ok(false);
        }
        if let Some(text) = &when.trace
            && !plain(&self.trace(job)?).contains(text)
        {
            return Ok(false);
        }
        if when.pod.is_none() && when.waiting.is_none() {
            return Ok(true);
        }
        let pods = objects::pods(&self.stage.target.client, &self.namespaces).await?;
        let phase =
            |phase: &str| pods.iter().any(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase));
        let waits = |reason: &str| {
            let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()).flatten();
            let mut waiting = statuses.filter_map(|one| one.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
            waiting.any(|one| one == reason)
        };
        Ok(when.pod.as_deref().is_none_or(phase) && when.waiting.as_deref().is_none_or(waits))
    }

    async fn act(&mut self, action: Action) -> Result<()> {
        let client = &self.stage.target.client;
        match action {
            Action::Cancel => self.gitlab.coordinator.cancel_pipeline(self.pipeline)?,
            Action::OpenGate => self.gitlab.open_gate(),
            Action::DeletePod | Action::EvictPod => {
                for pod in objects::pods(client, &self.namespaces).await? {
                    let (Some(name), Some(namespace)) = (pod.metadata.name, pod.metadata.namespace) else { continue };
                    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &namespace);
                    if action == Action::EvictPod {
                        pods.evict(&name, &EvictParams::default()).await.map(|_| ())
                    } else {
                        pods.delete(&name, &DeleteParams::default()).await.map(|_| ())
                    }
                    .with_context(|| format!("failed to take away {name}"))?;
                }
            }
            Action::DeletePlan => {
                for plan in objects::plans(client, &self.namespaces).await? {
                    let (Some(name), Some(namespace)) = (plan.metadata.name, plan.metadata.namespace) else { continue };
                    let plans: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), &namespace);
                    plans.delete(&name, &DeleteParams::default()).await.with_context(|| format!("failed to delete {name}"))?;
                }
            }
            Action::DeleteObjects => {
                let text = std::fs::read_to_string(self.folder.path.join("objects.yaml"))?;
                objects::delete(client, &fill(&text, &self.stage.target, &self.namespace), &self.namespace).await?;
            }
            Action::KillKubelet => restart("kubelet", 20).await?,
            Action::StopApiServer => restart("apiserver", 30).await?,
            Action::StopGitlab => self.gitlab.stop_for(Duration::from_secs(20)),
            Action::ReplaceManager => self.manager.replace().await?,
            Action::ChangeConfiguration => {
                let text = std::fs::read_to_string(self.folder.path.join("changed.toml"))?;
                let before = self.manager.configure(&fill(&text, &self.stage.target, &self.namespace))?;
                while !self.manager.has_read_since(before) {
                    self.look("that the manager reads its configuration").await?;
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        loop {
            let now = self.gitlab.coordinator.pipeline(self.pipeline)?;
            if now.status.is_over() || now.jobs.iter().all(|job| job.status.is_final()) {
                return Ok(());
            }
            self.look("the end of the pipeline").await?;
        }
    }

    /// What a person would look at first: the ends of all logs.
    fn state(&self) -> Result<String> {
        let jobs = self.jobs()?;
        let states = jobs.iter().map(|job| {
            let trace = self.trace(job).unwrap_or_default();
            format!("--- {} is {}; its log:\n{}\n", job.name, job.status.as_str(), tail(&plain(&trace)))
        });
        Ok(format!("{}--- the manager:\n{}", states.collect::<String>(), tail(&self.manager.log())))
    }

    fn verdicts(&self) -> Result<()> {
        let scenario = &self.folder.scenario;
        let mut wrong = Vec::new();
        let jobs = self.jobs()?;
        for (name, outcome) in &scenario.jobs {
            match jobs.iter().find(|job| &job.name == name) {
                Some(job) => wrong.extend(self.verdict(job, outcome)?.into_iter().map(|what| format!("{name}: {what}"))),
                None => wrong.push(format!("there is no job {name}")),
            }
        }
        let status = self.gitlab.coordinator.pipeline(self.pipeline)?.status;
        if status.as_str() != scenario.pipeline {
            wrong.push(format!("the pipeline is {}, not {}", status.as_str(), scenario.pipeline));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }

    fn verdict(&self, job: &JobState, outcome: &Outcome) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        if job.status.as_str() != outcome.status {
            wrong.push(format!("it is {}, not {}", job.status.as_str(), outcome.status));
        }
        if outcome.reason.is_some() && job.failure_reason != outcome.reason {
            wrong.push(format!("it failed for {:?}, not {:?}", job.failure_reason, outcome.reason));
        }
        if outcome.exit_code.is_some() && job.exit_code != outcome.exit_code {
            wrong.push(format!("its exit code is {:?}, not {:?}", job.exit_code, outcome.exit_code));
        }
        let trace = self.trace(job)?;
        let shown = plain(&trace);
        let filled =
            |texts: &[String]| -> Vec<_> { texts.iter().map(|text| fill(text, &self.stage.target, &self.namespace)).collect() };
        let (has, lacks) = (filled(&outcome.has).into_iter(), filled(&outcome.lacks).into_iter());
        wrong.extend(has.filter(|text| !shown.contains(text)).map(|text| format!("its log lacks {text:?}")));
        wrong.extend(lacks.filter(|text| shown.contains(text)).map(|text| format!("its log has {text:?}")));
        let facts = self.gitlab.coordinator.trace_facts(job.id)?;
        if facts.bytes < outcome.at_least_bytes {
            wrong.push(format!("its log has {} bytes", facts.bytes));
        }
        if facts.reported_bytes.is_some_and(|bytes| bytes != facts.bytes) {
            wrong.push(format!("its log has {} bytes where {:?} were sent", facts.bytes, facts.reported_bytes));
        }
        let checksum = format!("crc32:{:08x}", facts.crc32);
        if facts.reported_checksum.as_ref().is_some_and(|said| *said != checksum) {
            wrong.push(format!("its log has checksum {checksum}, not {:?}", facts.reported_checksum));
        }
        let masked = self.folder.scenario.variables.iter().filter(|(_, one)| one.masked);
        wrong.extend(masked.filter(|(_, one)| trace.contains(&one.value)).map(|(key, _)| format!("its log shows {key}")));
        Ok(wrong)
    }

    fn manager_said(&self) -> Result<()> {
        let (log, scenario) = (self.manager.log(), &self.folder.scenario);
        let shown: Vec<_> = scenario.variables.iter().filter(|(_, one)| one.masked && log.contains(&one.value)).collect();
        ensure!(shown.is_empty(), "the manager's log shows masked variables");
        ensure!(!log.contains("panicked"), "the manager panicked: {}", tail(&log));
        let missing: Vec<_> = scenario.manager_log_has.iter().filter(|text| !log.contains(*text)).collect();
        ensure!(missing.is_empty(), "the manager did not say {missing:?}: {}", tail(&log));
        Ok(())
    }

    /// Counts what the jobs cost the Kubernetes API.
    fn requests(&self, start: u64) -> Result<()> {
        let Some(log) = &self.stage.target.audit_log else { return Ok(()) };
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace);
        let counts = audit::since(log, start, &user).context("failed to read the audit log")?;
        let jobs = self.jobs()?.iter().filter(|job| job.started_at.is_some()).count();
        let most = self.folder.scenario.requests_per_job.unwrap_or(REQUESTS_PER_JOB) * jobs;
        let total: usize = counts.values().sum();
        ensure!(total <= most, "{total} requests to the Kubernetes API for {jobs} jobs: {counts:?}");
        ensure!(total > 0 || jobs == 0, "the audit log at {} knows nothing of {user}", log.display());
        Ok(())
    }
}

/// Takes a component of the cluster away for some seconds.
pub(crate) async fn restart(component: &str, seconds: u32) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = tokio::process::Command::new(cargo);
    command.args(["run", "--quiet", "--package", "xtask", "--", "cluster", "restart", component, "--down"]);
    command.arg(seconds.to_string()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().await.context("failed to start cargo xtask")?;
    ensure!(output.status.success(), "cluster restart {component}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A log without its colours and section marks.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        // CSI: parameters, then one letter.
        rest = after
            .strip_prefix('[')
            .map_or(after, |after| after.find(|one: char| one.is_ascii_alphabetic()).map_or("", |end| &after[end + 1..]));
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn colours_are_no_part_of_a_line() {
        assert_eq!(super::plain("\u{1b}[31;1mred\u{1b}[0;m and \u{1b}[0Kplain"), "red and plain");
    }
}
