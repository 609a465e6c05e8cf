//! Managers that are killed at any instant: no job is lost and none runs twice.

use crate::bench::{Bench, container, payload, pod, reported, running, until};
use gitlab_api::UpdateJob;
use kube_server::Kind;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const JOBS: u64 = 40;
const KILLS: u64 = 60;

/// Numbers that are the same at every run.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Every fourth job is one whose end the manager has to tell.
fn fails(id: u64) -> bool {
    id.is_multiple_of(4)
}

fn never_pulled() -> serde_json::Value {
    let build = container("build", json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}}));
    json!({"phase": "Failed", "containerStatuses": [build]})
}

/// Runs every pod it finds, once, as a node and an agent would; answers how often each job ran.
fn node(bench: &Arc<Bench>) -> Arc<Mutex<BTreeMap<String, u32>>> {
    let runs = Arc::new(Mutex::new(BTreeMap::new()));
    let (bench, counted) = (bench.clone(), runs.clone());
    tokio::spawn(async move {
        let (mut known, mut dice) = (HashSet::new(), Dice(7));
        loop {
            for id in 1..=JOBS {
                let name = pod(id);
                let Ok(object) = bench.store.get(Kind::Pod, "default", &name) else { continue };
                if !known.insert(object["metadata"]["uid"].as_str().unwrap().to_owned()) {
                    continue;
                }
                *counted.lock().unwrap().entry(name.clone()).or_insert(0) += 1;
                if fails(id) {
                    bench.set_status(&name, never_pulled());
                    continue;
                }
                bench.set_status(&name, running());
                let (bench, lasts) = (bench.clone(), Duration::from_millis(dice.up_to(80)));
                tokio::spawn(async move {
                    tokio::time::sleep(lasts).await;
                    bench.gitlab.with_job(id, |job| {
                        job.trace.extend_from_slice(b"done\n");
                        job.updates.push(UpdateJob { state: "success".into(), ..UpdateJob::default() });
                    });
                    bench.set_status(&name, reported());
                });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    runs
}

#[tokio::test]
async fn managers_killed_at_any_instant_lose_no_job_and_run_none_twice() {
    // More of them by hand: KILL_SEEDS=100.
    let seeds = std::env::var("KILL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        println!("seed {seed}");
        play(seed).await;
    }
}

async fn play(seed: u64) {
    let bench = Arc::new(Bench::start().await);
    bench.gitlab.set_trial(Duration::from_millis(200));
    let (runs, mut dice) = (node(&bench), Dice(seed));
    for id in 1..=JOBS {
        bench.gitlab.offer(payload(id));
    }
    for _ in 0..KILLS {
        let manager = bench.manager(4, "");
        tokio::time::sleep(Duration::from_millis(5 + dice.up_to(60))).await;
        manager.kill().await;
    }
    let manager = bench.manager(4, "");
    until("all jobs", || (1..=JOBS).all(|id| bench.gitlab.job(id).finals() > 0)).await;
    bench.wait_for_nothing().await;
    manager.stop().await;
    for id in 1..=JOBS {
        let job = bench.gitlab.job(id);
        let states: Vec<_> = job.updates.iter().map(|update| update.state.as_str()).filter(|state| *state != "running").collect();
        if fails(id) {
            assert_eq!(
                (states, job.text().matches("ERROR: Job failed").count()),
                (vec!["failed"], 1),
                "job {id}: {}",
                job.text()
            );
        } else {
            assert_eq!((states, job.text().as_str()), (vec!["success"], "done\n"), "job {id}");
        }
        assert_eq!(runs.lock().unwrap().get(&pod(id)), Some(&1), "job {id} ran once");
    }
}
