//! When images are pulled: a list, whose next entry is for the pod after one that could not pull.

use crate::{BuildError, Context};
use agent_contract::names;
use job::{Image, Job, PullPolicy};
use runner_config::{Kubernetes, Runner};

/// How many pull policies the job's containers have, at most: as many pods may fail to pull.
///
/// # Errors
/// When the job asks for a policy that it may not have.
pub fn pull_attempts(job: &Job, runner: &Runner) -> Result<usize, BuildError> {
    let build = job.image.iter().map(|image| (names::BUILD_CONTAINER.to_owned(), image));
    let services = job.services.iter().enumerate().map(|(index, service)| (names::service_container(index), &service.image));
    let mut most = runner.kubernetes.pull_policy.len();
    for (container, image) in build.chain(services) {
        most = most.max(effective(&container, image, &runner.kubernetes)?.len());
    }
    Ok(most.max(1))
}

/// What the log says of the policies (row "flow 13"); nothing of containers that leave it to the cluster.
pub fn pull_notes(job: &Job, runner: &Runner) -> Vec<String> {
    let default = Image::default();
    let helper = (names::HELPER_CONTAINER.to_owned(), job.image.as_ref().unwrap_or(&default));
    let build = (names::BUILD_CONTAINER.to_owned(), job.image.as_ref().unwrap_or(&default));
    let services = job.services.iter().enumerate().map(|(index, one)| (names::service_container(index), &one.image));
    let note = |(container, image): (String, &Image)| {
        let list = effective(&container, image, &runner.kubernetes).ok().filter(|list| !list.is_empty())?;
        let words = list.iter().map(|policy| policy.as_str()).collect::<Vec<_>>().join(" ");
        Some(format!("Using effective pull policy of [{words}] for container {container}"))
    };
    [build, helper].into_iter().chain(services).filter_map(note).collect()
}

/// The policy of a container in this attempt, in Kubernetes' words; `None` leaves it to the cluster.
pub fn current(context: &Context<'_>, container: &str, image: &Image) -> Result<Option<String>, BuildError> {
    let list = effective(container, image, &context.runner.kubernetes)?;
    let failures = context.surroundings.pull_failures as usize;
    let policy = list.get(failures.min(list.len().saturating_sub(1)));
    Ok(policy.map(|policy| {
        let word = match policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        };
        word.to_owned()
    }))
}

/// The policies of a job's image, else of the runner, as far as they are allowed.
fn effective(container: &str, image: &Image, kubernetes: &Kubernetes) -> Result<Vec<PullPolicy>, BuildError> {
    let parsed = |list: &[String]| list.iter().filter_map(|text| PullPolicy::parse(text)).collect::<Vec<_>>();
    let configured = parsed(&kubernetes.pull_policy);
    let allowed = parsed(&kubernetes.allowed_pull_policies);
    let (asked, by) =
        if image.pull_policy.is_empty() { (&configured, "runner") } else { (&image.pull_policy, "GitLab pipeline") };
    let allowed = if allowed.is_empty() { &configured } else { &allowed };
    let effective: Vec<_> = asked.iter().copied().filter(|policy| allowed.contains(policy)).collect();
    if effective.is_empty() && !asked.is_empty() {
        let words = |list: &[PullPolicy]| list.iter().map(|policy| policy.as_str()).collect::<Vec<_>>().join(" ");
        return Err(BuildError::PullPolicy { container: container.to_owned(), asked: words(asked), by, allowed: words(allowed) });
    }
    Ok(effective)
}
