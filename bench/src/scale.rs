//! A manager with thousands of jobs, against a Kubernetes API without kubelets.
//!
//! The API is `kube-server` over TLS in this process; pods run because this module says so in their status, and their
//! agent is played: it brings the first line to the stand-in, and at the end the verdict into the termination message.
//! The manager is the real program with a real kubeconfig and sees a real life cycle. A runner that works through
//! `exec` or `attach` cannot be measured here: there is nothing to attach to.

use crate::process::Usage;
use crate::report::{Place, Report};
use crate::runner::{self, Contender, Running};
use crate::scenario::Scenario;
use crate::stand_in::StandIn;
use crate::svg::{Chart, Line};
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube_server::{Kind, NoBackend, Selectors, Store, WatchEvent, WatchFrom};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::percentiles::{Sample, count};

const NAMESPACE: &str = "default";
/// Goals for 1,000 running jobs.
const GOAL_JOBS: usize = 1000;
const GOAL_MEGABYTES: f64 = 256.0;
const GOAL_CORES: f64 = 0.5;
/// Longest that a start may stand still.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many jobs run.
    pub jobs: usize,
    /// How long they run while nothing happens, and how long jobs start and end afterwards.
    pub steady: Duration,
    /// Job starts a minute in the second part.
    pub starts_a_minute: u32,
}

/// The pods that are only played.
#[derive(Clone)]
struct Kubelet {
    store: Store,
    stand_in: StandIn,
    created: Arc<Mutex<HashMap<u64, (Instant, String)>>>,
}

impl Kubelet {
    fn start(store: &Store, stand_in: &StandIn) -> Result<Self> {
        let kubelet = Self { store: store.clone(), stand_in: stand_in.clone(), created: Arc::default() };
        let selectors =
            Selectors::parse("app.kubernetes.io/managed-by=gantry", "").map_err(|error| anyhow::anyhow!("{error}"))?;
        let watch = store.watch(Kind::Pod, Some(NAMESPACE), selectors, WatchFrom::Now);
        let mut watch = watch.map_err(|error| anyhow::anyhow!("{error}"))?;
        let hands = kubelet.clone();
        tokio::spawn(async move {
            while let Some(event) = watch.next().await {
                match event {
                    Ok(WatchEvent::Added(pod)) => hands.run(&pod),
                    Ok(WatchEvent::Modified(pod)) => hands.remove(&pod),
                    Ok(WatchEvent::Deleted(_)) => {}
                    Err(error) => eprintln!("the played kubelet lost its watch: {error}"),
                }
            }
        });
        Ok(kubelet)
    }

    fn run(&self, pod: &Value) {
        let Some((id, name)) = identity(pod) else { return };
        self.created.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (Instant::now(), name.clone()));
        self.set_status(&name, &status("Running", &json!({"running": {"startedAt": "2026-01-01T00:00:02Z"}})));
        self.stand_in.play_trace(id, "first-42\n");
    }

    fn remove(&self, pod: &Value) {
        if pod["metadata"]["deletionTimestamp"].is_string()
            && let (Some(name), Some(uid)) = (pod["metadata"]["name"].as_str(), pod["metadata"]["uid"].as_str())
        {
            self.store.remove(Kind::Pod, NAMESPACE, name, uid);
        }
    }

    /// The agent's last words.
    fn end(&self, id: u64) {
        self.stand_in.play_end(id);
        let Some((_, name)) = self.created.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) else { return };
        let verdict = json!({"state": "success", "reported": true, "trace_bytes": 9}).to_string();
        let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": verdict,
            "startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:09Z"}});
        self.set_status(&name, &status("Succeeded", &ended));
    }

    fn set_status(&self, pod: &str, status: &Value) {
        let written = self.store.update(Kind::Pod, NAMESPACE, pod, |object| {
            object["spec"]["nodeName"] = json!("node-1");
            object["status"] = status.clone();
            Ok(())
        });
        if let Err(error) = written {
            eprintln!("the played kubelet could not write the status of {pod}: {error}");
        }
    }

    fn count(&self) -> usize {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn created_at(&self, id: u64) -> Option<Instant> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(at, _)| *at)
    }
}

