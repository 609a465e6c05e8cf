//! Scheduler, kubelet and what befalls pods: each pod gets a story when it is made.
//!
//! States are told a little later than they are true. A node that is lost tells nothing; its pods are marked after
//! Kubernetes' five minutes, and gone when somebody takes the node away.

use crate::agent::{Agent, Message};
use crate::dice::{chance, millis, seconds};
use crate::world::World;
use agent_contract::{Plan, Verdict, names};
use base64::Engine;
use fastrand::Rng;
use futures::StreamExt;
use kube_server::{DeleteOptions, Kind, Selectors, WatchEvent, WatchFrom};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "default";
const STARTED: &str = "2026-01-01T00:00:00Z";
/// After this a pod of a node that is not heard of is marked (Kubernetes' own toleration).
const UNREACHABLE: Duration = Duration::from_secs(300);

/// What befalls a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    Unschedulable,
    NotPulled,
    DoesNotStart,
    EvictedBefore,
    LostBefore,
    DeletedBefore,
    Evicted,
    OutOfMemory,
    AgentKilled,
    Deleted,
    Lost { alive: bool },
}

/// What others want of a pod.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    grace: Option<Duration>,
    gone: bool,
}

/// Plays the cluster for as long as it is polled.
pub async fn run(world: World) {
    let events = world.store().watch(Kind::Pod, Some(NAMESPACE), Selectors::default(), WatchFrom::Now);
    let Ok(mut events) = events else { return world.violated("the kubelet cannot watch".to_owned()) };
    let mut wishes: BTreeMap<String, watch::Sender<Wish>> = BTreeMap::new();
    while let Some(Ok(event)) = events.next().await {
        let object = event.object();
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, uid) = (text("/metadata/name"), text("/metadata/uid"));
        match &event {
            WatchEvent::Added(_) => {
                world.log(|| format!("pod {name} is there"));
                let (sender, receiver) = watch::channel(Wish::default());
                wishes.insert(uid.clone(), sender);
                let rng = world.next_dice(&format!("pod {name}"));
                tokio::spawn(Life { world: world.clone(), name, uid, wish: receiver, rng }.live());
            }
            WatchEvent::Modified(_) => {
                let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64().map(Duration::from_secs);
                if let (Some(grace), Some(wish)) = (grace, wishes.get(&uid)) {
                    wish.send_if_modified(|wish| wish.grace.replace(grace) != Some(grace));
                }
            }
            WatchEvent::Deleted(_) => {
                world.log(|| format!("pod {name} is gone"));
                if let Some(wish) = wishes.remove(&uid) {
                    wish.send_modify(|wish| wish.gone = true);
                }
            }
        }
    }
}

/// One pod.
struct Life {
    world: World,
    name: String,
    uid: String,
    wish: watch::Receiver<Wish>,
    rng: Rng,
}

impl Life {
    async fn live(mut self) {
        let fate = self.fate();
        self.world.log(|| format!("pod {} will be {fate:?}", self.name));
        let came_up = tokio::select! {
            biased;
            () = until(self.wish.clone(), |wish| wish.gone || wish.grace.is_some()) => None,
            plan = self.before(fate) => Some(plan),
        };
        match came_up {
            None => {
                let dead = fate == Fate::LostBefore && self.world.is_faulty();
                let by = if dead { seconds(&mut self.rng, 60, 900) } else { millis(&mut self.rng, 50, 1500) };
                self.sleep(by).await;
                self.remove();
            }
            Some(plan) => self.run(fate, plan).await,
        }
    }

    fn fate(&mut self) -> Fate {
        if !self.world.is_faulty() || !chance(&mut self.rng, self.world.schedule().pods) {
            return Fate::Fine;
        }
        let all = [
            Fate::Unschedulable,
            Fate::NotPulled,
            Fate::DoesNotStart,
            Fate::EvictedBefore,
            Fate::LostBefore,
            Fate::DeletedBefore,
            Fate::Evicted,
            Fate::OutOfMemory,
            Fate::AgentKilled,
            Fate::Deleted,
            Fate::Lost { alive: false },
            Fate::Lost { alive: true },
        ];
        all[self.rng.usize(0..all.len())]
    }

