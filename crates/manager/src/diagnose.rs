//! Why a pod did not do its job: one value of [`FailureReason`] and a sentence, from the pod's state alone.
//!
//! Pure, so that every state is a test case. The classes are GitLab Runner's (behaviours 12 and 13 and the failure
//! rows of the job log): messages about the network are looked for before those about access, because a registry that
//! cannot be reached also "refuses" access. The sentence says what happened and, where there is one, the cure.

use agent_contract::{Verdict, names};
use job::FailureReason;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What a pod's state says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing is wrong so far.
    GoesOn,
    /// The agent ended and told GitLab itself.
    Reported,
    /// The agent ended with a verdict that GitLab did not accept yet.
    Unreported(Verdict),
    /// It will not become anything any more.
    Failed(Diagnosis),
}

/// A failure, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// For GitLab.
    pub reason: FailureReason,
    /// For people.
    pub sentence: String,
    /// Whether a script may have run: such a job is never started again by itself.
    pub script_may_have_run: bool,
    /// What may help a job of which no script has run.
    pub cure: Option<Cure>,
}

/// What another pod has to do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Pull its images by the next policy.
    NextPolicy,
    /// Nothing: the cluster took the first one away.
    AnotherPod,
    /// Do without a volume that is an image, if it had one.
    NoImageVolume,
}

/// What GitLab Runner points to.
const ABOUT_PREPARING: &str = "https://docs.gitlab.com/runner/shells/#shell-profile-loading";

const NETWORK: [&str; 9] = [
    "dial tcp",
    "connection refused",
    "no such host",
    // The embedded node's resolver, for a name that nobody knows.
    "dns error",
    "i/o timeout",
    "tls handshake",
    "client.timeout exceeded",
    "request canceled",
    "connection reset",
];
const CONFIGURATION: [&str; 8] = [
    "not found",
    "manifest unknown",
    "pull access denied",
    "access to the resource is denied",
    "no basic auth credentials",
    "repository does not exist or may require",
    "unauthorized",
    "authentication required",
];

/// Reads the state of a pod; `deleted` says that it is gone or being deleted by somebody else.
pub fn diagnose(pod: &Pod, deleted: bool) -> Finding {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let containers: Vec<_> = status.init_container_statuses.iter().chain(&status.container_statuses).flatten().collect();
    let helper = containers.iter().find(|one| one.name == names::HELPER_CONTAINER);
    if let Some(verdict) = helper.and_then(|helper| verdict(helper)) {
        return if verdict.reported { Finding::Reported } else { Finding::Unreported(verdict) };
    }
    // Of a pod that nobody has seen everything has to be feared.
    let started = pod.status.is_none() || script_may_have_run(pod);
    let cured = |cure, reason, sentence| Finding::Failed(Diagnosis { reason, sentence, script_may_have_run: started, cure });
    let fail = |reason, sentence: String| cured(None, reason, sentence);
    if let Some((reason, sentence)) = of_pod(status) {
        let cure = (reason == FailureReason::RunnerSystemFailure).then_some(Cure::AnotherPod);
        return cured(cure, reason, sentence);
    }
    if let Some((reason, sentence)) = containers.iter().find_map(|one| out_of_memory(one)) {
        // An agent that runs sees this for itself, and it knows what ran.
        if deleted || helper.is_none_or(|helper| state(helper).running.is_none()) {
            return fail(reason, sentence);
        }
    }
    if deleted {
        let disruption = disruption(status);
        let cure = disruption.is_some().then_some(Cure::AnotherPod);
        return cured(cure, FailureReason::RunnerSystemFailure, deletion(&pod.metadata, started, disruption));
    }
    if let Some((cure, reason, sentence)) = containers.iter().find_map(|one| terminated(one)) {
        return cured(cure, reason, sentence);
    }
    if has_ended(pod) {
        let words = [status.reason.as_deref(), status.message.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let why = if words.is_empty() { "no reason is given".to_owned() } else { words };
        // A node that refuses a pod at its door gives its own reason: OutOfcpu, NodeAffinity, …
        let cure = (containers.is_empty() && status.reason.is_some()).then_some(Cure::AnotherPod);
        let (name, phase) = (pod.metadata.name.as_deref().unwrap_or_default(), status.phase.as_deref().unwrap_or_default());
        let sentence = format!("pod \"{name}\" status is \"{phase}\": it ended before its agent could report: {why}");
        return cured(cure, FailureReason::RunnerSystemFailure, sentence);
    }
    if let Some((cure, reason, sentence)) = containers.iter().find_map(|one| waiting(one)) {
        return cured(cure, reason, sentence);
    }
    Finding::GoesOn
}

/// Whether the build container was started, whatever became of it: no script runs anywhere else, and the agent is silent
/// until then.
pub fn script_may_have_run(pod: &Pod) -> bool {
    of_container(pod, names::BUILD_CONTAINER).is_some_and(has_started)
}

/// Whether no agent will be heard of any more: it ended, or the pod never had a node.
pub fn agent_is_over(pod: &Pod) -> bool {
    let ended = of_container(pod, names::HELPER_CONTAINER).is_some_and(|helper| state(helper).terminated.is_some());
    ended || pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none())
}

