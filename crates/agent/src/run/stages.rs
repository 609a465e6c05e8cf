//! The stages of a job in GitLab's order, and what ends them early.
//!
//! `canceling` ends the script and goes on with `after_script` and uploads; `canceled`, SIGTERM and the job's timeout
//! end everything. A timeout of the job skips `after_script` and uploads, as GitLab Runner does (behaviour 10).

use super::setting::Setting;
use super::{Ending, Places, ownership, services};
use crate::build::{Build, BuildError, Event, Exited};
use crate::git::Sources;
use crate::script::{self, Group, ScriptParts};
use crate::trace::Trace;
use agent_contract::serve::FrameError;
use agent_contract::{Plan, names};
use gitlab_api::log::{self, Stream};
use gitlab_client::Client;
use job::{FailureReason, RemoteState, Step, durations};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

/// Time of `after_script` (row "RUNNER_AFTER_SCRIPT_TIMEOUT": 5 min).
const AFTER_SCRIPT: Duration = Duration::from_secs(300);
/// A build container that was there needs no image any more; that it does not listen now is the script's doing.
const LISTENS_STILL: Duration = Duration::from_secs(5);
/// A pod that is deleted tells its containers one by one: when the build container goes, it is our turn soon.
const TOLD_TOO: Duration = Duration::from_secs(1);
/// What GitLab Runner points to.
const ABOUT_TIMEOUTS: &str = "https://docs.gitlab.com/ci/runners/configure_runners/#set-script-and-after_script-timeouts";
/// Between two tries of a stage (FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY: 5 s to 5 min).
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Longer than any job: a clock has an end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a stage stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Canceling,
    Abandoned,
    Timeout,
    Terminated,
}

/// What ends a stage that is not a script.
struct Guard {
    remote: watch::Receiver<RemoteState>,
    deadline: Instant,
    timeout: Duration,
}

impl Guard {
    /// Runs a stage as long as nothing stops the job; after a cancel only harder reasons count.
    async fn run(&self, canceling_counts: bool, stage: impl Future<Output = Result<(), Ending>>) -> Result<(), Ending> {
        tokio::select! {
            done = stage => done,
            stop = stopped(self.remote.clone(), self.deadline, canceling_counts) => Err(ending_of(stop, self.timeout)),
        }
    }
}

/// The job on its way.
pub struct Stages<'a> {
    pub(super) plan: &'a Plan,
    pub(super) client: &'a Client,
    pub(super) trace: Trace,
    pub(super) socket: PathBuf,
    pub(super) setting: Setting,
    impossible: Option<Ending>,
    remote: watch::Receiver<RemoteState>,
    deadline: Instant,
    pub(super) began: SystemTime,
    /// The source is there, and with it what an upload could find, whatever else failed before the script.
    has_source: bool,
    build_was_there: bool,
}

impl<'a> Stages<'a> {
    /// Before the first stage; the job's time runs from here.
    pub fn new(plan: &'a Plan, places: &Places, client: &'a Client, trace: Trace) -> Self {
        let (setting, impossible) = Setting::of(plan);
        Self {
            plan,
            client,
            remote: trace.remote(),
            trace,
            socket: places.shared.join(crate::serve::file_name(names::SERVE_SOCKET)),
            setting,
            impossible,
            deadline: Instant::now() + plan.timeout().min(LONGEST),
            began: SystemTime::now(),
            has_source: false,
            build_was_there: false,
        }
    }

    /// All stages.
    pub async fn run(&mut self) -> Ending {
        self.header();
        self.resolve_secrets().await;
        self.prepare_executor().await;
        let guard = Guard { remote: self.remote.clone(), deadline: self.deadline, timeout: self.plan.timeout() };
        let ready = guard.run(true, self.prepare()).await;
        // Without a script there is nothing for after_script to follow.
        let has_script = ready.is_ok();
        let mut ending = match ready {
            Ok(()) => self.steps().await,
            Err(ending) => ending,
        };
        if has_script
            && self.may_go_on(&ending)
            && let Some(harder) = self.after_script(&ending).await
            && ending != canceled()
        {
            ending = harder;
        }
        if self.has_source
            && self.may_go_on(&ending)
            // A cancel that came before ended what it ends; one that comes now may find an upload that hangs.
            && let Err(failed) = guard.run(!self.is_canceling(), self.uploads(&ending)).await
            && (ending.is_success() || failed == Ending::Abandoned)
        {
            ending = failed;
        }
        self.section("cleanup_file_variables", "Cleaning up project directory and file based variables").await;
        self.sources().clean_up().await;
        let _ = std::fs::remove_dir_all(&self.setting.temporary);
        self.section_end("cleanup_file_variables").await;
        ending
    }

