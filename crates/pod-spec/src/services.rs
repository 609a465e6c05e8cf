//! The job's services as containers of the pod, and the names they are reached by.
//!
//! All containers share one network, so every name stands for 127.0.0.1. A service has the aliases it asks for and
//! two names derived from its image (behaviour 27): `registry/group/db:1` is `registry__group__db` and
//! `registry-group-db`. A derived name that is no host name is left out; an alias that is none is an error.

use crate::containers::public_env;
use crate::{BuildError, Context, policies, security, volumes};
use agent_contract::names;
use job::Service;
use k8s_openapi::api::core::v1::{Container, HostAlias};

/// One container per service.
pub fn containers(context: &Context<'_>) -> Result<Vec<Container>, BuildError> {
    context.job.services.iter().enumerate().map(|(index, service)| container(context, index, service)).collect()
}

fn container(context: &Context<'_>, index: usize, service: &Service) -> Result<Container, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    // Its own variables may use the job's public ones.
    let mut variables: job::Variables =
        context.variables.iter().filter(|one| one.public && !one.masked && !one.file).cloned().collect();
    variables.extend(service.variables.iter().cloned().map(|own| job::Variable {
        public: true,
        masked: false,
        file: false,
        ..own
    }));
    let name = names::service_container(index);
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Ok(Container {
        name: name.clone(),
        image: Some(context.variables.expand(&service.image.name)),
        command: some(&service.image.entrypoint),
        args: some(&service.command),
        env: Some(public_env(&variables.expanded())),
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

/// The names of all services.
pub fn host_aliases(context: &Context<'_>) -> Result<Option<Vec<HostAlias>>, BuildError> {
    let mut hostnames = Vec::new();
    for service in &context.job.services {
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