/// Whether all containers of a pod have ended for good.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether both containers that make a job have started.
pub fn is_up(pod: &Pod) -> bool {
    [names::HELPER_CONTAINER, names::BUILD_CONTAINER].iter().all(|name| of_container(pod, name).is_some_and(has_started))
}

/// What the pod's conditions complain of, as reason and message.
pub fn conditions(pod: &Pod) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for condition in pod.status.iter().flat_map(|status| status.conditions.iter().flatten()) {
        if let ("False", Some(reason), Some(message)) = (condition.status.as_str(), &condition.reason, &condition.message)
            && !list.iter().any(|(known, _)| known == reason)
        {
            list.push((reason.clone(), message.clone()));
        }
    }
    list
}

/// The node that a pod was given to and whose kubelet has not said a word of it.
pub fn silent_node(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let is_silent = status.start_time.is_none() && status.container_statuses.is_none();
    pod.spec.as_ref()?.node_name.as_deref().filter(|_| is_silent)
}

/// Why a pod does not run yet, in a sentence.
pub fn why_it_waits(pod: &Pod) -> Option<String> {
    if let Some(node) = silent_node(pod) {
        return Some(format!("its node {node} does not answer"));
    }
    let status = pod.status.as_ref()?;
    let waiting = |one: &ContainerStatus| {
        let waiting = state(one).waiting?;
        let message = waiting.message.map(|message| format!(" ({message})")).unwrap_or_default();
        Some(format!("container {} waits: {}{message}", one.name, waiting.reason?))
    };
    unscheduled(status)
        .or_else(|| status.init_container_statuses.iter().chain(&status.container_statuses).flatten().find_map(waiting))
}

fn of_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|one| one.name == name)
}

/// A pod that is gone, in GitLab Runner's words for what it sees then.
fn deletion(pod: &ObjectMeta, started: bool, disruption: Option<String>) -> String {
    let name = pod.name.as_deref().unwrap_or_default();
    let namespace = pod.namespace.as_deref().unwrap_or_default();
    match (started, disruption) {
        (true, why) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            format!("pods \"{name}\" not found: the pod was deleted while the job ran{why}")
        }
        (false, Some(why)) => format!("pod \"{namespace}/{name}\" is disrupted: it was deleted before the job began ({why})"),
        (false, None) => format!("pod \"{namespace}/{name}\" is deleted, before the job began"),
    }
}

/// GitLab Runner's wrapping of whatever goes wrong before the first script.
pub fn before_the_job(sentence: &str) -> String {
    let sentence = sentence.trim_end().trim_end_matches('.');
    format!("prepare environment: {sentence}. Check {ABOUT_PREPARING} for more information")
}

/// Who took the pod away, where Kubernetes says it.
fn disruption(status: &PodStatus) -> Option<String> {
    let disrupted = status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget" && one.status == "True")?;
    disrupted.message.clone().or_else(|| disrupted.reason.clone())
}

fn state(container: &ContainerStatus) -> ContainerState {
    container.state.clone().unwrap_or_default()
}

fn has_started(container: &ContainerStatus) -> bool {
    let state = state(container);
    let came_up = |end: &ContainerStateTerminated| {
        end.started_at.is_some() && !["StartError", "ContainerCannotRun"].contains(&end.reason.as_deref().unwrap_or_default())
    };
    let before = container.last_state.as_ref().and_then(|last| last.terminated.as_ref()).is_some_and(came_up);
    before || state.running.is_some() || state.terminated.as_ref().is_some_and(came_up)
}

/// An image without a shell, as the runtime says it.
fn has_no_shell(container: &ContainerStatus, message: &str) -> Option<(Option<Cure>, FailureReason, String)> {
    let missing = ["executable file not found", "no such file or directory"].iter().any(|words| message.contains(words));
    (container.name == names::BUILD_CONTAINER && message.contains("exec: \"sh\"") && missing).then(|| {
        let image = &container.image;
        let sentence =
            format!("image {image} has no shell (sh), and scripts need one: {}", message.trim_start_matches(": ").trim());
        (None, FailureReason::RunnerConfigurationError, sentence)
    })
}

fn verdict(helper: &ContainerStatus) -> Option<Verdict> {
    Verdict::parse(&state(helper).terminated?.message?)
}

