//! Plan Secrets: what is stored before anything is promised.
//!
//! The first part is written last and read first: where it is, the plan is whole. A second try with the same content
//! finds the first one's work and goes on.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::note::{self, NotOurs, Note};
use crate::wiring::Manager;
use agent_contract::{Plan, PlanError, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than this a job is not kept waiting for its Secret: GitLab wants its confirmation.
const STORING: Duration = Duration::from_secs(10);
const READING: Duration = Duration::from_secs(60);
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

/// What goes into the Secrets of a job.
pub struct Content {
    /// The plan.
    pub parts: Vec<Vec<u8>>,
    /// Values that the pod refers to, by key, and its logins for image registries.
    pub values: BTreeMap<String, String>,
}

/// Stores the plan of a job.
pub async fn store(job: &Tracked, labels: BTreeMap<String, String>, content: Content) -> Result<(), StoreError> {
    let Content { parts, mut values } = content;
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate().rev() {
        let mut data = BTreeMap::from([(names::plan_key(index), ByteString(part))]);
        if index == 0 {
            data.insert(names::PLAN_COUNT_KEY.to_owned(), ByteString(count.to_string().into_bytes()));
            data.extend(std::mem::take(&mut values).into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        }
        // A kubelet takes logins from a Secret of their type only.
        let type_ = data.contains_key(pod_spec::SECRET_KEY).then(|| pod_spec::SECRET_TYPE.to_owned());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(names::plan_secret(&job.first, index)),
                labels: Some(labels.clone()),
                annotations: Some(BTreeMap::from([(names::ANNOTATION_STEP.to_owned(), note::STORED.to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_,
            // A kubelet need not watch what cannot change.
            immutable: Some(true),
            ..Secret::default()
        };
        let version = put(job, &secret).await?;
        if index == 0 {
            job.set_note(Note { text: note::STORED.to_owned(), version });
        }
    }
    tracing::info!(job.id = job.id, pod.name = job.pod, runner.name = job.runner.config.name, "plan stored");
    Ok(())
}

/// Answers the version of what is there then.
async fn put(job: &Tracked, secret: &Secret) -> Result<Option<String>, StoreError> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let create = async || {
        let parameters = PostParams::default();
        cluster::persist(STORING, "store the plan", || secrets.create(&parameters, secret)).await
    };
    let error = match create().await {
        Ok(made) => return Ok(made.metadata.resource_version),
        Err(error) if error.is_taken() => error,
        Err(error) => return Err(StoreError::of(&error)),
    };
    tracing::debug!(job.id = job.id, secret = name, %error, "a plan of this name is there");
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
            return Ok(found.metadata.resource_version);
        }
        // The job was handed out to us before, with another token.
        supersede(&secrets, &found).await.map_err(|error| StoreError::of(&error))?;
    }
    create().await.map(|made| made.metadata.resource_version).map_err(|error| StoreError::of(&error))
}

/// Deletes the plan that was found and no other of its name: a call that is given up may still arrive, when the plan that
/// takes its place is there.
async fn supersede(secrets: &Api<Secret>, found: &Secret) -> Result<(), CallError> {
    let name = found.metadata.name.as_deref().unwrap_or_default();
    let preconditions = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match cluster::persist(STORING, "delete the plan", || secrets.delete(name, &parameters)).await {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
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

/// Takes away what is there of a plan that never became whole: from then on nothing of the job is in the cluster.
pub async fn forget(job: &mut Tracked) {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    for index in 1..job.parts {
        if let Err(error) = remove(&secrets, &names::plan_secret(&job.first, index)).await {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, error, "a part of a plan is left for the next look to delete");
        }
    }
    (job.parts, job.pod) = (0, String::new());
}

/// Deletes the plan if it is still ours; a job without one is over.
pub async fn delete(manager: &Manager, job: &Tracked) -> Result<(), NotOurs> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    for index in 0..job.parts {
        let name = names::plan_secret(&job.first, index);
        // Without the first part the others are nobody's.
        let removed = if index == 0 { remove_ours(manager, job, &secrets, &name).await? } else { remove(&secrets, &name).await };
        if let Err(error) = removed {
            let error = cluster::chain(&error);
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the plan is left for the next look to delete");
        }
    }
    Ok(())
}

/// Deletes the first part in the version that we know; another one may be another manager's.
async fn remove_ours(
    manager: &Manager,
    job: &Tracked,
    secrets: &Api<Secret>,
    name: &str,
) -> Result<Result<(), CallError>, NotOurs> {
    loop {
        let preconditions = Preconditions { resource_version: job.note().version, uid: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleting = || secrets.delete(name, &parameters);
        let error = match cluster::persist_unless(DELETING, "delete the plan", deleting, CallError::is_outdated).await {
            Ok(_) => return Ok(Ok(())),
            Err(error) if error.is_missing() => return Ok(Ok(())),
            Err(error) if error.is_outdated() => match note::owner(secrets, name).await {
                Ok(None) => return Ok(Ok(())),
                // Somebody has put a mark on it that means nothing to us, or an answer of ours was lost.
                Ok(Some((owner, note))) if owner == manager.owner && note.step() == job.note().step() => {
                    job.set_note(note);
                    continue;
                }
                Ok(Some(_)) => {
                    tracing::info!(
                        job.id = job.id,
                        pod.name = job.pod,
                        "the job is with another manager: its plan is left alone"
                    );
                    return Err(NotOurs);
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        return Ok(Err(error));
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

/// Why a plan cannot be read back.
pub enum FetchError {
    /// It is another manager's now.
    NotOurs,
    /// No answer, or nothing that is a plan.
    Unreadable(String),
}

/// Reads the plan of a job back from the cluster.
pub async fn fetch(manager: &Manager, job: &Tracked) -> Result<Plan, FetchError> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let mut found = BTreeMap::new();
    for index in 0..job.parts {
        let name = names::plan_secret(&job.first, index);
        let secret = cluster::persist(READING, "read the plan", || secrets.get(&name)).await;
        let secret = secret.map_err(|error| FetchError::Unreadable(cluster::chain(&error)))?;
        if note::label(&secret.metadata, names::LABEL_OWNER) != manager.owner {
            return Err(FetchError::NotOurs);
        }
        found.insert(name, secret);
    }
    read(&job.first, job.parts, &found).map_err(|error| FetchError::Unreadable(cluster::chain(&error)))
}
