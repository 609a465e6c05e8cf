//! `gantry-agent run`: one job, from plan to verdict.
//!
//! The stages run in GitLab's order, each a collapsible section of the trace. Whatever happens ends in exactly one
//! [`Verdict`]: reported to GitLab when it can be reached, and left in the termination message in any case, so that
//! the manager knows what is left to do.

mod archives;
mod ending;
mod opening;
mod ownership;
mod report;
mod services;
mod setting;
mod stages;
mod transfers;

use crate::trace::{Owner, Patience, Trace};
use agent_contract::{Plan, Verdict, names};
use anyhow::{Context, Result};
use ending::Ending;
use gitlab_api::Info;
use gitlab_client::{Client, ClientConfig};
use job::Secret;
use job_log::{Log, secrets};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// GitLab's own default for a log, when the plan names none: 4 MiB.
const DEFAULT_LIMIT: u64 = 4 * 1024 * 1024;
/// Switches that make a log show more than it should.
const DEBUG: [&str; 2] = ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"];
/// How often the build container is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Where things lie in the pod.
#[derive(Clone, Debug)]
pub struct Places {
    /// Parts of the plan.
    pub plan: PathBuf,
    /// Shared with the build container.
    pub shared: PathBuf,
    /// Termination message.
    pub verdict: PathBuf,
}

