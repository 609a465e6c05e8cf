//! A scenario as it lies in its folder: a pipeline, what is done to it, and what must come of it.
//!
//! ```text
//! e2e/scenarios/<behaviour>/
//!   .gitlab-ci.yml   the pipeline; `$BUSYBOX` and the other images of IMAGES are variables of the project
//!   scenario.yaml    this file's types
//!   runner.toml      optional: keys of the `[[runners]]` entry, over those every scenario has
//!   changed.toml     optional: the same, for the step `change-configuration`
//!   objects.yaml     optional: Kubernetes objects that are there before the manager starts
//!   files/           optional: more files of the repository
//! ```
//!
//! In the `.toml` files and `objects.yaml`, in values of variables and in lines of logs, `{{namespace}}`, `{{busybox}}`
//! (the same for each image) and `{{gateway}}` (address of this machine's GitLab) are filled in.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything that `scenario.yaml` may say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// The behaviour in one sentence.
    pub about: String,
    /// Targets that cannot play it (`node`, `cluster`), each with the reason that is printed.
    pub skip: BTreeMap<String, String>,
    /// Whether it disturbs the whole target: it is played when all others have ended.
    pub alone: bool,
    /// Most jobs at once (`concurrent`); 4 when not set.
    pub concurrent: Option<u32>,
    /// What the target must offer, by a word of [`crate::target::Target::offers`].
    pub needs: Vec<String>,
    /// What the target must not offer.
    pub lacks: Vec<String>,
    /// Labels of the namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// More namespaces: their names are the scenario's own with `-` and this.
    pub more_namespaces: Vec<String>,
    /// Variables of the project, besides the images.
    pub variables: BTreeMap<String, Variable>,
    /// Variables that are too many or too large to write down.
    pub generated: Option<Generated>,
    /// Requests of the pods that GitLab does not answer before the gate is open.
    pub hold: Vec<Hold>,
    /// Most seconds from the start of the pipeline to its end; 120 when not set.
    pub seconds: Option<u64>,
    /// What is done while it runs, one after another.
    pub steps: Vec<Step>,
    /// Status of the whole pipeline at the end.
    pub pipeline: String,
    /// What must come of each job.
    pub jobs: BTreeMap<String, Outcome>,
    /// Most requests to the Kubernetes API a job may cost (cluster only); 8 when not set.
    pub requests_per_job: Option<usize>,
    /// What the manager's own log must say.
    pub manager_log_has: Vec<String>,
}

/// A variable of the project.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Variable {
    /// Its value.
    pub value: String,
    /// Whether logs must not show it: then the play fails wherever it is seen.
    pub masked: bool,
    /// Whether it is a file.
    pub file: bool,
    /// Whether it is not expanded.
    pub raw: bool,
}

/// `count` variables `GENERATED_1`…, each of `bytes` bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generated {
    /// How many.
    pub count: usize,
    /// Size of each value.
    pub bytes: usize,
    /// Whether they are files: a process takes no more than 2 MiB of variables in its environment.
    #[serde(default)]
    pub file: bool,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Of git.
    Git,
    /// Uploads of artifacts.
    Artifacts,
}

/// Something done once something is seen.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What must be seen first.
    pub when: When,
    /// What is done then.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What a step waits for; all that is named must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The job that `trace` and `status` are about; the first one when not set.
    pub job: Option<String>,
    /// Its trace holds this.
    pub trace: Option<String>,
    /// Its status is this.
    pub status: Option<String>,
    /// A pod of the scenario is in this phase.
    pub pod: Option<String>,
    /// A container of a pod waits for this reason.
    pub waiting: Option<String>,
}

/// What can be done to a pipeline, its pods and its manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Cancels the pipeline in GitLab.
    Cancel,
    /// Lets the jobs pass that wait for `$GATE` to answer 200.
    OpenGate,
    /// `kubectl delete pod`.
    DeletePod,
    /// What a drain does: the eviction API.
    EvictPod,
    /// `kubectl delete secret` of the plan.
    DeletePlan,
    /// Removes the objects of objects.yaml.
    DeleteObjects,
    /// Kills the kubelet; it is back after 20 s.
    KillKubelet,
    /// Stops the API server; it is back after 30 s.
    StopApiServer,
    /// Takes GitLab away, for the manager and for pods; it is back after 20 s.
    StopGitlab,
    /// Kills the manager and starts another one with the same configuration.
    ReplaceManager,
    /// Puts the keys of changed.toml into the configuration, and waits until the manager has read them.
    ChangeConfiguration,
}

/// What must come of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outcome {
    /// Status at the end.
    pub status: String,
    /// GitLab's word for the failure.
    pub reason: Option<String>,
    /// Exit code told to GitLab.
    pub exit_code: Option<i32>,
    /// What its log holds, colours taken out.
    pub has: Vec<String>,
    /// What it does not hold.
    pub lacks: Vec<String>,
    /// Smallest size of the log in bytes.
    pub at_least_bytes: u64,
}

/// A scenario with its place.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Name of the folder: the behaviour.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// What it says.
    pub scenario: Scenario,
}

/// All scenarios below `directory`, by name.
///
/// # Errors
/// When one cannot be read, or says something nobody understands.
pub fn read_all(directory: &Path) -> Result<Vec<Folder>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("failed to list {}", directory.display()))? {
        let path = entry?.path();
        if path.join("scenario.yaml").exists() {
            folders.push(read(&path)?);
        } else if path.is_dir() {
            bail!("{} has no scenario.yaml", path.display());
        }
    }
    folders.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(folders)
}

fn read(path: &Path) -> Result<Folder> {
    let file = path.join("scenario.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let scenario: Scenario = serde_saphyr::from_str(&text).with_context(|| format!("{} is not a scenario", file.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = Folder { name, path: path.to_owned(), scenario };
    let wrong = |what: &str| Err(anyhow::anyhow!("{}: {what}", file.display()));
    if folder.scenario.about.is_empty() || folder.scenario.pipeline.is_empty() || folder.scenario.jobs.is_empty() {
        return wrong("about, pipeline and jobs must be said");
    }
    if folder.scenario.jobs.values().any(|outcome| outcome.status.is_empty()) {
        return wrong("each job needs a status");
    }
    if folder.scenario.skip.keys().any(|target| !["node", "cluster"].contains(&target.as_str())) {
        return wrong("skip names node or cluster");
    }
    if folder.name.len() > 40
        || !folder.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return wrong("the folder's name becomes a namespace: a-z, 0-9 and -, at most 40");
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_scenario_can_be_read_and_there_are_enough() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let folders = super::read_all(&directory).unwrap();
        assert!(folders.iter().all(|folder| folder.path.join(".gitlab-ci.yml").exists()));
        assert!(folders.len() >= 40, "{}", folders.len());
    }

    #[test]
    fn a_word_nobody_knows_is_refused() {
        let wrong = serde_saphyr::from_str::<super::Scenario>("about: x\nskipp: {}\n").unwrap_err();
        assert!(wrong.to_string().contains("skipp"), "{wrong}");
    }
}
