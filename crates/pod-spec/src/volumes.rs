//! Volumes: the shared agent directory, the plan, the builds.

use crate::{Context, pod_name};
use agent_contract::names;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};

/// Owner alone may read the plan.
const PLAN_MODE: i32 = 0o400;

/// All volumes of the pod.
pub fn all(context: &Context<'_>) -> Vec<Volume> {
    // The plan belongs to the job and not to the attempt: a pod made again reads the same one.
    let first = pod_name(context.job, context.runner, 1);
    let part = |index| VolumeProjection {
        secret: Some(SecretProjection { name: names::plan_secret(&first, index), ..SecretProjection::default() }),
        ..VolumeProjection::default()
    };
    let sources = (0..context.surroundings.plan_parts.max(1)).map(part).collect();
    let plan = ProjectedVolumeSource { default_mode: Some(PLAN_MODE), sources: Some(sources) };
    vec![
        empty(names::SHARED_VOLUME),
        empty(names::BUILDS_VOLUME),
        Volume { name: names::PLAN_VOLUME.to_owned(), projected: Some(plan), ..Volume::default() },
    ]
}

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// The builds directory, in every container.
pub fn builds(context: &Context<'_>) -> VolumeMount {
    let configured = context.variables.expand(&context.runner.builds_dir);
    mount(names::BUILDS_VOLUME, if configured.is_empty() { names::BUILDS_DIR } else { &configured })
}

/// Mounts of the helper: the only container that sees the plan.
pub fn of_helper(context: &Context<'_>) -> Vec<VolumeMount> {
    let plan = VolumeMount { read_only: Some(true), ..mount(names::PLAN_VOLUME, names::PLAN_DIR) };
    vec![mount(names::SHARED_VOLUME, names::SHARED_DIR), builds(context), plan]
}

/// Mounts of the build container.
pub fn of_build(context: &Context<'_>) -> Vec<VolumeMount> {
    vec![mount(names::SHARED_VOLUME, names::SHARED_DIR), builds(context)]
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}