/// Runs the job of a plan.
///
/// # Errors
/// None that is left to the caller: what goes wrong stands in the verdict.
pub fn main(places: &Places) -> Result<ExitCode> {
    // Files of the helper must be usable by whatever user the build container runs as (GitLab Runner's default).
    rustix::process::umask(rustix::fs::Mode::empty());
    reserve_verdict(&places.verdict);
    let started = install(&places.shared).and_then(|()| read_plan(&places.plan)).and_then(|plan| run_plan(&plan, places));
    let verdict = match started {
        Ok(Some(verdict)) => verdict,
        Ok(None) => {
            eprintln!("gantry-agent: told to stop before the build container came up");
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => {
            eprintln!("gantry-agent: {error:#}");
            Ending::failed(job::FailureReason::RunnerSystemFailure, format!("{error:#}")).verdict(false, 0)
        }
    };
    write_verdict(&places.verdict, &verdict);
    Ok(if verdict.job_state() == Some(job::JobState::Success) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `None` when nothing of the job has begun.
fn run_plan(plan: &Plan, places: &Places) -> Result<Option<Verdict>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(job(plan, places))
}

/// Copies this program to where the build container waits for it; whole or not at all.
fn install(shared: &Path) -> Result<()> {
    let target = shared.join(crate::serve::file_name(names::SHARED_AGENT));
    let fresh = target.with_extension("new");
    std::fs::copy("/proc/self/exe", &fresh).with_context(|| format!("failed to copy the agent to {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&fresh, &target).with_context(|| format!("failed to copy the agent to {}", target.display()))
}

fn read_plan(directory: &Path) -> Result<Plan> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let count = read(names::PLAN_COUNT_KEY)?;
    let count: usize = String::from_utf8_lossy(&count).trim().parse().context("the plan's number of parts cannot be read")?;
    let parts = (0..count.min(1000)).map(|index| read(&names::plan_key(index))).collect::<Result<Vec<_>>>()?;
    Plan::from_parts(&parts).context("the plan cannot be used")
}

async fn job(plan: &Plan, places: &Places) -> Result<Option<Verdict>> {
    let settings = &plan.settings;
    let client = Client::new(&ClientConfig {
        url: plan.coordinator.url.clone(),
        ca_pem: plan.coordinator.ca_pem.clone(),
        identity: plan.coordinator.identity.as_ref().map(|own| (own.certificate_pem.clone(), Secret::new(own.key_pem.clone()))),
        user_agent: format!("gitlab-runner {} (gantry; linux/{})", settings.version, std::env::consts::ARCH),
    })?;
    let owner = Arc::new(Owner {
        client,
        id: plan.job.id,
        token: plan.job.token.clone(),
        info: Info::of_kubernetes(&settings.version),
        debug_trace: !settings.debug_trace_disabled && DEBUG.into_iter().any(|name| plan.job.variables.is_on(name)),
    });
    let limit = if settings.output_limit == 0 { DEFAULT_LIMIT } else { settings.output_limit };
    let trace = Trace::new(limit, Log::new(secrets::of_plan(plan), settings.timestamps));
    // Until the build container listens the manager is the writer of the trace, and may yet make another pod.
    let begun = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn({
        let (trace, owner, begun) = (trace.clone(), owner.clone(), begun.clone());
        let socket = places.shared.join(crate::serve::file_name(names::SERVE_SOCKET));
        async move {
            while !socket.exists() {
                tokio::time::sleep(LOOK).await;
            }
            begun.store(true, Ordering::Relaxed);
            trace.send(&owner).await;
        }
    });
    let mut stages = stages::Stages::new(plan, places, &owner.client, trace.clone());
    if stages.setting.flags.is_on("FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL") {
        trace.touch_rarely();
    }
    let ending = tokio::select! {
        biased;
        () = told_to_stop_before(&begun) => return Ok(None),
        ending = stages.run() => ending,
    };
    let resources = stages.measure().await;
    if ending != Ending::Abandoned {
        stages.report(&resources).await;
    }
    let left = services::leave_the_end_to_the_manager(plan, &ending);
    if !left {
        last_line(&trace, &ending).await;
    }
    trace.flush();
    sender.abort();
    // The task must be gone before the rest is sent: a trace has one writer.
    let _ = sender.await;
    let abandoned = ending == Ending::Abandoned;
    // A trace without its last line is never whole, however long it is.
    let length = |trace: &Trace| if left { 0 } else { trace.length() };
    // Written before the report, which may take long: a pod that is killed meanwhile has told its manager the rest.
    let verdict = |reported| Verdict { resources: resources.clone(), ..ending.verdict(reported, length(&trace)) };
    write_verdict(&places.verdict, &verdict(abandoned));
    let told = ending.to_final(&plan.job.features.failure_reasons);
    let patience = Patience { tries: settings.final_update_tries, deadline: stages.deadline() };
    let reported = abandoned || (trace.finish(&owner, (!left).then_some(&told), patience).await && !left);
    stages.leave(&ending).await;
    Ok(Some(verdict(reported)))
}

/// Comes back when the pod is deleted and nobody has heard of us: what becomes of the job is the manager's to say.
async fn told_to_stop_before(begun: &AtomicBool) {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    terminate.recv().await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

async fn last_line(trace: &Trace, ending: &Ending) {
    match ending {
        Ending::Success => trace.line("\x1b[32;1mJob succeeded").await,
        Ending::Abandoned => {}
        Ending::Failed { reason, message, .. } => {
            let kind = if reason.is_system() { " (system failure)" } else { "" };
            trace.line(&format!("\x1b[31;1mERROR: Job failed{kind}: {message}")).await;
        }
    }
}

/// Keeps room on the disk for the verdict: a job may fill it, and must not lose its state by that.
fn reserve_verdict(path: &Path) {
    let reserved = File::options().write(true).create(true).truncate(false).open(path).and_then(|file| {
        let length = agent_contract::verdict::MAX_BYTES as u64;
        Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length)?)
    });
    if let Err(error) = reserved {
        eprintln!("gantry-agent: no room can be kept for the verdict at {}: {error}", path.display());
    }
}

/// Into the room that was kept: a file that is cut first gives its room away.
fn write_verdict(path: &Path, verdict: &Verdict) {
    let message = verdict.to_message();
    let written = File::options().write(true).create(true).truncate(false).open(path).and_then(|file| {
        file.write_all_at(message.as_bytes(), 0)?;
        file.set_len(message.len() as u64)
    });
    if let Err(error) = written {
        eprintln!("gantry-agent: failed to write the verdict to {}: {error}", path.display());
    }
}
