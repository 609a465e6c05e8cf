//! Where a job's pod goes: the runner's namespace, or the one a job asks for and may have.

use crate::BuildError;
use job::Job;
use regex::Regex;
use runner_config::Runner;

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
    let asked = variables.get(OVERWRITE).unwrap_or_default();
    // Without a pattern the variable has no effect, as in GitLab Runner.
    let namespace = if asked.is_empty() || kubernetes.namespace_overwrite_allowed.is_empty() {
        configured
    } else {
        let allowed = &kubernetes.namespace_overwrite_allowed;
        if !Regex::new(allowed).is_ok_and(|pattern| pattern.is_match(asked)) {
            return Err(BuildError::Overwrite { asked: asked.to_owned(), allowed: allowed.clone() });
        }
        asked.to_owned()
    };
    if !is_label(&namespace) {
        return Err(BuildError::Namespace(namespace));
    }
    Ok(namespace)
}

/// RFC 1123: the name becomes part of a path, so nothing else may reach it.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}