    /// Up to the start of its containers, if it comes to that.
    async fn before(&mut self, fate: Fate) -> Plan {
        let wait = millis(&mut self.rng, 20, 3000);
        self.sleep(wait).await;
        if fate == Fate::Unschedulable {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"});
            self.change(|pod| pod["status"]["conditions"] = json!([condition]));
            let wait = seconds(&mut self.rng, 10, 400);
            self.sleep(wait).await;
        }
        self.change(|pod| {
            pod["spec"]["nodeName"] = json!("node-1");
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        });
        let wait = millis(&mut self.rng, 50, 30_000);
        self.sleep(wait).await;
        match fate {
            Fate::NotPulled => {
                let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}});
                self.change(|pod| set_containers(pod, &json!({"waiting": {"reason": "PodInitializing"}}), &waiting));
            }
            Fate::DoesNotStart => {
                let waiting = json!({"waiting": {"reason": "CreateContainerError", "message": "no such device"}});
                self.change(|pod| set_containers(pod, &json!({"waiting": {"reason": "PodInitializing"}}), &waiting));
            }
            Fate::EvictedBefore => self.evict(),
            Fate::DeletedBefore => self.delete("by hand", false),
            Fate::LostBefore => {
                self.sleep(UNREACHABLE).await;
                self.delete("its node", true);
            }
            _ => return self.plan().await,
        }
        std::future::pending().await
    }

    /// The containers run.
    async fn run(mut self, fate: Fate, plan: Plan) {
        let message = Message::default();
        let Some(agent) = Agent::new(&self.world, &self.name, plan, message.clone()) else {
            return self.world.violated(format!("the plan of {} is of no job", self.name));
        };
        let term = CancellationToken::new();
        let agent = agent.run(term.clone());
        tokio::pin!(agent);
        let (told, strikes) = (millis(&mut self.rng, 20, 1000), millis(&mut self.rng, 100, 400_000));
        let told = tokio::time::sleep(told);
        let strike = tokio::time::sleep(strikes);
        tokio::pin!(told, strike);
        let (mut is_told, mut struck, mut kill_at) = (false, false, None);
        let mut lost = None;
        let strikes = matches!(fate, Fate::Evicted | Fate::OutOfMemory | Fate::AgentKilled | Fate::Deleted | Fate::Lost { .. });
        let end = loop {
            let kill = async {
                match kill_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = until(self.wish.clone(), |wish| wish.gone), if lost.is_none() => return,
                () = &mut told, if !is_told && lost.is_none() => {
                    is_told = true;
                    self.change(|pod| {
                        pod["status"]["phase"] = json!("Running");
                        let running = json!({"running": {"startedAt": STARTED}});
                        set_containers(pod, &running, &running);
                    });
                }
                () = until(self.wish.clone(), |wish| wish.grace.is_some()), if kill_at.is_none() && lost.is_none() => {
                    term.cancel();
                    let grace = self.wish.borrow().grace.unwrap_or_default();
                    kill_at = Some(tokio::time::Instant::now() + grace);
                }
                () = kill => break "killed",
                verdict = &mut agent => break if verdict.is_some() { "ended" } else { "stopped" },
                () = &mut strike, if strikes && !struck => {
                    struck = true;
                    self.world.log(|| format!("pod {} is struck: {fate:?}", self.name));
                    match fate {
                        Fate::Deleted => self.delete("by hand", false),
                        Fate::Lost { alive } => {
                            lost = Some(alive);
                            if !alive { break "lost" }
                            tokio::spawn(take_away(self.world.clone(), self.name.clone(), self.uid.clone(), self.rng.fork()));
                        }
                        Fate::Evicted => break "evicted",
                        Fate::OutOfMemory => break "out of memory",
                        _ => break "agent killed",
                    }
                }
            }
        };
        if lost == Some(true) {
            // Its last word stays on a node that nobody hears.
            return;
        }
        let verdict = message.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.after(end, verdict).await;
    }

    /// From the end of the agent to the end of the pod.
    async fn after(mut self, end: &'static str, verdict: Option<Verdict>) {
        self.world.log(|| format!("pod {} agent is over: {end}", self.name));
        if end == "lost" {
            return take_away(self.world.clone(), self.name.clone(), self.uid.clone(), self.rng.fork()).await;
        }
        if let (Some(verdict), "ended", None) = (&verdict, end, self.wish.borrow().grace)
            && let Some(note) = self.world.notes().agents.get_mut(&self.name)
        {
            note.ended = Some(verdict.state.clone());
        }
        let wait = millis(&mut self.rng, 20, 1000);
        self.sleep(wait).await;
        if end == "evicted" {
            self.evict();
        } else {
            let succeeded = end == "ended" && verdict.as_ref().is_some_and(|verdict| verdict.state == "success");
            let helper =
                ended(if end == "killed" { 137 } else { i32::from(!succeeded) }, verdict.map(|verdict| verdict.to_message()), "");
            let helper = if matches!(end, "out of memory" | "agent killed") {
                let reason = if end == "out of memory" { "OOMKilled" } else { "Error" };
                let mut killed = helper;
                (killed["terminated"]["exitCode"], killed["terminated"]["reason"]) = (json!(137), json!(reason));
                killed
            } else {
                helper
            };
            let running = json!({"running": {"startedAt": STARTED}});
            self.change(|pod| set_containers(pod, &helper, &running));
            let wait = millis(&mut self.rng, 10, 500);
            self.sleep(wait).await;
            self.change(|pod| {
                set_containers(pod, &helper, &ended(i32::from(!succeeded), None, ""));
                pod["status"]["phase"] = json!(if succeeded { "Succeeded" } else { "Failed" });
            });
        }
        until(self.wish.clone(), |wish| wish.gone || wish.grace.is_some()).await;
        let wait = millis(&mut self.rng, 20, 800);
        self.sleep(wait).await;
        self.remove();
    }

    /// The plan, as soon as it is there: a kubelet waits for what a volume needs.
    async fn plan(&self) -> Plan {
        loop {
            if let Some(plan) = self.mounted() {
                return plan;
            }
            self.sleep(Duration::from_secs(2)).await;
        }
    }

    fn mounted(&self) -> Option<Plan> {
        let first = self.name.split("-project-5-").collect::<Vec<_>>();
        let first = format!("{}-project-5-{}", first.first()?, first.get(1)?.split('-').next()?);
        let secret = self.world.store().get(Kind::Secret, NAMESPACE, &names::plan_secret(&first, 0)).ok()?;
        let text = secret["data"][names::plan_key(0)].as_str()?;
        Plan::from_parts(&[base64::engine::general_purpose::STANDARD.decode(text).ok()?]).ok()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn evict(&self) {
        self.change(|pod| {
            pod["status"]["phase"] = json!("Failed");
            pod["status"]["reason"] = json!("Evicted");
            pod["status"]["message"] = json!("the node was low on memory");
        });
    }

    fn delete(&self, by: &str, disrupted: bool) {
        delete(&self.world, (&self.name, &self.uid), by, disrupted);
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        change_pod(&self.world, (&self.name, &self.uid), change);
    }

    fn remove(&self) {
        self.world.store().remove(Kind::Pod, NAMESPACE, &self.name, &self.uid);
    }
}

