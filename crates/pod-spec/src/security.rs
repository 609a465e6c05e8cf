//! Security contexts: GitLab Runner's keys in Kubernetes' fields.
//!
//! A container's own table counts before the keys of the whole runner, and both before what a job asks for. What is not
//! set is not sent, but for `NET_RAW`, which is taken away unless the configuration gives it (behaviour 26).

use crate::{BuildError, Context};
use agent_contract::names;
use job::{Image, Job};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use runner_config::{ContainerSecurityContext, Kubernetes, Profile, Runner};
use std::collections::BTreeMap;

const NOT_BY_DEFAULT: &str = "NET_RAW";

/// Of the whole pod; `None` when nothing is set.
pub fn of_pod(context: &Context<'_>) -> Option<PodSecurityContext> {
    let wanted = &context.runner.kubernetes.pod_security_context;
    let made = PodSecurityContext {
        fs_group: wanted.fs_group,
        run_as_group: wanted.run_as_group,
        run_as_non_root: wanted.run_as_non_root,
        run_as_user: wanted.run_as_user,
        supplemental_groups: (!wanted.supplemental_groups.is_empty()).then(|| wanted.supplemental_groups.clone()),
        se_linux_options: selinux(&wanted.selinux_type),
        seccomp_profile: seccomp(&wanted.seccomp_profile),
        app_armor_profile: app_armor(context, &wanted.app_armor_profile),
        ..PodSecurityContext::default()
    };
    (made != PodSecurityContext::default()).then_some(made)
}

/// Of one container; `image` is what a job says of it.
pub fn of_container(
    context: &Context<'_>,
    wanted: &ContainerSecurityContext,
    image: Option<&Image>,
) -> Result<SecurityContext, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let privileged = wanted.privileged.or(kubernetes.privileged.then_some(true));
    let (user, group) = match image.map(|image| asked(context.job, image)).transpose()?.flatten() {
        Some(asked) if refusal(kubernetes, wanted, asked).is_none() => (Some(asked.0), asked.1),
        _ => (None, None),
    };
    let proc_mount = match wanted.proc_mount.to_lowercase().as_str() {
        "default" => Some("Default".to_owned()),
        "unmasked" => Some("Unmasked".to_owned()),
        _ => None,
    };
    Ok(SecurityContext {
        allow_privilege_escalation: wanted.allow_privilege_escalation.or(kubernetes.allow_privilege_escalation),
        app_armor_profile: app_armor(context, &wanted.app_armor_profile),
        // A privileged container has all of them, and Kubernetes refuses some lists beside it.
        capabilities: if privileged == Some(true) { None } else { capabilities(kubernetes, wanted) },
        privileged,
        proc_mount,
        read_only_root_filesystem: wanted.read_only_root_filesystem,
        run_as_group: wanted.run_as_group.or(group),
        run_as_non_root: wanted.run_as_non_root,
        run_as_user: wanted.run_as_user.or(user),
        se_linux_options: selinux(&wanted.selinux_type),
        seccomp_profile: seccomp(&wanted.seccomp_profile),
        ..SecurityContext::default()
    })
}

/// What the job's log should say of users that a job asks for and does not get.
pub fn warnings(job: &Job, runner: &Runner) -> Vec<String> {
    let kubernetes = &runner.kubernetes;
    let build =
        job.image.iter().map(|image| (names::BUILD_CONTAINER.to_owned(), image, &kubernetes.build_container_security_context));
    let services = job.services.iter().enumerate().map(|(index, service)| {
        (names::service_container(index), &service.image, &kubernetes.service_container_security_context)
    });
    let of = |(container, image, wanted): (String, &Image, &ContainerSecurityContext)| {
        // A user that is no number makes no pod; that is told elsewhere.
        let asked = asked(job, image).ok().flatten()?;
        refusal(kubernetes, wanted, asked).map(|why| format!("the user of container {container} is not changed: {why}"))
    };
    build.chain(services).filter_map(of).collect()
}

/// `uid` or `uid:gid`, as the job has it.
fn asked(job: &Job, image: &Image) -> Result<Option<(i64, Option<i64>)>, BuildError> {
    let text = image.user.as_deref().map(|user| job.variables.expanded().expand(user)).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let number = |part: &str| part.parse::<i64>().ok().filter(|id| *id >= 0).ok_or_else(|| BuildError::User(text.clone()));
    let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
    Ok(Some((number(uid)?, gid.map(number).transpose()?)))
}

/// Why a job does not get the user it asks for.
fn refusal(kubernetes: &Kubernetes, wanted: &ContainerSecurityContext, asked: (i64, Option<i64>)) -> Option<String> {
    let of_pod = &kubernetes.pod_security_context;
    if wanted.run_as_user.or(of_pod.run_as_user).is_some() {
        return Some("the runner's configuration sets it".to_owned());
    }
    let among = |id: i64, list: &[String]| {
        let listed = list.iter().any(|one| one.trim() == id.to_string());
        // Root has to be listed by name.
        listed || (list.is_empty() && id != 0)
    };
    let (user, group) = asked;
    if !among(user, &kubernetes.allowed_users) {
        return Some(format!("{user} is not one of allowed_users"));
    }
    let group = group.filter(|group| !among(*group, &kubernetes.allowed_groups));
    group.map(|group| format!("{group} is not one of allowed_groups"))
}

/// Given wins over what is taken by default, and taken wins over given; a container's own list replaces the runner's.
fn capabilities(kubernetes: &Kubernetes, wanted: &ContainerSecurityContext) -> Option<Capabilities> {
    let mut merged = BTreeMap::from([(NOT_BY_DEFAULT.to_owned(), false)]);
    merged.extend(kubernetes.cap_add.iter().map(|name| (name.to_uppercase(), true)));
    merged.extend(kubernetes.cap_drop.iter().map(|name| (name.to_uppercase(), false)));
    let list = |own: &[String], given: bool| {
        let of_runner = merged.iter().filter(|(_, one)| **one == given).map(|(name, _)| name.clone());
        let list: Vec<_> = if own.is_empty() { of_runner.collect() } else { own.to_vec() };
        (!list.is_empty()).then_some(list)
    };
    let made = Capabilities { add: list(&wanted.capabilities.add, true), drop: list(&wanted.capabilities.drop, false) };
    (made != Capabilities::default()).then_some(made)
}

fn selinux(name: &str) -> Option<SELinuxOptions> {
    (!name.is_empty()).then(|| SELinuxOptions { type_: Some(name.to_owned()), ..SELinuxOptions::default() })
}

fn seccomp(profile: &Profile) -> Option<SeccompProfile> {
    let localhost_profile = (profile.r#type == "Localhost").then(|| profile.localhost_profile.clone());
    (!profile.r#type.is_empty()).then(|| SeccompProfile { type_: profile.r#type.clone(), localhost_profile })
}

fn app_armor(context: &Context<'_>, profile: &Profile) -> Option<AppArmorProfile> {
    let localhost_profile = (profile.r#type == "Localhost").then(|| profile.localhost_profile.clone());
    let sent = !profile.r#type.is_empty() && context.surroundings.features.app_armor_field();
    sent.then(|| AppArmorProfile { type_: profile.r#type.clone(), localhost_profile })
}
