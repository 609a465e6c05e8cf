//! Notes on a job's plan: how far it has come, and the proof that it is still ours.
//!
//! A note is a patch that holds only while the plan has our label and the note that we left last. Who adopts a job
//! changes the first, another instance of this manager that was faster changes the second. So of two managers that both
//! believe they own a job one writes the note, and the other learns there that it does not: it tells GitLab nothing
//! more and deletes nothing. While the cluster cannot be asked, nobody knows: then the job waits.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::wiring::Manager;
use agent_contract::names;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};
use std::time::Duration;

/// The plan is there.
pub const STORED: &str = "stored";
/// The pod has been made. Behind the word stand attempt and failed pulls, once there are any.
const LAUNCHED: &str = "launched";
/// The same for a pod that is to be made after one that did not come up.
const AGAIN: &str = "again";
/// The manager writes the job's last line: behind the word stand where, and which instance.
const TELLING: &str = "telling";
const NOTING: Duration = Duration::from_secs(60);
/// After a refusal that is no answer, like a permission that was taken away.
const PAUSE: Duration = Duration::from_secs(15);
/// A note in flight at the stop may still succeed.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// The job is not ours any more, or the manager stops before it could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

/// What stands on the plan, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The step.
    pub text: String,
    /// Version of the Secret with it.
    pub version: Option<String>,
}

impl Note {
    /// What the first part of a plan says.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let text = metadata.annotations.as_ref().and_then(|all| all.get(names::ANNOTATION_STEP));
        Self { text: text.map_or(STORED, String::as_str).to_owned(), version: metadata.resource_version.clone() }
    }

    /// How far the job has come.
    pub fn step(&self) -> Step {
        let (word, numbers) = self.text.split_once('-').unwrap_or((&self.text, ""));
        let pair = || {
            let (attempt, failures) = numbers.split_once('-')?;
            Some((attempt.parse().ok()?, failures.parse().ok()?))
        };
        match (word, pair()) {
            (LAUNCHED, numbers) => numbers.map_or(Step::Launched(1, 0), |(attempt, failures)| Step::Launched(attempt, failures)),
            (AGAIN, Some((attempt, failures))) => Step::Again(attempt, failures),
            (TELLING, _) => {
                let offset = numbers.split('-').next().and_then(|offset| offset.parse().ok());
                offset.map_or(Step::Stored, Step::Telling)
            }
            _ => Step::Stored,
        }
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

/// Notes that the pod has been made: without a pod the job is over from here on.
pub async fn launched(manager: &Manager, job: &Tracked) -> Result<(), NotOurs> {
    let text = if job.attempt == 1 { LAUNCHED.to_owned() } else { numbered(LAUNCHED, job.attempt, job.pull_failures) };
    write(manager, job, text).await
}

/// Notes that another pod follows, before the one before is deleted.
pub async fn again(manager: &Manager, job: &Tracked, attempt: u32, pull_failures: u32) -> Result<(), NotOurs> {
    write(manager, job, numbered(AGAIN, attempt, pull_failures)).await
}

/// Notes where the job's last line goes, so that a crash cannot make two of it, and that it is we who tell.
pub async fn telling(manager: &Manager, job: &Tracked, offset: u64) -> Result<(), NotOurs> {
    write(manager, job, format!("{TELLING}-{offset}-{}", manager.instance)).await
}

fn numbered(word: &str, attempt: u32, pull_failures: u32) -> String {
    format!("{word}-{attempt}-{pull_failures}")
}

async fn write(manager: &Manager, job: &Tracked, next: String) -> Result<(), NotOurs> {
    if job.parts == 0 {
        return Ok(());
    }
    let stopped = async {
        manager.stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWER).await;
    };
    let written = tokio::select! {
        biased;
        written = Box::pin(attempt(manager, job, &next)) => written,
        () = stopped => return Err(NotOurs),
    };
    let Some(version) = written else {
        let message = "the job is with another manager, or over: nothing more is done for it here";
        tracing::warn!(job.id = job.id, pod.name = job.pod, step = next, "{message}");
        return Err(NotOurs);
    };
    job.set_note(Note { text: next, version });
    Ok(())
}

/// The Secret's new version; `None` when the job is not ours. Comes back only with one or the other.
async fn attempt(manager: &Manager, job: &Tracked, next: &str) -> Option<Option<String>> {
    let secrets: Api<Secret> = Api::namespaced(job.client(), job.namespace());
    let (name, parameters) = (names::plan_secret(&job.first, 0), PatchParams::default());
    let patch = patch(&manager.owner, Some(&job.note().text), &[("/metadata/annotations", names::ANNOTATION_STEP, next)]);
    loop {
        let tried = cluster::persist(NOTING, "note the job's step", || secrets.patch_metadata(&name, &parameters, &patch)).await;
        let error = match tried {
            Ok(secret) => return Some(secret.metadata.resource_version),
            Err(error) if error.is_missing() => return None,
            Err(error) if error.is_unmet() => match owner(&secrets, &name).await {
                Ok(None) => return None,
                Ok(Some((owner, note))) => {
                    // It may be our own, whose answer was lost.
                    return (owner == manager.owner && note.text == next).then_some(note.version);
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let error = cluster::chain(&error);
        tracing::warn!(job.id = job.id, pod.name = job.pod, error, "the job's step could not be noted yet; the job waits");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whose a plan is, and what stands on it; `None` when it is gone.
pub async fn owner(secrets: &Api<Secret>, name: &str) -> Result<Option<(String, Note)>, CallError> {
    let found = cluster::persist(NOTING, "see whose the plan is", || secrets.get_metadata_opt(name)).await?;
    Ok(found.map(|found: PartialObjectMeta<Secret>| {
        (label(&found.metadata, names::LABEL_OWNER).to_owned(), Note::of(&found.metadata))
    }))
}

/// A label's value, empty when there is none.
pub fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> &'a str {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

/// A patch that holds only for an object of this owner, with this note if it is a plan.
pub fn patch(owner: &str, note: Option<&str>, changes: &[(&str, &str, &str)]) -> Patch<()> {
    let path = |parent: &str, key: &str| format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"));
    let operation = |operation: &str, parent: &str, key: &str, value: &str| json!({"op": operation, "path": path(parent, key), "value": value});
    let mut operations = vec![operation("test", "/metadata/labels", names::LABEL_OWNER, owner)];
    operations.extend(note.map(|note| operation("test", "/metadata/annotations", names::ANNOTATION_STEP, note)));
    operations.extend(changes.iter().map(|(parent, key, value)| operation("add", parent, key, value)));
    // A list of operations is always a patch.
    Patch::Json(serde_json::from_value(Value::Array(operations)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Note, Step};

    #[test]
    fn each_note_tells_its_step_and_an_unknown_one_that_the_plan_is_there() {
        let step = |text: &str| Note { text: text.to_owned(), version: None }.step();
        assert_eq!(step("stored"), Step::Stored);
        assert_eq!(step("launched"), Step::Launched(1, 0));
        assert_eq!(step("launched-3-1"), Step::Launched(3, 1));
        assert_eq!(step("again-2-1"), Step::Again(2, 1));
        assert_eq!(step("telling-120"), Step::Telling(120));
        assert_eq!(step("telling-120-1a2b3c4d"), Step::Telling(120));
        for odd in ["", "again", "telling-x", "something-1-2"] {
            assert_eq!(step(odd), Step::Stored, "{odd}");
        }
    }
}