/// A pod of a node that is gone: marked after a while, and removed later.
async fn take_away(world: World, name: String, uid: String, mut rng: Rng) {
    tokio::time::sleep(UNREACHABLE).await;
    delete(&world, (&name, &uid), "its node", true);
    tokio::time::sleep(seconds(&mut rng, 30, 1200)).await;
    change_pod(&world, (&name, &uid), |pod| pod["status"]["phase"] = json!("Failed"));
    world.store().remove(Kind::Pod, NAMESPACE, &name, &uid);
}

fn delete(world: &World, (name, uid): (&str, &str), by: &str, disrupted: bool) {
    world.log(|| format!("pod {name} is deleted by {by}"));
    if disrupted {
        change_pod(world, (name, uid), |pod| {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "the node is not reachable"});
            pod["status"]["conditions"] = json!([condition]);
        });
    }
    let options = DeleteOptions { uid: Some(uid.to_owned()), ..DeleteOptions::default() };
    // One that is gone already is as good.
    drop(world.store().delete(Kind::Pod, NAMESPACE, name, &options));
}

fn change_pod(world: &World, (name, uid): (&str, &str), change: impl FnOnce(&mut Value)) {
    let changed = world.store().update(Kind::Pod, NAMESPACE, name, |pod| {
        if pod["metadata"]["uid"] == uid {
            change(pod);
        }
        Ok(())
    });
    // One that is gone tells nothing any more.
    drop(changed);
}

/// Comes back when `condition` holds; never when nobody wants anything any more.
async fn until(mut wish: watch::Receiver<Wish>, condition: impl FnMut(&Wish) -> bool) {
    let holds = wish.wait_for(condition).await.is_ok();
    if !holds {
        std::future::pending::<()>().await;
    }
}

fn set_containers(pod: &mut Value, helper: &Value, build: &Value) {
    let container = |name: &str, state: &Value| json!({"name": name, "image": "alpine", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    pod["status"]["containerStatuses"] =
        json!([container(names::HELPER_CONTAINER, helper), container(names::BUILD_CONTAINER, build)]);
}

fn ended(code: i32, message: Option<String>, reason: &str) -> Value {
    let mut state = json!({"terminated": {"exitCode": code, "startedAt": STARTED}});
    if let Some(message) = message {
        state["terminated"]["message"] = json!(message);
    }
    if !reason.is_empty() {
        state["terminated"]["reason"] = json!(reason);
    }
    state
}
