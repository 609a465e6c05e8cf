//! A Kubernetes API or a GitLab that is away for a while, or not what it should be.
//!
//! The long outages run in virtual time: the clock jumps to the next timer whenever nothing else is to be done.

use crate::bench::faults::State;
use crate::bench::gitlab::Trouble;
use crate::bench::line::Line;
use crate::bench::{Bench, ended, payload, reported, running, until};
use kube_server::Kind;
use serde_json::json;
use std::time::Duration;

const FIVE_MINUTES: Duration = Duration::from_secs(300);
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

#[tokio::test]
async fn a_job_is_not_declared_dead_while_the_api_is_away() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.set_api_away(true);
    // Whoever watches is cut off, and finds an API that answers nothing but errors.
    let before = bench.calls().len();
    until("a few tries", || bench.calls().len() > before + 3).await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    bench.set_status(&name, reported());
    bench.set_api_away(false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert!(job.last().is_none() && !job.text().contains("ERROR"), "{}", job.text());
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_starts_while_the_api_is_away_asks_for_no_job_until_it_is_back() {
    let bench = Bench::start().await;
    bench.set_api_away(true);
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    until("a few tries", || bench.calls().len() > 3).await;
    assert_eq!(bench.gitlab.requests().len(), 0);
    bench.set_api_away(false);
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_stored_is_not_confirmed_and_none_is_asked_for_meanwhile() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "");
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    bench.set_api_away(true);
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    until("the manager to give up", || bench.calls().iter().any(|call| call.contains("/secrets?") && call.contains("limit=1")))
        .await;
    assert_eq!((bench.gitlab.job(7).updates.len(), bench.gitlab.requests().len()), (0, 1));
    bench.set_api_away(false);
    let name = bench.wait_for_pod(8).await;
    assert_eq!(bench.names(Kind::Pod), [name]);
    manager.stop().await;
}

#[tokio::test]
async fn a_pod_that_left_our_watch_with_its_label_is_left_alone() {
    let bench = Bench::start().await;
    let manager = bench.manager(1, "");
    bench.gitlab.offer(payload(7));
    bench.gitlab.offer(payload(8));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    let adopted = bench.store.update(Kind::Pod, "default", &name, |pod| {
        pod["metadata"]["labels"]["gantry.dev/owner"] = "s_other".into();
        Ok(())
    });
    adopted.unwrap();
    // With room for one job, the second one's pod shows that the first is nobody's business here.
    bench.wait_for_pod(8).await;
    manager.stop().await;
    assert_eq!((bench.names(Kind::Pod).len(), bench.gitlab.job(7).finals()), (2, 0));
}

#[tokio::test]
async fn a_pod_that_went_away_unseen_is_asked_for_and_then_told() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    let watching = |call: &String| call.contains("watch=true") && call.contains("/pods");
    until("the watch", || bench.calls().iter().any(watching)).await;
    bench.set_api_away(true);
    bench.end_pod(&name);
    bench.set_api_away(false);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.text().matches("was deleted while the job ran").count(), job.finals()), (1, 1), "{}", job.text());
    manager.stop().await;
}

/// A job that waits for its pod, one that runs, and one that ends meanwhile.
async fn three_jobs(bench: &Bench) -> [String; 3] {
    for id in 1..=3 {
        bench.gitlab.offer(payload(id));
    }
    let names = [bench.wait_for_pod(1).await, bench.wait_for_pod(2).await, bench.wait_for_pod(3).await];
    bench.set_status(&names[1], running());
    bench.set_status(&names[2], running());
    until("all steps", || bench.all(Kind::Secret).matches("launched").count() == 3).await;
    names
}

