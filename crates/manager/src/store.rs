//! Plan Secrets: what is stored before anything is promised.
//!
//! The first part is written last and read first: where it is, the plan is whole. A second try with the same content
//! finds the first one's work and goes on.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::wiring::Manager;
use agent_contract::{Plan, PlanError, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use std::collections::BTreeMap;
use std::time::Duration;

/// Value of the step annotation: the plan is there.
const STORED: &str = "stored";
/// Value of the step annotation: the pod has been made. Behind the word stand attempt and failed pulls, once there are any.
const LAUNCHED: &str = "launched";
/// The same for a pod that is to be made after one that did not come up.
const AGAIN: &str = "again";
/// Value of the step annotation, with a number behind it: the manager writes the job's last line at this offset.
const TELLING: &str = "telling-";
/// Longer than this a job is not kept waiting for its Secret: GitLab wants its confirmation.
const STORING: Duration = Duration::from_secs(10);
const MARKING: Duration = Duration::from_secs(60);
const DELETING: Duration = Duration::from_secs(600);

/// Why a plan was not stored.
pub enum StoreError {
    /// The cluster does not want it.
    Refused(String),
    /// A manager of another name has this job.
    OfAnother,
    /// No answer.
    Unreachable(String),
}

/// Labels of everything that belongs to a job.
pub fn labels(manager: &Manager, job: &Tracked, project: u64) -> BTreeMap<String, String> {
    [
        (names::MANAGED_BY, names::MANAGED_BY_VALUE.to_owned()),
        (names::LABEL_OWNER, manager.owner.clone()),
        (names::LABEL_JOB, job.id.to_string()),
        (names::LABEL_RUNNER, pod_spec::label_value(job.runner.config.short_token())),
        (names::LABEL_PROJECT, project.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Stores the parts of a plan.
pub async fn store(job: &Tracked, labels: BTreeMap<String, String>, parts: Vec<Vec<u8>>) -> Result<(), StoreError> {
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate().rev() {
        let mut data = BTreeMap::from([(names::plan_key(index), ByteString(part))]);
        if index == 0 {
            data.insert(names::PLAN_COUNT_KEY.to_owned(), ByteString(count.to_string().into_bytes()));
        }
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(names::plan_secret(&job.first, index)),
                labels: Some(labels.clone()),
                annotations: Some(BTreeMap::from([(names::ANNOTATION_STEP.to_owned(), STORED.to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            // A kubelet need not watch what cannot change.
            immutable: Some(true),
            ..Secret::default()
        };
        put(job, &secret).await?;
    }
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "plan stored");
    Ok(())
}

async fn put(job: &Tracked, secret: &Secret) -> Result<(), StoreError> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let create = async || {
        let parameters = PostParams::default();
        cluster::persist(STORING, "store the plan", || secrets.create(&parameters, secret)).await
    };
    let Err(error) = create().await else { return Ok(()) };
    if !error.is_taken() {
        return Err(StoreError::of(&error));
    }
    let found = match cluster::persist(STORING, "read the plan", || secrets.get_opt(name)).await {
        Ok(found) => found,
        Err(error) => return Err(StoreError::of(&error)),
    };
    if let Some(found) = found {
        let label = |secret: &Secret, key: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned());
        let same = |key| label(&found, key) == label(secret, key);
        if !same(names::LABEL_OWNER) || !same(names::LABEL_JOB) {
            return Err(StoreError::OfAnother);
        }
        if found.data == secret.data {
            return Ok(());
        }
        // The job was handed out to us before, with another token.
        remove(&secrets, name).await.map_err(|error| StoreError::of(&error))?;
    }
    create().await.map(drop).map_err(|error| StoreError::of(&error))
}

impl StoreError {
    /// What a call that failed means for the job.
    pub fn of(error: &CallError) -> Self {
        if error.is_short_lived() {
            Self::Unreachable(cluster::chain(error))
        } else {
            Self::Refused(format!("the plan of the job could not be stored: {error}"))
        }
    }
}

/// Notes that the pod has been made: without a pod the job is over from here on.
pub async fn mark_launched(job: &Tracked) {
    mark(job, &numbered(LAUNCHED, job.attempt, job.pull_failures)).await;
}

/// Notes that another pod follows, before the one before is deleted.
pub async fn mark_again(job: &Tracked, attempt: u32, pull_failures: u32) {
    mark(job, &numbered(AGAIN, attempt, pull_failures)).await;
}

fn numbered(word: &str, attempt: u32, pull_failures: u32) -> String {
    if word == LAUNCHED && attempt == 1 { word.to_owned() } else { format!("{word}-{attempt}-{pull_failures}") }
}

/// Notes where the job's last line goes, so that a crash cannot make two of it.
pub async fn mark_telling(job: &Tracked, offset: u64) {
    if job.parts > 0 {
        mark(job, &format!("{TELLING}{offset}")).await;
    }
}

async fn mark(job: &Tracked, step: &str) {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let (name, parameters) = (names::plan_secret(&job.first, 0), PatchParams::default());
    let step = serde_json::json!({"metadata": {"annotations": {names::ANNOTATION_STEP: step}}});
    let patch = Patch::Merge(&step);
    let marked = cluster::persist(MARKING, "note the job's step", || secrets.patch_metadata(&name, &parameters, &patch)).await;
    if let Err(error) = marked {
        let error = cluster::chain(&error);
        tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the job's step could not be noted");
    }
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The plan is there.
    Stored,
    /// A pod was made: which attempt, and how many before it could not pull.
    Launched(u32, u32),
    /// Another pod is to be made.
    Again(u32, u32),
    /// The job's last line goes to this offset.
    Telling(u64),
}

/// The step that a plan's first part tells.
pub fn step(secret: &Secret) -> Step {
    let annotations = secret.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(names::ANNOTATION_STEP)).map_or(STORED, String::as_str);
    let (word, numbers) = text.split_once('-').unwrap_or((text, ""));
    let pair = || {
        let (attempt, failures) = numbers.split_once('-')?;
        Some((attempt.parse().ok()?, failures.parse().ok()?))
    };
    match (word, pair()) {
        (LAUNCHED, numbers) => numbers.map_or(Step::Launched(1, 0), |(attempt, failures)| Step::Launched(attempt, failures)),
        (AGAIN, Some((attempt, failures))) => Step::Again(attempt, failures),
        ("telling", None) => numbers.parse().map_or(Step::Stored, Step::Telling),
        _ => Step::Stored,
    }
}

/// Deletes the plan; a job without one is over.
pub async fn delete(job: &Tracked) {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    for index in 0..job.parts {
        if let Err(error) = remove(&secrets, &names::plan_secret(&job.first, index)).await {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the plan is left for the next start to delete");
        }
    }
}

/// Deletes one Secret; one that is gone is as good.
pub async fn remove(secrets: &Api<Secret>, name: &str) -> Result<(), CallError> {
    let parameters = DeleteParams::default();
    match cluster::persist(DELETING, "delete the plan", || secrets.delete(name, &parameters)).await {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// How many parts a plan has by its first one; `None` when this is not a first part.
pub fn count(secret: &Secret) -> Option<usize> {
    let text = secret.data.as_ref()?.get(names::PLAN_COUNT_KEY)?;
    std::str::from_utf8(&text.0).ok()?.trim().parse().ok()
}

/// Puts a plan together from all Secrets of a namespace by name.
pub fn read(pod: &str, count: usize, secrets: &BTreeMap<String, Secret>) -> Result<Plan, PlanError> {
    let part = |index| {
        let data = secrets.get(&names::plan_secret(pod, index)).and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get(&names::plan_key(index))).map(|bytes| bytes.0.as_slice())
    };
    // A part that is missing makes the whole unreadable, which the unpacking finds.
    Plan::from_parts(&(0..count).map_while(part).collect::<Vec<_>>())
}

/// Reads the plan of a job back from the cluster.
pub async fn fetch(job: &Tracked) -> Result<Plan, String> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let mut found = BTreeMap::new();
    for index in 0..job.parts {
        let name = names::plan_secret(&job.first, index);
        let secret = cluster::persist(MARKING, "read the plan", || secrets.get(&name)).await;
        found.insert(name, secret.map_err(|error| cluster::chain(&error))?);
    }
    read(&job.first, job.parts, &found).map_err(|error| cluster::chain(&error))
}