fn identity(pod: &Value) -> Option<(u64, String)> {
    let id = pod["metadata"]["labels"]["gantry.dev/job-id"].as_str()?.parse().ok()?;
    Some((id, pod["metadata"]["name"].as_str()?.to_owned()))
}

/// As long a status as a real kubelet writes.
fn status(phase: &str, state: &Value) -> Value {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:01Z"});
    let container = |name: &str| {
        json!({"name": name, "image": "docker.io/library/busybox:latest", "ready": true, "started": true, "restartCount": 0,
            "imageID": "docker.io/library/busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "containerID": "containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "lastState": {}, "state": state})
    };
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({"phase": phase, "hostIP": "10.0.0.1", "podIP": "10.244.0.7", "qosClass": "BestEffort", "startTime": "2026-01-01T00:00:01Z",
        "podIPs": [{"ip": "10.244.0.7"}], "hostIPs": [{"ip": "10.0.0.1"}],
        "conditions": conditions,
        "containerStatuses": [container("helper"), container("build")]})
}

/// Measures one program at one size.
pub async fn measure(plan: &Plan, contender: &Contender, at: &Path, report: &mut Report) -> Result<()> {
    let section = format!("{} running jobs, API without kubelets", plan.jobs);
    let place = Place { section: &section, of: &contender.name };
    eprintln!("{section}: {}", contender.name);
    let (store, stand_in) = (Store::new(), StandIn::start(0).await?);
    let kubelet = Kubelet::start(&store, &stand_in)?;
    let router = kube_server::router(store, Arc::new(NoBackend));
    let kubeconfig = at.join(format!("scale-{}.kubeconfig", plan.jobs));
    let state = at.join("scale-state");
    let serving = kube_server::tls::serve_tls(router, ([127, 0, 0, 1], 0).into(), &state, Some(&kubeconfig));
    let serving = serving.await.context("failed to serve the Kubernetes API")?;
    let values = crate::measure::values(&format!("http://127.0.0.1:{}", stand_in.port()), NAMESPACE, plan.jobs + 100);
    let running =
        runner::start(contender, &runner::Place { directory: at.to_owned(), kubeconfig, values, entries: 1 }, &stand_in).await?;
    let mut play =
        Play { plan, place, running, stand_in, kubelet, alive: VecDeque::new(), looks: Vec::new(), began: Instant::now() };
    let measured = play.all(report).await;
    report.plot(&format!("scale-{}-{}", plan.jobs, contender.name), play.chart(&contender.name));
    let log = play.running.log.clone();
    play.running.stop().await?;
    drop(serving);
    measured.with_context(|| format!("the end of the runner's log:\n{}", runner::end_of(&log)))
}

struct Play<'a> {
    plan: &'a Plan,
    place: Place<'a>,
    running: Running,
    stand_in: StandIn,
    kubelet: Kubelet,
    alive: VecDeque<u64>,
    looks: Vec<(f64, f64)>,
    began: Instant,
}

