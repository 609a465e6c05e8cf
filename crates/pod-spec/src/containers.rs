//! The helper and the build container.

use crate::{BuildError, Context, policies, security, volumes};
use agent_contract::names;
use job::{Image, Variables};
use k8s_openapi::api::core::v1::{Container, EnvVar};

/// What the build container does until the helper has put the agent there. `sleep` with a fraction is not POSIX, so a
/// shell without it waits a whole second.
fn wait_and_serve() -> String {
    let agent = names::SHARED_AGENT;
    format!("until [ -x {agent} ]; do sleep 0.02 2>/dev/null || sleep 1; done; exec {agent} serve")
}

/// How the build container becomes the agent: from a volume of its own where there is one, so that the image needs
/// nothing for it.
fn serve(context: &Context<'_>) -> Vec<String> {
    if context.surroundings.features.image_volumes {
        return vec![names::MOUNTED_AGENT.to_owned(), "serve".to_owned()];
    }
    vec!["sh".to_owned(), "-c".to_owned(), wait_and_serve()]
}

/// Command and arguments of the build container. An entry point that counts gets the agent as what it is to run, and has
/// to run it.
fn start(context: &Context<'_>, image: &Image) -> (Option<Vec<String>>, Option<Vec<String>>) {
    if !context.flags.is_on("FF_KUBERNETES_HONOR_ENTRYPOINT") {
        return (Some(serve(context)), None);
    }
    let entrypoint = (!image.entrypoint.is_empty()).then(|| image.entrypoint.clone());
    (entrypoint, Some(serve(context)))
}

/// The helper's image.
pub fn helper_image(context: &Context<'_>) -> String {
    let configured = &context.runner.kubernetes.helper_image;
    context.variables.expand(if configured.is_empty() { context.surroundings.helper_image } else { configured })
}

/// The container that drives the job.
pub fn helper(context: &Context<'_>) -> Result<Container, BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let of_job = Image { user: None, ..context.job.image.clone().unwrap_or_default() };
    Ok(Container {
        name: names::HELPER_CONTAINER.to_owned(),
        image: Some(helper_image(context)),
        command: Some(vec![names::HELPER_AGENT.to_owned(), "run".to_owned()]),
        image_pull_policy: policies::current(context, names::HELPER_CONTAINER, &of_job)?,
        resources: context.overwrites.helper.clone(),
        security_context: Some(security::of_container(context, &kubernetes.helper_container_security_context, None)?),
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
    let (command, args) = start(context, image);
    Ok(Container {
        name: names::BUILD_CONTAINER.to_owned(),
        image: Some(name),
        command,
        args,
        env: Some(public_env(&context.variables)),
        image_pull_policy: policies::current(context, names::BUILD_CONTAINER, image)?,
        resources: context.overwrites.build.clone(),
        security_context: Some(security::of_container(context, &kubernetes.build_container_security_context, Some(image))?),
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
