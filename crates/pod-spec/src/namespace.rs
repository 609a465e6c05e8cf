//! Where a job's pod goes: the runner's namespace, or the one a job asks for and may have.

use crate::{BuildError, overwrites};
use job::{Job, Variables};
use runner_config::{Kubernetes, Runner};

/// What a job sets to choose its namespace.
const OVERWRITE: &str = "KUBERNETES_NAMESPACE_OVERWRITE";

/// The namespace of a job.
///
/// # Errors
/// When the job asks for one that it may not have.
pub fn namespace(job: &Job, runner: &Runner) -> Result<String, BuildError> {
    let kubernetes = &runner.kubernetes;
    let variables = job.variables.expanded();
    let configured = variables.expand(kubernetes.namespace());
    let configured = if configured.is_empty() { runner_config::Kubernetes::default().namespace().to_owned() } else { configured };
    let namespace = asked(kubernetes, &variables)?.map_or(configured, str::to_owned);
    if !is_label(&namespace) {
        return Err(BuildError::Namespace(namespace));
    }
    Ok(namespace)
}

/// What a job asks for and may have; without a pattern the variable has no effect, as in GitLab Runner.
pub fn asked<'a>(kubernetes: &Kubernetes, variables: &'a Variables) -> Result<Option<&'a str>, BuildError> {
    let (asked, allowed) = (variables.get(OVERWRITE).unwrap_or_default(), &kubernetes.namespace_overwrite_allowed);
    if asked.is_empty() || allowed.is_empty() {
        return Ok(None);
    }
    overwrites::check(asked, allowed)?;
    Ok(Some(asked))
}

/// RFC 1123: the name becomes part of a path, so nothing else may reach it.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}