    /// When the job's time is up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A call of its own: while the state is borrowed the sender stands still.
    fn is_canceling(&self) -> bool {
        *self.remote.borrow() == RemoteState::Canceling
    }

    /// Tells the build container that nothing more comes.
    pub async fn leave(&self, ending: &Ending) {
        let leave = async {
            let mut build = Build::connect(&self.socket).await;
            build.leave(ending.build_exit_code()).await
        };
        // A build container that never came up has nothing to leave.
        let _ = tokio::time::timeout(Duration::from_secs(1), leave).await;
    }

    /// The job's own timeout ends everything; that of the script alone does not (`RUNNER_SCRIPT_TIMEOUT`).
    fn may_go_on(&self, ending: &Ending) -> bool {
        *ending != Ending::Abandoned && *ending != terminated() && Instant::now() < self.deadline
    }

    async fn prepare(&mut self) -> Result<(), Ending> {
        if let Some(fatal) = self.plan.job.unsupported.iter().find(|one| one.fatal) {
            let message = format!("the job needs {}, which gantry does not do yet", fatal.what);
            return Err(Ending::failed(FailureReason::RunnerConfigurationError, message));
        }
        if let Some(ending) = self.impossible.take() {
            return Err(ending);
        }
        let failed = |error: anyhow::Error| Ending::failed(FailureReason::RunnerSystemFailure, format!("{error:#}"));
        if self.keeps_umask() {
            ownership::close();
        }
        self.setting.write().map_err(failed)?;
        self.section("prepare_script", "Preparing environment").await;
        self.trace
            .line(&format!("\x1b[0KRunning on {} via {}...", self.plan.settings.pod_name, self.plan.settings.system_id))
            .await;
        self.section_end("prepare_script").await;
        services::wait(&services::Port::all(self.plan)?, &self.trace).await;
        self.get_sources_in_time().await?;
        self.has_source = true;
        self.downloads().await?;
        if self.keeps_umask() {
            let paths = [self.setting.directory.as_path(), &self.setting.temporary];
            ownership::give(&self.socket, &paths, &self.trace).await.map_err(failed)?;
        }
        Ok(())
    }

    fn keeps_umask(&self) -> bool {
        self.setting.flags.is_on("FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR")
    }

    /// All tries within `get_sources_timeout`, where that is less than the job has.
    async fn get_sources_in_time(&self) -> Result<(), Ending> {
        let asked = self.duration("get_sources_timeout", &self.plan.settings.get_sources_timeout).await.unwrap_or(LONGEST);
        let limit = Instant::now() + asked;
        if limit >= self.deadline {
            return self.get_sources().await;
        }
        match tokio::time::timeout_at(limit, self.get_sources()).await {
            Ok(done) => done,
            Err(_) => {
                self.section_end("get_sources").await;
                let message = format!("get_sources exceeded timeout of {}", durations::print(asked));
                let ending = Ending::failed(FailureReason::JobExecutionTimeout, message);
                self.say_if_out_of_time("get_sources", &ending).await;
                Err(ending)
            }
        }
    }

    /// Tried as often as the job wants; what is left of a failed try goes before the second one.
    async fn get_sources(&self) -> Result<(), Ending> {
        let tries = self.setting.attempts("GET_SOURCES_ATTEMPTS");
        for attempt in 1..=tries {
            if attempt == 2 {
                let title = "Deleting all tracked and untracked files due to source fetch failure";
                self.section("clear_worktree", title).await;
                self.sources().clear_worktree().await;
                self.section_end("clear_worktree").await;
            }
            self.section("get_sources", "Getting source from Git repository").await;
            let fetched = self.sources().get().await;
            if let Err(error) = &fetched {
                self.trace.line(&format!("\x1b[31;1mERROR: {error:#}")).await;
            }
            self.section_end("get_sources").await;
            if fetched.is_ok() {
                return Ok(());
            }
            self.pause_before(attempt + 1, tries).await;
        }
        Err(helper_failed())
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        let setting = &self.setting;
        Sources {
            plan: self.plan,
            directory: &setting.directory,
            temporary: &setting.temporary,
            variables: &setting.variables,
            flags: &setting.flags,
            settings: &setting.git,
            trace: &self.trace,
        }
    }

