//! What must hold when all is healed and quiet.

use crate::gitlab::{State, There};
use crate::world::{Notes, World};
use kube_server::{Kind, Selectors};
use serde_json::Value;

/// Requests to the Kubernetes API for one job, where nothing goes wrong.
const BUDGET: usize = 8;

/// Names of what managers have in the cluster, but for what belongs to no job.
pub fn left(world: &World) -> Vec<String> {
    let names =
        [Kind::Pod, Kind::Secret].into_iter().flat_map(|kind| world.store().list(kind, Some("default"), &Selectors::default()).0);
    let names = names.filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned));
    names.filter(|name| crate::api::job_of(name).is_some()).collect()
}

/// Whether nothing is left to be done.
pub fn is_quiet(world: &World) -> bool {
    let now = world.now();
    let over = {
        let mut gitlab = world.gitlab();
        gitlab.pass(now);
        gitlab.jobs.values().all(There::is_over)
    };
    over && left(world).is_empty() && !world.notes().agents.values().any(|note| note.runs)
}

/// Everything that does not hold.
pub fn violations(world: &World) -> Vec<String> {
    let gitlab = world.gitlab();
    let notes = world.notes();
    let mut found = notes.violations.clone();
    found.extend(gitlab.mismatches.iter().map(|text| format!("mismatch: {text}")));
    for job in gitlab.jobs.values() {
        ends_once(job, world.schedule().calm, &mut found);
        is_verdict(job, &notes, &mut found);
        trace(job, &notes, &mut found);
        runs_once(job, &notes, &mut found);
        if world.schedule().calm {
            budget(job, &notes, &mut found);
        }
    }
    drop((gitlab, notes));
    found.extend(left(world).into_iter().map(|name| format!("left: {name} is still in the cluster")));
    found.extend(owners(world));
    found
}

/// A job that is lost is not over, one that is told twice has reports that differ.
fn ends_once(job: &There, calm: bool, found: &mut Vec<String>) {
    let id = job.job.id;
    if !matches!(job.state, State::Ended(_)) {
        found.push(format!("lost: job {id} is {:?}, handed out to {:?}", job.state, job.holders));
    }
    let accepted = job.reports.iter().filter(|report| report.accepted).count();
    if accepted > 1 || (accepted == 0 && !job.ended_here && matches!(job.state, State::Ended(_))) {
        found.push(format!("once: job {id} has {accepted} accepted reports: {:?}", job.reports));
    }
    let Some(first) = job.reports.iter().position(|report| report.accepted) else { return };
    let is_manager = |who: &str| who.starts_with('m');
    let replica = |who: &str| who.split('.').next().unwrap_or_default().to_owned();
    let (counted, later) = (&job.reports[first], &job.reports[first + 1..]);
    if calm && !later.is_empty() {
        found.push(format!("once: job {id} was reported again, and nothing had gone wrong: {:?}", job.reports));
    }
    for report in later.iter().filter(|report| is_manager(&report.who) && is_manager(&counted.who)) {
        if report.state != counted.state {
            found.push(format!(
                "double: job {id} was {} by {}, then {} by {}",
                counted.state, counted.who, report.state, report.who
            ));
        } else if replica(&report.who) != replica(&counted.who) && report.sent >= counted.came {
            // One that left before is inherent: what is on its way is not taken back, it may be minutes late, and while
            // it is GitLab says that the job runs. That its sender had the job when it left is another check (`fence`).
            found.push(format!("double: job {id} was reported by {} and by {}", counted.who, report.who));
        }
    }
}

/// What an agent could report is what stands there, and so is what it left in an undisturbed pod.
fn is_verdict(job: &There, notes: &Notes, found: &mut Vec<String>) {
    let State::Ended(state) = job.state else { return };
    for (pod, note) in notes.agents.iter().filter(|(_, note)| note.job == job.job.id && state != "canceled") {
        if note.reported.as_ref().or(note.ended.as_ref()).is_some_and(|told| told != state) {
            found.push(format!("verdict: {pod} told {:?} and left {:?}, the job is {state}", note.reported, note.ended));
        }
    }
}

/// The manager's lines, the agent's, at most one more of the manager's.
fn trace(job: &There, notes: &Notes, found: &mut Vec<String>) {
    let id = job.job.id;
    let agents: Vec<&str> = job.pieces.iter().filter_map(|piece| piece.writer.strip_prefix("a:")).collect();
    let by_agent = |index: usize| job.pieces[index].writer.starts_with("a:");
    let first = (0..job.pieces.len()).find(|index| by_agent(*index));
    let last = (0..job.pieces.len()).rfind(|index| by_agent(*index));
    if let (Some(first), Some(last)) = (first, last) {
        if !(first..=last).all(by_agent) {
            found.push(format!("writers: job {id}: {:?}", job.pieces.iter().map(|piece| &piece.writer).collect::<Vec<_>>()));
        }
        if job.pieces.len() - last > 2 {
            found.push(format!("last line: job {id} has {} pieces behind the agent's", job.pieces.len() - last - 1));
        }
        if agents.iter().any(|pod| *pod != agents[0]) {
            found.push(format!("writers: job {id} has several agents: {agents:?}"));
        }
        let written: Vec<u8> = job.pieces[first..=last].iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        let note = notes.agents.get(agents[0]).cloned().unwrap_or_default();
        if !note.said.starts_with(&written) || (note.reported.is_some() && note.said != written) {
            let (has, said) = (String::from_utf8_lossy(&written).into_owned(), String::from_utf8_lossy(&note.said).into_owned());
            found.push(format!("trace: job {id} has {has:?} of {said:?}"));
        }
    }
    let by_managers = job.pieces.iter().filter(|piece| piece.writer.starts_with('m'));
    let last_lines = by_managers.filter(|piece| {
        let text = String::from_utf8_lossy(&piece.bytes).into_owned();
        text.contains("ERROR: Job failed") || text.contains("Job succeeded")
    });
    if last_lines.count() > 1 {
        found.push(format!("last line: job {id} has several: {:?}", String::from_utf8_lossy(&job.text())));
    }
}

fn runs_once(job: &There, notes: &Notes, found: &mut Vec<String>) {
    if let Some(pods) = notes.scripts.get(&job.job.id)
        && pods.len() > 1
    {
        found.push(format!("pods: scripts of job {} ran in {pods:?}", job.job.id));
    }
}

fn budget(job: &There, notes: &Notes, found: &mut Vec<String>) {
    let requests = notes.requests.get(&job.job.id).map(Vec::as_slice).unwrap_or_default();
    if requests.len() > BUDGET {
        found.push(format!("budget: job {} took {} requests: {requests:?}", job.job.id, requests.len()));
    }
}

/// What carries our labels belongs to a manager of ours.
fn owners(world: &World) -> Vec<String> {
    let pods = world.store().list(Kind::Pod, Some("default"), &Selectors::default()).0;
    let label = |pod: &Value| pod["metadata"]["labels"][agent_contract::names::LABEL_OWNER].as_str().map(str::to_owned);
    pods.iter().filter(|pod| label(pod).is_none()).map(|pod| format!("owner: {pod} has none")).collect()
}