impl Play<'_> {
    async fn all(&mut self, report: &mut Report) -> Result<()> {
        let before = self.look()?;
        self.ramp(report).await?;
        self.steady(before, report).await?;
        self.churn(report).await
    }

    fn look(&mut self) -> Result<Usage> {
        let usage = self.running.usage()?;
        self.looks.push((self.began.elapsed().as_secs_f64(), usage.megabytes()));
        Ok(usage)
    }

    fn offer(&mut self, scenario: &Scenario) {
        let id = self.stand_in.offer(self.running.token(), scenario, "busybox");
        self.alive.push_back(id);
    }

    /// All jobs at once.
    async fn ramp(&mut self, report: &mut Report) -> Result<()> {
        let (scenario, began, before) = (Scenario::load("trivial", None)?, Instant::now(), self.running.usage()?);
        (0..self.plan.jobs).for_each(|_| self.offer(&scenario));
        let (mut there, mut moved) = (0, Instant::now());
        while there < self.plan.jobs {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.look()?;
            let now = self.kubelet.count();
            if now > there {
                (there, moved) = (now, Instant::now());
            }
            eprint!("\r  {there} of {} pods created", self.plan.jobs);
            if moved.elapsed() > STANDSTILL {
                bail!("no pod was created for {} s; there are {there}", STANDSTILL.as_secs());
            }
        }
        eprintln!();
        let took = began.elapsed();
        let cpu = self.running.usage()?.cpu.saturating_sub(before.cpu);
        report.add(self.place, "all handed out at once, started a minute", Some(count(there) * 60.0 / took.as_secs_f64()), "");
        report.add(self.place, "CPU of the manager per start", Some(cpu.as_secs_f64() * 1000.0 / count(there)), "ms");
        Ok(())
    }

    /// Everything runs and nothing happens.
    async fn steady(&mut self, before: Usage, report: &mut Report) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (first, began) = (self.look()?, Instant::now());
        let mut last = first;
        while began.elapsed() < self.plan.steady {
            tokio::time::sleep(Duration::from_secs(1)).await;
            last = self.look()?;
        }
        let is_goal = self.plan.jobs == GOAL_JOBS;
        let goal = |value: f64| is_goal.then_some(value);
        let growth = (last.megabytes() - before.megabytes()) / count(self.plan.jobs);
        report.add_with_goal(self.place, "RSS while they run", (Some(last.megabytes()), "MB"), goal(GOAL_MEGABYTES));
        report.add_with_goal(self.place, "RSS a job", (Some(growth), "MB"), Some(0.1));
        let cores = last.cpu.saturating_sub(first.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        report.add_with_goal(self.place, "cores while they run", (Some(cores), ""), goal(GOAL_CORES));
        report.add(self.place, "threads", Some(small(last.threads)), "");
        report.add(self.place, "file descriptors", Some(small(last.fds)), "");
        Ok(())
    }

    /// As many jobs start as end.
    async fn churn(&mut self, report: &mut Report) -> Result<()> {
        let (scenario, first, began) = (Scenario::load("trivial", None)?, self.look()?, Instant::now());
        let mut ticks = tokio::time::interval(Duration::from_secs(60) / self.plan.starts_a_minute.max(1));
        let (mut offered, mut waits) = (Vec::new(), Vec::new());
        while began.elapsed() < self.plan.steady {
            ticks.tick().await;
            if let Some(oldest) = self.alive.pop_front() {
                self.kubelet.end(oldest);
            }
            self.offer(&scenario);
            offered.extend(self.alive.back().copied());
            if offered.len().is_multiple_of(20) {
                self.look()?;
            }
        }
        let took = began.elapsed().as_secs_f64();
        let last = self.look()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut started = 0;
        for id in &offered {
            let handed_out = self.stand_in.job(*id).and_then(|job| job.handed_out);
            if let (Some(from), Some(to)) = (handed_out, self.kubelet.created_at(*id)) {
                waits.push(to.saturating_duration_since(from));
                started += 1;
            }
        }
        let plans = self.kubelet.store.list(Kind::Secret, Some(NAMESPACE), &Selectors::default()).0.len();
        let waits = Sample::of_times(waits);
        let what = format!("{} starts a minute:", self.plan.starts_a_minute);
        report.add(self.place, &format!("{what} started a minute"), Some(count(started) * 60.0 / took), "");
        for percent in [50, 90, 99] {
            let name = format!("{what} handed out → pod created, p{percent}");
            report.add(self.place, &name, waits.percentile(percent).map(|seconds| seconds * 1000.0), "ms");
        }
        let left = count(plans) - count(self.alive.len());
        report.add(self.place, &format!("{what} plans of ended jobs that were left"), Some(left), "");
        let cores = last.cpu.saturating_sub(first.cpu).as_secs_f64() / took;
        let goal = (self.plan.jobs == GOAL_JOBS).then_some(GOAL_CORES);
        report.add_with_goal(self.place, &format!("{what} cores"), (Some(cores), ""), goal);
        report.add(self.place, &format!("{what} RSS at the end"), Some(last.megabytes()), "MB");
        Ok(())
    }

    fn chart(&self, name: &str) -> Chart {
        Chart {
            title: format!("Memory of the manager, {} running jobs", self.plan.jobs),
            across: "seconds".to_owned(),
            up: "MB".to_owned(),
            lines: vec![Line { name: name.to_owned(), points: self.looks.clone() }],
        }
    }
}

fn small(number: u64) -> f64 {
    count(usize::try_from(number).unwrap_or(usize::MAX))
}
