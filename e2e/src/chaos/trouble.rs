//! The strokes: each does one kind of harm, and lets it heal.

use super::arguments::Trouble;
use super::host::Manners;
use super::phase::Phase;
use super::processes;
use super::proxy::Door;
use super::run::Run;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// How long a phase is waited for before the stroke falls anyhow.
const PHASE: Duration = Duration::from_secs(4);
/// A little later than what was waited for, so that the kill falls into the calls that follow.
const JITTER: Duration = Duration::from_millis(4);
/// Longest time in which nobody is there after a kill.
const NOBODY: Duration = Duration::from_secs(3);
/// How long a new manager may take to come up.
const COMING_UP: Duration = Duration::from_secs(60);
/// How long a manager may take to have all the jobs that it may have.
const FILLING: Duration = Duration::from_secs(90);
/// A manager that is told to end has to, whatever runs.
const ENDING: Duration = Duration::from_secs(5);
/// One request in so many meets a fault while faults are made.
const FAULT: u64 = 4;
const LOOK: Duration = Duration::from_millis(50);
/// The table of our own rule: nothing else stands in it.
const TABLE: &str = "gantry_chaos";

/// What a manager can be killed in when its agents are left alone.
const AIMS: [Phase; 7] =
    [Phase::Asked, Phase::Stored, Phase::Confirmed, Phase::Launched, Phase::Pending, Phase::Finishing, Phase::Cleaning];

impl Run {
    /// Does one kind of harm; `false` when there was nothing to harm.
    pub async fn stroke(&self, kind: Trouble) -> Result<bool> {
        match kind {
            Trouble::ManagerKill => self.kill_manager().await.map(|()| true),
            Trouble::ManagerTerm => self.replace_manager(true).await.map(|()| true),
            Trouble::ReplicaKill => self.replace_manager(false).await.map(|()| true),
            Trouble::AgentKill => self.kill_in_pod(false).await,
            Trouble::ShimKill => self.kill_in_pod(true).await,
            Trouble::CoordinatorKill => self.kill_coordinator(self.chance(|dice| dice.time(NOBODY))).await.map(|()| true),
            Trouble::GitlabAway => self.gitlab_away().await.map(|()| true),
            Trouble::GitlabFaults => self.gitlab_faults().await.map(|()| true),
            Trouble::Cancel => self.cancel().await,
            Trouble::ApiAway => self.api_away().await.map(|()| true),
            Trouble::Partition => self.partition().await.map(|()| true),
        }
    }

