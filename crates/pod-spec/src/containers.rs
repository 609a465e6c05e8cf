//! The helper and the build container.

use crate::resources::{self, Amounts};
use crate::{BuildError, Context, volumes};
use agent_contract::names;
use job::{Image, PullPolicy, Variables};
use k8s_openapi::api::core::v1::{Capabilities, Container, EnvVar, LocalObjectReference, SecurityContext};

/// What the build container does until the helper has put the agent there. `sleep` with a fraction is not POSIX, so a
/// shell without it waits a whole second.
fn wait_and_serve() -> String {
    let agent = names::SHARED_AGENT;
    format!("until [ -x {agent} ]; do sleep 0.02 2>/dev/null || sleep 1; done; exec {agent} serve")
}

/// The container that drives the job.
pub fn helper(context: &Context<'_>) -> Result<Container, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let image = if kubernetes.helper_image.is_empty() { context.surroundings.helper_image } else { &kubernetes.helper_image };
    let amounts = Amounts {
        prefix: "helper_",
        cpu: (&kubernetes.helper_cpu_request, &kubernetes.helper_cpu_limit),
        memory: (&kubernetes.helper_memory_request, &kubernetes.helper_memory_limit),
    };
    Ok(Container {
        name: names::HELPER_CONTAINER.to_owned(),
        image: Some(context.variables.expand(image)),
        command: Some(vec![names::HELPER_AGENT.to_owned(), "run".to_owned()]),
        image_pull_policy: pull_policy(&[], &kubernetes.pull_policy),
        resources: resources::requirements(&amounts)?,
        security_context: Some(security(false, None)?),
        volume_mounts: Some(volumes::of_helper(context)),
        ..Container::default()
    })
}

/// The container of the job's scripts.
pub fn build(context: &Context<'_>) -> Result<Container, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let default = Image { name: kubernetes.image.clone(), ..Image::default() };
    let image = context.job.image.as_ref().unwrap_or(&default);
    let name = context.variables.expand(&image.name);
    if name.is_empty() {
        return Err(BuildError::NoImage);
    }
    let amounts = Amounts {
        prefix: "",
        cpu: (&kubernetes.cpu_request, &kubernetes.cpu_limit),
        memory: (&kubernetes.memory_request, &kubernetes.memory_limit),
    };
    Ok(Container {
        name: names::BUILD_CONTAINER.to_owned(),
        image: Some(name),
        command: Some(vec!["sh".to_owned(), "-c".to_owned(), wait_and_serve()]),
        env: Some(public_env(&context.variables)),
        image_pull_policy: pull_policy(&image.pull_policy, &kubernetes.pull_policy),
        resources: resources::requirements(&amounts)?,
        security_context: Some(security(
            kubernetes.privileged,
            image.user.as_deref().map(|user| context.variables.expand(user)),
        )?),
        volume_mounts: Some(volumes::of_build(context)),
        ..Container::default()
    })
}

/// Public variables as environment. `$` is doubled, because Kubernetes expands `$(NAME)` and a job's values must
/// arrive as they are.
pub fn public_env(variables: &Variables) -> Vec<EnvVar> {
    let public = variables.effective().into_iter().filter(|one| one.public && !one.masked && !one.file && !one.key.is_empty());
    public.map(|one| EnvVar { name: one.key.clone(), value: Some(one.value.replace('$', "$$")), value_from: None }).collect()
}

/// The first policy of the job, else of the runner, in Kubernetes' words; `None` leaves it to the cluster.
pub fn pull_policy(of_job: &[PullPolicy], of_runner: &[String]) -> Option<String> {
    let first = of_job.first().copied().or_else(|| of_runner.first().and_then(|text| PullPolicy::parse(text)))?;
    let word = match first {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    Some(word.to_owned())
}

/// GitLab Runner's default drops NET_RAW (behaviour 26); a job's user is `uid` or `uid:gid`.
pub fn security(privileged: bool, user: Option<String>) -> Result<SecurityContext, BuildError> {
    let (mut run_as_user, mut run_as_group) = (None, None);
    if let Some(text) = user.filter(|text| !text.is_empty()) {
        let number = |part: &str| part.parse::<i64>().ok().filter(|id| *id >= 0).ok_or_else(|| BuildError::User(text.clone()));
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        run_as_user = Some(number(uid)?);
        run_as_group = gid.map(number).transpose()?;
    }
    let capabilities = Capabilities { add: None, drop: Some(vec!["NET_RAW".to_owned()]) };
    Ok(SecurityContext {
        privileged: privileged.then_some(true),
        capabilities: (!privileged).then_some(capabilities),
        run_as_user,
        run_as_group,
        ..SecurityContext::default()
    })
}

/// Secrets of the configuration with registry logins.
pub fn pull_secrets(context: &Context<'_>) -> Option<Vec<LocalObjectReference>> {
    let names = &context.runner.kubernetes.image_pull_secrets;
    (!names.is_empty()).then(|| names.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
}
