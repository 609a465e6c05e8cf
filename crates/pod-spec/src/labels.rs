//! Labels and annotations: what the manager finds its pods by, and what people see.

use crate::{Context, pod_name};
use agent_contract::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Longest value of a label.
const MAX_VALUE: usize = 63;

/// Under which, and under whose parts, only the runner names things.
const RESERVED: &str = "runner.gitlab.com";

/// The pod's metadata. Our labels win over the configured ones, because we and others find pods by them; an annotation
/// of GitLab Runner's can be replaced (behaviour 24).
pub fn metadata(context: &Context<'_>) -> ObjectMeta {
    let job = context.job;
    let expand = |map: &BTreeMap<String, String>| -> BTreeMap<_, _> {
        map.iter().map(|(key, value)| (key.clone(), context.variables.expand(value))).collect()
    };
    let configured = expand(&context.overwrites.labels).into_iter().filter(|(key, _)| !is_reserved(key));
    let mut labels: BTreeMap<_, _> = configured.map(|(key, value)| (key, label_value(&value))).collect();
    let variable = |name: &str| context.variables.get(name).unwrap_or_default().to_owned();
    let name = pod_name(job, context.runner, context.surroundings.attempt);
    for (key, value) in [
        (names::MANAGED_BY, names::MANAGED_BY_VALUE.to_owned()),
        (names::LABEL_OWNER, context.surroundings.owner.to_owned()),
        (names::LABEL_JOB, job.id.to_string()),
        (names::LABEL_RUNNER, context.runner.short_token().to_owned()),
        (names::LABEL_PROJECT, job.project.id.to_string()),
        ("pod", name.clone()),
        ("job.runner.gitlab.com/pod", name.clone()),
        ("project.runner.gitlab.com/id", job.project.id.to_string()),
        ("project.runner.gitlab.com/name", job.project.name.clone()),
        ("project.runner.gitlab.com/namespace", variable("CI_PROJECT_NAMESPACE")),
        ("project.runner.gitlab.com/namespace-id", variable("CI_PROJECT_NAMESPACE_ID")),
        ("project.runner.gitlab.com/root-namespace", variable("CI_PROJECT_ROOT_NAMESPACE")),
        ("project.runner.gitlab.com/root-namespace-id", job.project.root_namespace_id.to_string()),
        ("manager.runner.gitlab.com/name", context.runner.name.clone()),
        ("manager.runner.gitlab.com/id-short", context.runner.short_token().to_owned()),
    ] {
        labels.insert(key.to_owned(), label_value(&value));
    }
    let mut annotations = BTreeMap::from(
        [
            ("job.runner.gitlab.com/id", job.id.to_string()),
            ("job.runner.gitlab.com/name", job.name.clone()),
            ("job.runner.gitlab.com/ref", job.git.reference.clone()),
            ("job.runner.gitlab.com/sha", job.git.sha.clone()),
            ("job.runner.gitlab.com/before_sha", job.git.before_sha.clone()),
            ("project.runner.gitlab.com/id", job.project.id.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    annotations.extend(expand(&context.overwrites.annotations));
    ObjectMeta { name: Some(name), labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or(key).to_ascii_lowercase();
    domain == RESERVED || domain.strip_suffix(RESERVED).is_some_and(|rest| rest.ends_with('.'))
}

/// A value that Kubernetes takes for a label: other characters become `_`, 63 of those between its ends are kept.
pub fn label_value(value: &str) -> String {
    let plain: String = value
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() || "-_.".contains(character) { character } else { '_' })
        .collect();
    let trimmed = |text: &str| text.trim_matches(|character: char| !character.is_ascii_alphanumeric()).to_owned();
    let plain = trimmed(&plain);
    trimmed(&plain[..plain.len().min(MAX_VALUE)])
}
