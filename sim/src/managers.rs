//! The shipped managers: started, killed at any instant, stopped in order, started again.
//!
//! A kill takes effect between two steps of the runtime: what was sent may still arrive, and nothing is sent any more.

use crate::dice::{chance, millis, seconds};
use crate::world::World;
use crate::{api, door};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A replica dies so often at most: each start costs as much as a job.
const MOST: u32 = 10;
/// A manager that is asked to end does so in this time.
const STOPPING: Duration = Duration::from_secs(5);

/// One replica: a manager after the other under one system id, until `done`.
pub async fn replica(world: World, index: u32, done: CancellationToken) {
    let schedule = world.schedule();
    let rng = &mut world.dice(&format!("replica {index}"));
    let first = millis(rng, 1, 5000);
    tokio::time::sleep(first).await;
    for generation in 1.. {
        let who = format!("m{index}.{generation}");
        world.log(|| format!("{who} starts"));
        let stop = CancellationToken::new();
        let mut running = tokio::spawn(manager::run(options(&world, &who, index, stop.clone())));
        let life =
            schedule.kills.filter(|_| generation <= MOST && world.is_faulty()).map(|most| millis(rng, 10, as_millis(most)));
        let end = async {
            match life {
                Some(life) => tokio::time::sleep(life).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = &mut running => {
                return world.violated(format!("stop: {who} ended by itself: {ended:?}"));
            }
            () = done.cancelled() => return finish(&world, &who, stop, running).await,
            () = end => {}
        }
        if chance(rng, schedule.graceful) {
            world.log(|| format!("{who} is told to stop"));
            stop.cancel();
            if tokio::time::timeout(STOPPING, &mut running).await.is_err() {
                world.violated(format!("stop: {who} did not stop in time"));
            }
        }
        if !running.is_finished() {
            world.log(|| format!("{who} is killed"));
            running.abort();
            drop(running.await);
        }
        world.notes().ended.insert(who);
        if index >= schedule.replicas - schedule.left_dead {
            return;
        }
        let down = if chance(rng, 0.8) { millis(rng, 1, 20_000) } else { seconds(rng, 20, 400) };
        tokio::time::sleep(down).await;
    }
}

async fn finish(world: &World, who: &str, stop: CancellationToken, running: tokio::task::JoinHandle<Result<(), manager::Error>>) {
    stop.cancel();
    match tokio::time::timeout(STOPPING, running).await {
        Ok(Ok(Ok(()))) => {}
        other => world.violated(format!("stop: {who} did not stop in time: {other:?}")),
    }
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn options(world: &World, who: &str, index: u32, stop: CancellationToken) -> manager::Options {
    let mut runner = runner_config::Runner {
        name: "one".to_owned(),
        url: "http://gitlab".to_owned(),
        token: "glrt-secretrunnertoken".to_owned(),
        ..runner_config::Runner::default()
    };
    runner.kubernetes.image = "alpine".to_owned();
    let config = runner_config::Config {
        concurrent: world.schedule().concurrent,
        check_interval: 1,
        runners: vec![runner],
        ..runner_config::Config::default()
    };
    let (of_gitlab, name) = (world.clone(), who.to_owned());
    manager::Options {
        config,
        changes: None,
        clusters: manager::Clusters::one("sim", api::client(world, who)),
        system_id: format!("s_sim{index}"),
        helper_image: "gantry-helper".to_owned(),
        version: "1.2.3".to_owned(),
        connect: manager::Connect::by(move |config| door::client(&of_gitlab, &name, config)),
        stop,
    }
}