    /// A server in trouble gets time to recover.
    pub(super) async fn pause_before(&self, attempt: u32, tries: u32) {
        if attempt <= tries && self.setting.flags.is_on("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY") {
            let pause = (FIRST_PAUSE * 2u32.saturating_pow(attempt.saturating_sub(2))).min(LONGEST_PAUSE);
            self.trace.line(&format!("\x1b[0;33mWARNING: trying again in {}", durations::print(pause))).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Every step but `after_script`, as long as their conditions hold.
    async fn steps(&mut self) -> Ending {
        self.policy().await;
        let mut ending = Ending::Success;
        // One limit for all of them.
        let limit = self.limit("RUNNER_SCRIPT_TIMEOUT", LONGEST).await;
        for step in self.plan.job.steps.iter().filter(|step| step.name != "after_script") {
            if !self.may_go_on(&ending) || !step.when.applies(ending.is_success()) {
                continue;
            }
            let result = self.step(step, limit).await;
            if ending.is_success()
                && !(step.allow_failure && matches!(result, Ending::Failed { reason: FailureReason::ScriptFailure, .. }))
            {
                ending = result;
            }
        }
        if ending == canceled() {
            self.trace.line("\x1b[0;33mWARNING: script canceled externally (UI, API)").await;
        }
        ending
    }

    /// Row "flow 42".
    async fn say_if_out_of_time(&self, stage: &str, ending: &Ending) {
        if matches!(ending, Ending::Failed { reason: FailureReason::JobExecutionTimeout, .. }) {
            let line = format!(
                "\x1b[0;33mWARNING: {stage} could not run to completion because the timeout was exceeded. \
                 For more control over job and script timeouts see: {ABOUT_TIMEOUTS}"
            );
            self.trace.line(&line).await;
        }
    }

    async fn step(&mut self, step: &Step, limit: Instant) -> Ending {
        let name = format!("step_{}", step.name);
        self.section(&name, &format!("Executing \"{name}\" stage of the job script")).await;
        let settings = &self.plan.settings;
        let around = |text: &String| if text.is_empty() { Vec::new() } else { vec![text.clone()] };
        let (before, after) = (around(&settings.pre_build_script), around(&settings.post_build_script));
        // The commands of a release are GitLab's own, and only there the runner expands variables.
        let commands = match step.name.as_str() {
            "release" => step.script.iter().map(|line| self.setting.expanded.expand(line)).collect(),
            _ => step.script.clone(),
        };
        let groups = [
            Group { name: "pre_build_script", commands: &before },
            Group { name: "script_step", commands: &commands },
            Group { name: "post_build_script", commands: &after },
        ];
        let ending = self.script(&groups, "running", limit).await;
        self.section_end(&name).await;
        self.say_if_out_of_time(&name, &ending).await;
        ending
    }

    /// The time that a variable gives a stage, within the job's.
    async fn limit(&self, variable: &str, default: Duration) -> Instant {
        let variables = &self.plan.job.variables;
        let asked = variables.get(variable).map(|text| variables.expand(text)).unwrap_or_default();
        let limit = self.duration(variable, &asked).await.unwrap_or(default);
        (Instant::now() + limit).min(self.deadline)
    }

    /// What a text says; what is no duration is said and ignored, 0 is no limit.
    async fn duration(&self, name: &str, text: &str) -> Option<Duration> {
        if text.trim().is_empty() {
            return None;
        }
        let duration = durations::parse(text);
        if duration.is_none() {
            let line = format!("\x1b[0;33mWARNING: ignoring {name}: {text:?} is no duration such as 1h30m or 90s");
            self.trace.line(&line).await;
        }
        duration.map(|duration| if duration.is_zero() { LONGEST } else { duration.min(LONGEST) })
    }

    /// Answers what ends the job whatever its script did, and its own failure where that counts
    /// (`AFTER_SCRIPT_IGNORE_ERRORS` is false).
    async fn after_script(&mut self, ending: &Ending) -> Option<Ending> {
        let step = self.plan.job.steps.iter().find(|step| step.name == "after_script" && !step.script.is_empty())?;
        self.section("after_script", "Running after_script").await;
        self.trace.work_line("\x1b[32;1mRunning after script...").await;
        let limit = self.limit("RUNNER_AFTER_SCRIPT_TIMEOUT", AFTER_SCRIPT).await;
        let groups = [Group { name: "after_script_step", commands: &step.script }];
        let result = self.script(&groups, ending.status_word(), limit).await;
        self.section_end("after_script").await;
        self.say_if_out_of_time("after_script", &result).await;
        if result == Ending::Abandoned || result == terminated() {
            return Some(result);
        }
        if Instant::now() >= self.deadline {
            return Some(ending_of(Stop::Timeout, self.plan.timeout()));
        }
        if ending.is_success() && !result.is_success() && !self.setting.switch("AFTER_SCRIPT_IGNORE_ERRORS", true) {
            return Some(result);
        }
        if let Ending::Failed { message, .. } = result {
            self.trace
                .line(&format!("\x1b[0;33mWARNING: after_script failed, but job will continue unaffected: {message}"))
                .await;
        }
        None
    }

    /// Runs commands in the build container until they end or something ends them.
    async fn script(&mut self, groups: &[Group<'_>], status: &str, limit: Instant) -> Ending {
        let mut variables = self.setting.variables.clone();
        variables.push(("CI_JOB_STATUS".to_owned(), status.to_owned()));
        let text = script::text(&ScriptParts {
            variables: &variables,
            env_file: &self.setting.env_file().display().to_string(),
            directory: &self.setting.directory.display().to_string(),
            groups,
            options: self.setting.options,
        });
        let odd = variables.iter().filter(|(name, _)| !script::is_shell_name(name) && !name.is_empty() && !name.contains('='));
        let env: Vec<_> = odd.cloned().collect();
        // A cancel ends the script alone (behaviour 9).
        let after_cancel = status != "running";
        let waiting = stopped(self.remote.clone(), limit, !after_cancel);
        let mut build = tokio::select! {
            build = Build::connect(&self.socket) => build,
            stop = waiting => return ending_of(stop, self.plan.timeout()),
            () = tokio::time::sleep(LISTENS_STILL), if self.build_was_there => return lost(&BuildError::Gone),
        };
        self.build_was_there = true;
        if let Err(error) = build.start(text, env, &self.plan.settings.shell).await {
            return lost(&error);
        }
        let (exited, stop) = self.follow(&mut build, limit, after_cancel).await;
        self.trace.flush();
        match (exited, stop) {
            (_, Some(Stop::Timeout)) if limit < self.deadline => {
                Ending::failed(FailureReason::JobExecutionTimeout, "script timeout error: the script took longer than it may")
            }
            (_, Some(stop)) => ending_of(stop, self.plan.timeout()),
            (Ok(Exited { code: 0, .. }), None) => Ending::Success,
            (Ok(Exited { code, oom_killed, .. }), None) => {
                let why =
                    if oom_killed { "; the kernel killed a process for lack of memory, raise the memory limit" } else { "" };
                let message = format!("command terminated with exit code {code}{why}");
                Ending::Failed { reason: FailureReason::ScriptFailure, exit_code: Some(code), message }
            }
            (Err(error), None) => lost(&error),
        }
    }

    /// Copies output until the script ends; what stops it is told to the build container once.
    async fn follow(
        &mut self,
        build: &mut Build,
        limit: Instant,
        after_cancel: bool,
    ) -> (Result<Exited, BuildError>, Option<Stop>) {
        let grace = match self.plan.settings.cancel_grace_seconds {
            0 => DEFAULT_GRACE,
            seconds => Duration::from_secs(seconds),
        };
        let mut stop = None;
        let stopping = stopped(self.remote.clone(), limit, !after_cancel);
        tokio::pin!(stopping);
        let give_up = tokio::time::sleep_until(Instant::now() + Duration::from_secs(u32::MAX.into()));
        tokio::pin!(give_up);
        let mut silent = true;
        loop {
            tokio::select! {
                event = self.next(build, stop.is_some()) => match event {
                    Ok(Event::Output(stream, bytes)) => {
                        self.trace.put(stream, &bytes);
                        if std::mem::take(&mut silent) {
                            self.trace.urge();
                        }
                    }
                    Ok(Event::Exited(exited)) if !exited.terminated || stop.is_some() => return (Ok(exited), stop),
                    Ok(Event::Exited(exited)) => return (Ok(exited), told_too(stopping).await),
                    Err(error) if stop.is_some() => return (Err(error), stop),
                    Err(error) => return (Err(error), told_too(stopping).await),
                },
                why = &mut stopping, if stop.is_none() => {
                    stop = Some(why);
                    give_up.as_mut().reset(Instant::now() + grace * 2);
                    if let Err(error) = build.signal(libc::SIGTERM, grace).await {
                        return (Err(error), stop);
                    }
                }
                () = &mut give_up => return (Err(BuildError::Lost(std::io::ErrorKind::TimedOut.into())), stop),
            }
        }
    }

    /// What the build container says next. Room for it is waited for, but not when the script is to end: GitLab may be
    /// away for longer than the job has time.
    async fn next(&self, build: &mut Build, ending: bool) -> Result<Event, BuildError> {
        if !ending {
            self.trace.room().await;
        }
        build.next().await
    }

    pub(super) async fn section(&self, id: &str, title: &str) {
        self.section_start(id);
        self.trace.line(&format!("\x1b[0K\x1b[36;1m{title}\x1b[0;m")).await;
    }

    pub(super) fn section_start(&self, id: &str) {
        if self.plan.job.features.trace_sections {
            self.trace.own(Stream::RUNNER, log::section_start(now(), id, "").as_bytes());
        }
    }

    pub(super) async fn section_end(&self, id: &str) {
        if self.plan.job.features.trace_sections {
            self.trace.own(Stream::RUNNER, log::section_end(now(), id).as_bytes());
        }
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A stage of the helper failed, which said why in the log: the same as a command of the job, to GitLab.
pub(super) fn helper_failed() -> Ending {
    let message = "command terminated with exit code 1".to_owned();
    Ending::Failed { reason: FailureReason::ScriptFailure, exit_code: Some(1), message }
}

fn lost(error: &BuildError) -> Ending {
    if let BuildError::Protocol(FrameError::TooLong(bytes)) = error {
        let message = format!("the script and its variables have {bytes} bytes, more than can be handed to a shell");
        return Ending::failed(FailureReason::RunnerConfigurationError, message);
    }
    let reason = if matches!(error, BuildError::Refused(_)) {
        FailureReason::RunnerConfigurationError
    } else {
        FailureReason::RunnerSystemFailure
    };
    Ending::failed(reason, format!("{:#}", anyhow::anyhow!("{error}")))
}

fn canceled() -> Ending {
    Ending::failed(FailureReason::JobCanceled, "canceled")
}

/// A reason that GitLab can retry on: the job itself did nothing wrong.
fn terminated() -> Ending {
    let message = "aborted: terminated; the pod was told to stop: deleted, evicted, or its node shuts down";
    Ending::failed(FailureReason::RunnerSystemFailure, message)
}

fn ending_of(stop: Stop, timeout: Duration) -> Ending {
    match stop {
        Stop::Canceling => canceled(),
        Stop::Abandoned => Ending::Abandoned,
        Stop::Timeout => {
            let message = format!("execution took longer than {} seconds", durations::print(timeout));
            Ending::failed(FailureReason::JobExecutionTimeout, message)
        }
        Stop::Terminated => terminated(),
    }
}

/// What stops us in a moment, if anything does.
async fn told_too(stopping: impl Future<Output = Stop>) -> Option<Stop> {
    tokio::time::timeout(TOLD_TOO, stopping).await.ok()
}

/// Waits for whatever stops a stage; after a cancel only harder reasons count.
async fn stopped(mut remote: watch::Receiver<RemoteState>, deadline: Instant, canceling_counts: bool) -> Stop {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let changed = async {
        let wanted = |state: &RemoteState| state.is_final() || (canceling_counts && *state == RemoteState::Canceling);
        match remote.wait_for(wanted).await.map(|state| *state) {
            Ok(RemoteState::Canceling) => Stop::Canceling,
            Ok(_) => Stop::Abandoned,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        stop = changed => stop,
        () = tokio::time::sleep_until(deadline) => Stop::Timeout,
        () = terminated => Stop::Terminated,
    }
}