/// What the pod as a whole says: eviction, deadline, a lost node.
fn of_pod(status: &PodStatus) -> Option<(FailureReason, String)> {
    let message = status.message.clone().unwrap_or_default();
    let because = if message.is_empty() { String::new() } else { format!(": {message}") };
    match status.reason.as_deref()? {
        "Evicted" => Some((FailureReason::RunnerSystemFailure, format!("the pod was evicted from its node{because}"))),
        "DeadlineExceeded" => {
            let sentence = "the pod ran longer than the job's timeout and was ended by Kubernetes".to_owned();
            Some((FailureReason::JobExecutionTimeout, sentence))
        }
        "NodeLost" | "NodeShutdown" | "Terminated" | "Shutdown" => {
            Some((FailureReason::RunnerSystemFailure, format!("the node of the pod was lost or shut down{because}")))
        }
        "Preempting" => Some((FailureReason::RunnerSystemFailure, format!("the pod had to make room for another{because}"))),
        _ => None,
    }
}

/// A container of ours that the kernel killed.
fn out_of_memory(container: &ContainerStatus) -> Option<(FailureReason, String)> {
    let name = container.name.as_str();
    let key = match name {
        names::HELPER_CONTAINER => "helper_memory_limit",
        names::BUILD_CONTAINER => "memory_limit",
        _ => return None,
    };
    if state(container).terminated?.reason? != "OOMKilled" {
        return None;
    }
    let sentence = format!("container {name} was killed because it used more memory than its limit; raise {key}");
    Some((FailureReason::RunnerSystemFailure, sentence))
}

/// A container that ended although the agent left no verdict.
fn terminated(container: &ContainerStatus) -> Option<(Option<Cure>, FailureReason, String)> {
    let end = state(container).terminated?;
    let (name, code) = (&container.name, end.exit_code);
    let word = end.reason.as_deref().unwrap_or_default();
    let message = end
        .message
        .filter(|message| !message.trim().is_empty())
        .map(|message| format!(": {}", message.trim()))
        .unwrap_or_default();
    let ours = name == names::HELPER_CONTAINER || name == names::BUILD_CONTAINER;
    match word {
        "ContainerCannotRun" | "StartError" if ours => has_no_shell(container, &message).or_else(|| {
            let sentence = format!("container {name} could not be started{message}");
            Some((of_build(name), FailureReason::RunnerConfigurationError, sentence))
        }),
        _ if name == names::HELPER_CONTAINER => Some((
            None,
            FailureReason::RunnerSystemFailure,
            format!("the agent ended with exit code {code} before it could report{message}"),
        )),
        // The helper sees for itself that the build container or a service has gone.
        _ => None,
    }
}

/// A runtime that knows no volumes that are images says so when it makes the container that has one.
fn of_build(container: &str) -> Option<Cure> {
    (container == names::BUILD_CONTAINER).then_some(Cure::NoImageVolume)
}

/// A container that will not start.
fn waiting(container: &ContainerStatus) -> Option<(Option<Cure>, FailureReason, String)> {
    let waiting = state(container).waiting?;
    let (name, image) = (&container.name, &container.image);
    let message = waiting.message.unwrap_or_default();
    match waiting.reason.as_deref()? {
        "InvalidImageName" => Some((
            None,
            FailureReason::RunnerConfigurationError,
            format!("image pull failed: \"{image}\" is not the name of an image (container {name})"),
        )),
        "ErrImageNeverPull" => {
            let why = "it is not on the node and may not be pulled";
            let sentence = format!("image pull failed: image {image} (container {name}, pull policy never): {why}");
            Some((Some(Cure::NextPolicy), FailureReason::RunnerConfigurationError, sentence))
        }
        "ErrImagePull" | "ImagePullBackOff" => Some((
            Some(Cure::NextPolicy),
            pull_failure(&message),
            format!("image pull failed: image {image} (container {name}): {message}"),
        )),
        "CreateContainerConfigError" => {
            let sentence = format!("container configuration error: container {name}: {message}");
            Some((None, FailureReason::RunnerConfigurationError, sentence))
        }
        "CreateContainerError" | "RunContainerError" => has_no_shell(container, &message).or_else(|| {
            let sentence = format!("container {name} could not be made: {message}");
            Some((of_build(name), FailureReason::RunnerSystemFailure, sentence))
        }),
        "CrashLoopBackOff" => {
            let sentence = format!("container \"{name}\" is in CrashLoopBackOff: {message}");
            Some((None, FailureReason::RunnerConfigurationError, sentence))
        }
        _ => None,
    }
}

/// The class of a pull that failed, by the words of the registry or the network.
fn pull_failure(message: &str) -> FailureReason {
    let message = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&NETWORK) {
        FailureReason::RunnerExternalDependencyFailure
    } else if has(&CONFIGURATION) {
        FailureReason::RunnerConfigurationError
    } else {
        FailureReason::ImagePullFailure
    }
}

/// Why the pod has no node yet; the caller decides how long that may last.
fn unscheduled(status: &PodStatus) -> Option<String> {
    let conditions = status.conditions.iter().flatten();
    let found = conditions.filter(|one| one.type_ == "PodScheduled" && one.status == "False").find_map(|one| one.message.clone());
    found.map(|message| format!("no node can take the pod: {message}"))
}
