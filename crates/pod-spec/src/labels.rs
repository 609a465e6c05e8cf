//! Labels and annotations: what the manager finds its pods by, and what people see.

use crate::{Context, pod_name};
use agent_contract::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Longest value of a label.
const MAX_VALUE: usize = 63;

/// The pod's metadata. Ours win over the configured ones, because the manager relies on them.
pub fn metadata(context: &Context<'_>) -> ObjectMeta {
    let (job, kubernetes) = (context.job, &context.runner.kubernetes);
    let expand = |map: &BTreeMap<String, String>| -> BTreeMap<_, _> {
        map.iter().map(|(key, value)| (key.clone(), context.variables.expand(value))).collect()
    };
    let mut labels: BTreeMap<_, _> =
        expand(&kubernetes.pod_labels).into_iter().map(|(key, value)| (key, label_value(&value))).collect();
    for (key, value) in [
        (names::MANAGED_BY, names::MANAGED_BY_VALUE.to_owned()),
        (names::LABEL_OWNER, context.surroundings.owner.to_owned()),
        (names::LABEL_JOB, job.id.to_string()),
        (names::LABEL_RUNNER, context.runner.short_token().to_owned()),
        (names::LABEL_PROJECT, job.project.id.to_string()),
    ] {
        labels.insert(key.to_owned(), label_value(&value));
    }
    let mut annotations = expand(&kubernetes.pod_annotations);
    for (key, value) in [
        ("job.runner.gitlab.com/name", &job.name),
        ("job.runner.gitlab.com/ref", &job.git.reference),
        ("job.runner.gitlab.com/sha", &job.git.sha),
    ] {
        annotations.insert(key.to_owned(), value.clone());
    }
    ObjectMeta {
        name: Some(pod_name(job, context.runner, context.surroundings.attempt)),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

/// A value that Kubernetes takes for a label: other characters become `_`, 63 of them are kept.
pub fn label_value(value: &str) -> String {
    let plain = value
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() || "-_.".contains(character) { character } else { '_' });
    let cut: String = plain.take(MAX_VALUE).collect();
    cut.trim_matches(|character: char| !character.is_ascii_alphanumeric()).to_owned()
}