#[tokio::test(start_paused = true)]
async fn five_minutes_without_the_api_cost_no_job_and_no_second_pod() {
    let silent = (State::Silent, FIVE_MINUTES);
    for (state, time) in [(State::Away, FIVE_MINUTES), (State::Busy(20), FIVE_MINUTES), silent] {
        let bench = Bench::start().await;
        let manager = bench.manager(3, "");
        let names = three_jobs(&bench).await;
        let before = bench.calls().len();
        bench.api.set(state);
        bench.api.cut_streams();
        bench.set_status(&names[2], reported());
        tokio::time::sleep(time).await;
        let asked = bench.calls().len() - before;
        println!("{state:?}: {asked} calls in {} s", time.as_secs());
        assert!(asked < 150, "{asked} calls hammer an API that is in trouble");
        assert!((1..=3).all(|id| bench.gitlab.job(id).finals() == 0), "{state:?}");
        bench.api.set(State::Well);
        until("the end of the third", || bench.names(Kind::Pod).len() == 2).await;
        assert_eq!(bench.names(Kind::Pod), names[..2]);
        for name in &names[..2] {
            bench.set_status(name, running());
            bench.set_status(name, reported());
        }
        bench.wait_for_nothing().await;
        assert!((1..=3).all(|id| !bench.gitlab.job(id).text().contains("ERROR") && bench.gitlab.job(id).finals() == 0));
        manager.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_takes_ten_seconds_for_each_answer_is_slow_and_nothing_else() {
    let bench = Bench::start().await;
    let manager = bench.manager(2, "");
    until("the first question", || !bench.gitlab.requests().is_empty()).await;
    bench.api.set(State::Slow(Duration::from_secs(10)));
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.set_status(&name, running());
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    assert_eq!(bench.gitlab.job(7).last(), None);
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_drop_or_are_too_old_and_lists_that_are_not_whole_kill_no_job() {
    let bench = Bench::start().await;
    let manager = bench.manager(3, "poll_timeout = 6000");
    let names = three_jobs(&bench).await;
    for round in 0..20 {
        match round % 4 {
            0 => bench.api.expire(3),
            1 => bench.api.forget_at_next_list("pods"),
            2 => bench.api.break_lists(2),
            _ => {}
        }
        if round % 4 > 0 {
            bench.api.expire(1);
        }
        bench.api.cut_streams();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!((1..=3).all(|id| bench.gitlab.job(id).finals() == 0), "round {round}");
        assert_eq!(bench.names(Kind::Pod), names, "round {round}");
    }
    for name in &names {
        bench.set_status(name, running());
        bench.set_status(name, reported());
    }
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_list_that_lacks_everything_at_the_start_ends_no_job() {
    for resource in ["pods", "secrets"] {
        let bench = Bench::start().await;
        let manager = bench.manager(2, "");
        bench.gitlab.offer(payload(7));
        let name = bench.wait_for_pod(7).await;
        bench.set_status(&name, running());
        until("the step", || bench.all(Kind::Secret).contains("launched")).await;
        manager.kill().await;
        until("no question", || bench.gitlab.open_requests() == 0).await;
        bench.api.forget_at_next_list(resource);
        let manager = bench.manager(2, "");
        until("a question", || bench.gitlab.open_requests() == 1).await;
        bench.gitlab.offer(payload(8));
        let other = bench.wait_for_pod(8).await;
        bench.set_status(&other, reported());
        until("the end of the other", || !bench.names(Kind::Pod).contains(&other)).await;
        let pod = bench.store.get(Kind::Pod, "default", &name).unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{resource}");
        assert_eq!(bench.gitlab.job(7).finals(), 0, "{resource}");
        manager.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn half_an_hour_without_gitlab_costs_no_verdict_that_only_the_manager_has() {
    let broken = |status: u16, retry_after| Trouble { status: Some(status), retry_after, ..Trouble::default() };
    let troubles = [broken(500, None), broken(503, None), broken(429, Some(30)), broken(429, None)];
    for trouble in troubles {
        let bench = Bench::start().await;
        let manager = bench.manager(3, "");
        let names = three_jobs(&bench).await;
        bench.gitlab.set_trouble(Some(trouble));
        bench.end_pod(&names[2]);
        bench.set_status(&names[0], running());
        tokio::time::sleep(HALF_AN_HOUR).await;
        let calls = bench.gitlab.troubled();
        println!("{trouble:?}: {calls} calls in {} s", HALF_AN_HOUR.as_secs());
        assert!(calls < 1500, "{calls} calls hammer a GitLab that is in trouble");
        assert_eq!(bench.names(Kind::Pod), names[..2]);
        bench.gitlab.set_trouble(None);
        after_gitlab_was_away(&bench, &names).await;
        manager.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_to_gitlab_that_is_cut_or_dead_is_the_same() {
    for line in [Line::Down, Line::HalfClosed] {
        let bench = Bench::start().await;
        let manager = bench.manager(3, "");
        let names = three_jobs(&bench).await;
        bench.gitlab.set_line(line);
        bench.end_pod(&names[2]);
        bench.set_status(&names[0], running());
        tokio::time::sleep(HALF_AN_HOUR).await;
        assert_eq!(bench.names(Kind::Pod), names[..2]);
        bench.gitlab.set_line(Line::Whole);
        after_gitlab_was_away(&bench, &names).await;
        manager.stop().await;
    }
}

/// The third job's end is told once, the others go on, and there are new ones.
async fn after_gitlab_was_away(bench: &Bench, names: &[String; 3]) {
    until("the report", || bench.gitlab.job(3).finals() == 1).await;
    assert_eq!(bench.gitlab.job(3).text().matches("ERROR").count(), 1, "{}", bench.gitlab.job(3).text());
    bench.set_status(&names[0], reported());
    let unreported = ended(&json!({"state": "success", "reported": false, "trace_bytes": 9}));
    bench.set_status(&names[1], unreported);
    bench.gitlab.offer(payload(4));
    let fourth = bench.wait_for_pod(4).await;
    bench.set_status(&fourth, reported());
    bench.wait_for_nothing().await;
    let last = |id| bench.gitlab.job(id).last().map(|last| last.state);
    assert_eq!((last(1), last(2).as_deref(), last(4)), (None, Some("success"), None));
}

#[tokio::test(start_paused = true)]
async fn a_gitlab_that_takes_ten_seconds_for_each_answer_is_slow_and_nothing_else() {
    let bench = Bench::start().await;
    bench.gitlab.set_trouble(Some(Trouble { after: Duration::from_secs(10), ..Trouble::default() }));
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    let job = bench.gitlab.job(7);
    assert_eq!((job.finals(), job.text().matches("ERROR").count()), (1, 1), "{}", job.text());
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_be_confirmed_for_a_while_is_confirmed_or_forgotten_and_never_run_unconfirmed() {
    for (minutes, comes) in [(1, true), (30, false)] {
        let bench = Bench::start().await;
        let manager = bench.manager(1, "");
        until("the question", || bench.gitlab.open_requests() == 1).await;
        bench.gitlab.with_job(7, |job| job.refuse_updates = true);
        bench.gitlab.offer(payload(7));
        until("the plan", || bench.names(Kind::Secret).len() == 1).await;
        tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
        assert_eq!(bench.names(Kind::Pod).len(), 0);
        bench.gitlab.with_job(7, |job| job.refuse_updates = false);
        if comes {
            let name = bench.wait_for_pod(7).await;
            bench.set_status(&name, reported());
        }
        bench.wait_for_nothing().await;
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_stop_takes_seconds_whatever_is_away() {
    for (api, line) in [(State::Away, Line::Whole), (State::Silent, Line::HalfClosed), (State::Well, Line::HalfClosed)] {
        let bench = Bench::start().await;
        let manager = bench.manager(3, "");
        let names = three_jobs(&bench).await;
        bench.gitlab.set_line(line);
        bench.api.set(api);
        bench.end_pod(&names[2]);
        bench.set_status(&names[0], reported());
        tokio::time::sleep(Duration::from_millis(200)).await;
        manager.stop().await;
        // The next one cannot even look, and stops as fast.
        let manager = bench.manager(3, "");
        tokio::time::sleep(Duration::from_millis(200)).await;
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_ten_minutes_off_changes_nothing() {
    for year in [2020, 2099] {
        let bench = Bench::start().await;
        let manager = bench.manager(2, "");
        bench.gitlab.offer(payload(7));
        let name = bench.wait_for_pod(7).await;
        let at = format!("{year}-01-01T00:00:00Z");
        bench.set_status(&name, serde_json::from_str(&running().to_string().replace("2026-01-01T00:00:00Z", &at)).unwrap());
        bench.mark_deleted(&name, "EvictionByEvictionAPI", "Eviction API: evicting");
        // A second job from end to end: by now the first one's mark was seen.
        bench.gitlab.offer(payload(8));
        let second = bench.wait_for_pod(8).await;
        bench.set_status(&second, reported());
        until("the end of the second", || bench.names(Kind::Pod).len() == 1).await;
        assert_eq!(bench.gitlab.job(7).finals(), 0, "its agent has 30 s by our clock");
        bench.set_status(&name, reported());
        bench.end_pod(&name);
        bench.wait_for_nothing().await;
        assert_eq!(bench.gitlab.job(7).finals(), 0);
        manager.stop().await;
    }
}

#[tokio::test]
async fn pods_of_gitlab_runner_in_the_same_namespace_are_left_alone() {
    let bench = Bench::start().await;
    let theirs = "runner-secretru-project-5-concurrent-0-abcdefgh";
    let labels = json!({"pod": theirs, "manager.runner.gitlab.com/id-short": "secretru", "job.runner.gitlab.com/pod": theirs});
    let containers = json!([{"name": "build", "image": "x"}, {"name": "helper", "image": "x"}]);
    let pod = json!({"metadata": {"name": theirs, "labels": labels}, "spec": {"containers": containers}});
    bench.store.create(Kind::Pod, "default", pod).unwrap();
    let manager = bench.manager(2, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    until("the step", || bench.all(Kind::Secret).contains("launched")).await;
    manager.kill().await;
    let manager = bench.manager(2, "");
    bench.end_pod(&name);
    bench.wait_for_nothing().await;
    manager.stop().await;
    assert!(bench.store.get(Kind::Pod, "default", theirs).is_ok());
    assert!(!bench.calls().iter().any(|call| call.contains(theirs)), "nobody even asked for it");
}
