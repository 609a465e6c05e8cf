//! The pod's name: derived, so that a second create of the same job meets the first.

use job::Job;
use runner_config::Runner;

/// Longest name that can also be a label and a host name (RFC 1123).
const MAX: usize = 63;
/// Room for what is derived from the pod's name, such as the plan's parts.
const ROOM: usize = 8;

/// Name of the pod of a job; attempts after the first get a suffix.
pub fn pod_name(job: &Job, runner: &Runner, attempt: u32) -> String {
    let suffix = if attempt > 1 { format!("-{attempt}") } else { String::new() };
    let tail = format!("-project-{}-{}", job.project.id, job.id);
    let mut head: String = format!("runner-{}", label(runner.short_token()));
    // The suffix takes of the room that is kept, so that all attempts begin alike.
    head.truncate(MAX - ROOM - tail.len().min(MAX - ROOM));
    format!("{}{tail}{suffix}", head.trim_end_matches('-'))
}

/// Which attempt a pod is, when `first` is the name of the first; `None` when it is of another job.
pub fn attempt_of(pod: &str, first: &str) -> Option<u32> {
    match pod.strip_prefix(first)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse().ok().filter(|attempt| *attempt > 1),
    }
}

/// A text as part of a name: lower case letters, digits and inner dashes.
pub fn label(text: &str) -> String {
    let plain =
        text.chars().map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' });
    plain.collect::<String>().trim_matches('-').to_owned()
}
