//! Volumes: the shared agent directory, the plan, the builds.

use crate::{Context, containers, pod_name};
use agent_contract::names;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ImageVolumeSource, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};

/// The helper alone sees the plan, as whatever user it runs.
const PLAN_MODE: i32 = 0o444;

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
    let mut volumes = vec![
        empty(names::SHARED_VOLUME),
        empty(names::BUILDS_VOLUME),
        Volume { name: names::PLAN_VOLUME.to_owned(), projected: Some(plan), ..Volume::default() },
    ];
    if has_no_place_for_files(context) {
        volumes.push(empty(names::TEMPORARY_VOLUME));
    }
    if context.surroundings.features.image_volumes {
        let image = ImageVolumeSource { pull_policy: None, reference: Some(containers::helper_image(context)) };
        volumes.push(Volume { name: names::AGENT_VOLUME.to_owned(), image: Some(image), ..Volume::default() });
    }
    volumes
}

/// The agent keeps what it sends and receives in temporary files, and its root cannot be written to.
fn has_no_place_for_files(context: &Context<'_>) -> bool {
    context.runner.kubernetes.helper_container_security_context.read_only_root_filesystem == Some(true)
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
    let mut mounts = vec![mount(names::SHARED_VOLUME, names::SHARED_DIR), builds(context), plan];
    if has_no_place_for_files(context) {
        mounts.push(mount(names::TEMPORARY_VOLUME, names::TEMPORARY_DIR));
    }
    mounts
}

/// Mounts of the build container.
pub fn of_build(context: &Context<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![mount(names::SHARED_VOLUME, names::SHARED_DIR), builds(context)];
    if context.surroundings.features.image_volumes {
        mounts.push(VolumeMount { read_only: Some(true), ..mount(names::AGENT_VOLUME, names::AGENT_DIR) });
    }
    mounts
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}
