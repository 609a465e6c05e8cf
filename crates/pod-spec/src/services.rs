//! The job's services as containers of the pod, and the names they are reached by.
//!
//! All containers share one network, so every name stands for 127.0.0.1. A service has the aliases it asks for and
//! two names derived from its image (behaviour 27): `registry/group/db:1` is `registry__group__db` and
//! `registry-group-db`. A derived name that is no host name is left out; an alias that is none is an error.

use crate::containers::public_env;
use crate::{BuildError, Context, pod_name, policies, security, volumes};
use agent_contract::names;
use job::{Job, Service, Variable, Variables};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, HostAlias, SecretKeySelector};
use std::collections::BTreeMap;

/// One container per service.
pub fn containers(context: &Context<'_>) -> Result<Vec<Container>, BuildError> {
    context.job.services.iter().enumerate().map(|(index, service)| container(context, index, service)).collect()
}

fn container(context: &Context<'_>, index: usize, service: &Service) -> Result<Container, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let name = names::service_container(index);
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Ok(Container {
        name: name.clone(),
        image: Some(context.variables.expand(&service.image.name)),
        command: some(&service.image.entrypoint),
        args: some(&service.command),
        env: Some(environment(context, index, service)),
        image_pull_policy: policies::current(context, &name, &service.image)?,
        resources: context.overwrites.services.get(index).cloned().flatten(),
        security_context: Some(security::of_container(
            context,
            &kubernetes.service_container_security_context,
            Some(&service.image),
        )?),
        volume_mounts: Some(vec![volumes::builds(context)]),
        ..Container::default()
    })
}

/// A variable of a service that is not the job's, with its value expanded.
struct Own {
    variable: Variable,
    /// Something that is not public is in the value.
    is_hidden: bool,
}

/// Each once, at its place in the list.
fn own(job: &Job, service: &Service) -> Vec<Own> {
    let of_job = job.variables.expanded();
    let public: Variables = of_job.iter().filter(|one| is_public(one)).cloned().collect();
    let with_own = |list: &Variables| -> Variables { list.iter().chain(service.variables.iter()).cloned().collect() };
    let (all, public) = (with_own(&of_job), with_own(&public));
    let expanded = |one: &&Variable| {
        let value = if one.raw { one.value.clone() } else { all.expand(&one.value) };
        let is_hidden = !one.raw && value != public.expand(&one.value);
        let variable = Variable { public: true, raw: true, masked: false, file: false, value, key: one.key.clone() };
        Own { variable, is_hidden }
    };
    service.variables.effective().iter().map(expanded).collect()
}

fn is_public(variable: &Variable) -> bool {
    variable.public && !variable.masked && !variable.file
}

/// The job's public variables and its own ones. A password that comes of a masked variable must reach the service and
/// not stand in the pod: the plan Secret has it.
fn environment(context: &Context<'_>, index: usize, service: &Service) -> Vec<EnvVar> {
    let own = own(context.job, service);
    let public = context.variables.iter().filter(|one| is_public(one));
    let all: Variables = public.chain(own.iter().map(|one| &one.variable)).cloned().collect();
    let mut environment = public_env(&all);
    let secret = names::plan_secret(&pod_name(context.job, context.runner, 1), 0);
    for (place, one) in own.iter().enumerate().filter(|(_, one)| one.is_hidden) {
        let selector = SecretKeySelector {
            key: names::service_variable(index, place),
            name: secret.clone(),
            ..SecretKeySelector::default()
        };
        for slot in environment.iter_mut().filter(|slot| slot.name == one.variable.key) {
            slot.value = None;
            slot.value_from = Some(EnvVarSource { secret_key_ref: Some(selector.clone()), ..EnvVarSource::default() });
        }
    }
    environment
}

/// What the plan Secret must hold besides the plan: values of services' variables that may not stand in the pod.
pub fn hidden_variables(job: &Job) -> BTreeMap<String, String> {
    let of = |(index, service): (usize, &Service)| {
        let own = own(job, service).into_iter().enumerate().filter(|(_, one)| one.is_hidden);
        own.map(|(place, one)| (names::service_variable(index, place), one.variable.value)).collect::<Vec<_>>()
    };
    job.services.iter().enumerate().flat_map(of).collect()
}

/// The names of all services but those with ports, which GitLab Runner reaches through a proxy.
pub fn host_aliases(context: &Context<'_>) -> Result<Option<Vec<HostAlias>>, BuildError> {
    let mut hostnames = Vec::new();
    for service in context.job.services.iter().filter(|service| !service.has_ports) {
        for name in derived(&context.variables.expand(&service.image.name)).into_iter().filter(|name| is_host_name(name)) {
            hostnames.push(name);
        }
        for alias in service.aliases.iter().map(|alias| context.variables.expand(alias).to_ascii_lowercase()) {
            if !is_host_name(&alias) {
                return Err(BuildError::Alias(alias));
            }
            hostnames.push(alias);
        }
    }
    let mut seen = std::collections::HashSet::new();
    hostnames.retain(|name| seen.insert(name.clone()));
    Ok((!hostnames.is_empty()).then(|| vec![HostAlias { ip: "127.0.0.1".to_owned(), hostnames: Some(hostnames) }]))
}

/// Both spellings of an image's path, without tag and digest.
fn derived(image: &str) -> Vec<String> {
    let path = image.split('@').next().unwrap_or(image);
    let last_slash = path.rfind('/').map_or(0, |at| at + 1);
    let path = path[last_slash..].find(':').map_or(path, |at| &path[..last_slash + at]);
    // A registry's port is no part of a name.
    let path = path.split('/').map(|part| part.split(':').next().unwrap_or(part)).collect::<Vec<_>>();
    vec![path.join("__"), path.join("-")]
}

/// RFC 1123, as Kubernetes checks host aliases.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().last().is_some_and(inner)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