    async fn kill_manager(&self) -> Result<()> {
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace * 2))).await;
        if self.chance(|dice| dice.one_in(2)) {
            let told = self.plan.kinds().iter().any(|kind| matches!(kind, Trouble::AgentKill | Trouble::ShimKill));
            let aims: Vec<_> = AIMS.into_iter().chain(told.then_some(Phase::Telling)).collect();
            let rarest = self.book().rarest(&aims);
            if let Some(phase) = rarest {
                self.await_phase(phase).await;
                tokio::time::sleep(self.chance(|dice| dice.time(JITTER))).await;
            }
        }
        let mut managers = self.managers.lock().await;
        managers.now.kill().await?;
        self.note_what_was_hit().await?;
        if self.chance(|dice| dice.one_in(8)) {
            tokio::time::sleep(self.chance(|dice| dice.time(NOBODY))).await;
        }
        managers.now.start_again()
    }

    async fn await_phase(&self, phase: Phase) {
        match phase {
            Phase::Asked => drop(self.gitlab.passed("handed").await),
            Phase::Confirmed => drop(self.gitlab.passed("confirmed").await),
            Phase::Finishing => drop(self.gitlab.passed("ended").await),
            other => drop(self.cluster.comes(other, PHASE).await),
        }
    }

    async fn note_what_was_hit(&self) -> Result<()> {
        self.learn().await;
        let known = self.book().at_gitlab();
        match self.cluster.phases(&known).await {
            Ok(hit) => self.book().killed(&hit),
            // The API may be away, too.
            Err(error) => eprintln!("what the kill hit could not be seen: {error:#}"),
        }
        Ok(())
    }

    /// Starts another manager under an id of its own, then ends the one before: politely, or not.
    async fn replace_manager(&self, politely: bool) -> Result<()> {
        // An update comes to a manager that has as many jobs as it may.
        let begun = Instant::now();
        while (self.book().running() as u64) * 10 < self.plan.running * 9 && begun.elapsed() < FILLING {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace * 2))).await;
        let mut managers = self.managers.lock().await;
        managers.started += 1;
        let directory = self.directory.join(format!("manager-{}", managers.started));
        let mut next = managers.now.twin(&directory)?;
        let begun = Instant::now();
        while !next.log().contains("manager started") {
            ensure!(begun.elapsed() < COMING_UP && !next.has_ended(), "the next manager did not start: {}", next.log());
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace))).await;
        let mut last = std::mem::replace(&mut managers.now, next);
        drop(managers);
        let running = self.book().running();
        self.most("jobs under way at a change of managers, at most", running as f64);
        if politely {
            let begun = Instant::now();
            let ended = last.stop().await;
            let took = begun.elapsed();
            if !ended || took > ENDING {
                self.book().report.other += 1;
                self.book().problem(format!("a manager ended after {:.1} s, well: {ended}", took.as_secs_f64()));
            }
            self.most("slowest end of a manager (s)", took.as_secs_f64());
        } else {
            last.kill().await?;
            self.note_what_was_hit().await?;
        }
        self.read_log(&last.log());
        Ok(())
    }

    /// Kills the agent of some running pod, or what its containers hang on.
    async fn kill_in_pod(&self, below: bool) -> Result<bool> {
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace * 2))).await;
        self.learn().await;
        let known = self.book().at_gitlab();
        let running = self.cluster.held().await?.into_iter().filter(|(job, held)| {
            let at = known.get(job).copied().unwrap_or_default();
            super::phase::of(at, held.plan.as_ref(), held.pod.as_ref()) == Some(Phase::Running)
        });
        let running: Vec<_> = running.collect();
        let Some((job, held)) = self.chance(|dice| dice.pick(&running).map(|(job, held)| (*job, held))) else { return Ok(false) };
        let uid = held.pod.as_ref().and_then(|pod| pod.metadata.uid.clone()).unwrap_or_default();
        let victim = match (below, self.target.name) {
            (false, _) => processes::agent_of_pod(&uid, "run"),
            (true, "node") => processes::agent_of_pod(&uid, "serve"),
            (true, _) => {
                let shim = processes::agent_of_pod(&uid, "run").and_then(processes::parent);
                shim.filter(|pid| processes::name(*pid).starts_with("containerd-shim"))
            }
        };
        let Some(pid) = victim else { return Ok(false) };
        self.book().hurt(job);
        // It may have ended by itself in this moment.
        Ok(processes::signal(pid, Signal::KILL).is_ok())
    }

    async fn kill_coordinator(&self, away: Duration) -> Result<()> {
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace * 2))).await;
        self.gitlab.kill().await?;
        tokio::time::sleep(away).await;
        self.gitlab.start_again().await
    }

    async fn gitlab_away(&self) -> Result<()> {
        let manners = [
            None,
            Some(Manners::Error),
            Some(Manners::Busy),
            Some(Manners::BusyWithoutTime),
            Some(Manners::Slow),
            Some(Manners::Silent),
            Some(Manners::AnswersLost),
        ];
        let chosen = self.turn("gitlab", manners.len());
        match manners[chosen] {
            None => self.kill_coordinator(self.outage()).await?,
            Some(manners) => {
                self.gitlab.behave(manners).await?;
                tokio::time::sleep(self.outage()).await;
                self.gitlab.behave(Manners::Good).await?;
            }
        }
        let how = manners[chosen].map_or_else(|| "Refuses".to_owned(), |manners| format!("{manners:?}"));
        self.book().struck(format!("of these, GitLab: {how}"));
        self.heal().await;
        Ok(())
    }

    /// Has requests fail by chance, and cancels a job meanwhile if that is among the kinds of trouble.
    async fn gitlab_faults(&self) -> Result<()> {
        let seed = self.chance(|dice| dice.between(0, u64::MAX - 1));
        self.gitlab.behave(Manners::Flaky { one_in: FAULT, seed }).await?;
        let before = self.chance(|dice| dice.time(self.outage()));
        tokio::time::sleep(before).await;
        if self.plan.kinds().contains(&Trouble::Cancel) && self.cancel().await? {
            self.book().struck("of these, canceled while requests failed".to_owned());
        }
        tokio::time::sleep(self.outage().saturating_sub(before)).await;
        self.gitlab.behave(Manners::Good).await?;
        self.heal().await;
        Ok(())
    }

    /// Cancels a job that waits or runs; `false` when none is to be had, or it ended first.
    async fn cancel(&self) -> Result<bool> {
        tokio::time::sleep(self.chance(|dice| dice.time(self.pace * 2))).await;
        let open = self.open_jobs().await?;
        // As many that run as that wait, of which there are more.
        let running = self.chance(|dice| dice.one_in(2));
        let of_kind: Vec<_> = open.iter().filter(|view| (view.status == "running") == running).collect();
        let Some(job) = self.chance(|dice| dice.pick(&of_kind).copied()) else { return Ok(false) };
        self.book().cancel(job.id, true);
        self.gitlab.cancel(job.id).await?;
        let after = self.gitlab.jobs(job.pipeline).await?;
        let canceled = after.iter().any(|view| view.id == job.id && view.status.starts_with("cancel"));
        self.book().cancel(job.id, canceled);
        Ok(canceled)
    }

    async fn api_away(&self) -> Result<()> {
        let ways = if self.target.name == "cluster" { 3 } else { 2 };
        let how = match self.turn("api", ways) {
            0 => self.shut(Door::Refuses).await,
            1 => self.shut(Door::Hangs).await,
            _ => {
                crate::play::restart("apiserver", u32::try_from(self.plan.outage).unwrap_or(u32::MAX)).await?;
                "Stopped"
            }
        };
        self.book().struck(format!("of these, API: {how}"));
        self.heal().await;
        Ok(())
    }

    async fn shut(&self, door: Door) -> &'static str {
        self.proxy.set(door);
        tokio::time::sleep(self.outage()).await;
        self.proxy.set(Door::Open);
        if door == Door::Refuses { "Refuses" } else { "Hangs" }
    }

    /// Drops what pods send to GitLab; managers reach it by the loopback device.
    async fn partition(&self) -> Result<()> {
        let rule = format!(
            "table inet {TABLE} {{ chain shut {{ type filter hook input priority -300; policy accept;\n\
             iifname != \"lo\" tcp dport {} drop\n}}\n}}\n",
            self.target.port
        );
        nft(&rule).await?;
        tokio::time::sleep(self.outage()).await;
        nft(&format!("delete table inet {TABLE}")).await?;
        self.heal().await;
        Ok(())
    }

    /// Ends whatever outage there is.
    pub async fn end_trouble(&self) {
        self.proxy.set(Door::Open);
        // There is no table unless a partition was interrupted.
        let _ = nft(&format!("delete table inet {TABLE}")).await;
    }

    fn outage(&self) -> Duration {
        Duration::from_secs(self.plan.outage)
    }

    /// Between two outages, time in which all works.
    async fn heal(&self) {
        tokio::time::sleep(self.outage() / 2).await;
    }
}

/// Has nft obey.
async fn nft(script: &str) -> Result<()> {
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("failed to start nft")?;
    let mut input = child.stdin.take().context("nft has no input")?;
    input.write_all(script.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
