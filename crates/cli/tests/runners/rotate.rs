//! Tokens that end.

use crate::bench::Bench;
use cli::reload::{Hangups, Watched, watch};
use cli::rotate::Rotation;
use gitlab_client::{Client, ClientConfig, Service};
use jiff::Timestamp;
use manager::Connect;
use rustix::thread::set_thread_uid;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const OLD: &str = "glrt-oldd567890";
const NEW: &str = "glrt-oldd567890-1";
const ENDS_SOON: &str = "  token_expires_at = 2001-01-01T00:00:00Z # soon\n";
const DISABLED: &str = "  [runners.feature_flags]\n    FF_DISABLE_AUTOMATIC_TOKEN_ROTATION = true\n";

fn config(bench: &Bench) -> runner_config::Config {
    runner_config::parse(&bench.text()).unwrap().config
}

fn rotation(bench: &Bench) -> Rotation {
    Rotation::new(bench.config(), "s_test".to_owned(), Connect::default())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn resets(bench: &Bench) -> usize {
    bench.calls().iter().filter(|(call, _)| call == "POST runners/reset_authentication_token").count()
}

#[test]
fn a_token_that_is_due_is_replaced_in_the_file_and_the_manager_hears_of_it() {
    let bench = Bench::start(&[OLD, "glrt-stay567890"]);
    let head = "# ours\nconcurrent = 4\n";
    let cluster = "  [runners.kubernetes]\n    host = \"http://127.0.0.1:9\"\n";
    let other = [bench.entry("two", "glrt-stay567890"), cluster.to_owned()].concat();
    bench.write(&[head, &bench.entry("one", OLD), ENDS_SOON, cluster, &other].concat());
    let (watched, _) = Watched::open(&bench.config()).unwrap();
    let change = wait(async {
        let (sender, mut changes) = tokio::sync::mpsc::channel(1);
        let connections = cli::connection::Connections::default();
        tokio::spawn(watch(watched, connections, Hangups::new().unwrap(), rotation(&bench), sender));
        tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.expect("a change in time").unwrap()
    });
    let tokens: Vec<_> = change.config.runners.iter().map(|runner| runner.token.as_str()).collect();
    assert_eq!(tokens, [NEW, "glrt-stay567890"]);
    let text = bench.text();
    let [before, after] = [bench.entry("one", OLD), bench.entry("one", NEW)];
    let obtained = &change.config.runners[0].token_obtained_at;
    let ends = "  token_expires_at = 2100-01-01T00:00:00.123Z # soon\n";
    let after = after.replace(&format!("{NEW}\"\n"), &format!("{NEW}\"\n  token_obtained_at = {obtained}\n"));
    assert_eq!(text, [head, &after, ends, cluster, &other].concat(), "{before}");
    assert!(obtained.parse::<Timestamp>().unwrap().duration_until(Timestamp::now()).as_secs() < 60);
    assert_eq!(resets(&bench), 1);
    wait(rotation(&bench).turn(&change.config, Timestamp::now()));
    assert_eq!(resets(&bench), 1, "the new token has its life before it");
}

#[test]
fn a_token_that_cannot_be_written_down_is_never_replaced() {
    let bench = Bench::start(&[OLD]);
    let text = [&bench.entry("one", OLD), ENDS_SOON].concat();
    bench.write(&text);
    let directory = bench.directory.path();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o555)).unwrap();
    let config = config(&bench);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Root may write everywhere. Only this thread becomes nobody; for whoever is not root nothing has to change.
            let _ = set_thread_uid(rustix::process::Uid::from_raw(65534));
            wait(rotation(&bench).turn(&config, Timestamp::now()));
        });
    });
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!((bench.calls().len(), bench.text()), (0, text));
    wait(rotation(&bench).turn(&config, Timestamp::now()));
    assert_eq!(resets(&bench), 1, "where it can be written it is replaced");
}

#[test]
fn of_several_managers_with_one_file_one_replaces_the_token() {
    let bench = Bench::start(&[OLD]);
    bench.write(&[&bench.entry("one", OLD), ENDS_SOON].concat());
    let config = config(&bench);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (bench, config) = (&bench, &config);
            scope.spawn(move || wait(rotation(bench).turn(config, Timestamp::now())));
        }
    });
    assert_eq!((resets(&bench), self::config(&bench).runners[0].token.as_str()), (1, NEW));
}

#[test]
fn a_token_that_ends_later_or_is_looked_after_by_others_is_left_alone() {
    let bench = Bench::start(&[OLD]);
    let one = bench.entry("one", OLD);
    for keys in ["", "  token_expires_at = 0001-01-01T00:00:00Z\n", &[ENDS_SOON, DISABLED].concat()] {
        let text = [&one, keys].concat();
        bench.write(&text);
        wait(rotation(&bench).turn(&config(&bench), Timestamp::now()));
        assert_eq!((bench.calls().len(), bench.text()), (0, text));
    }
}

#[test]
fn a_gitlab_that_refuses_is_asked_again_after_a_minute_and_then_ever_more_rarely() {
    let bench = Bench::start(&[]);
    let text = [&bench.entry("one", OLD), ENDS_SOON].concat();
    bench.write(&text);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let connect = Connect::by(move |config: &ClientConfig| {
        let counted = counted.clone();
        let refusal = move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, io::Error>(http::Response::builder().status(403).body(gitlab_client::Body::default()).unwrap()) }
        };
        Client::over(config, Service::new(refusal))
    });
    let mut rotation = Rotation::new(bench.config(), "s_test".to_owned(), connect);
    let config = config(&bench);
    let mut now = Timestamp::now();
    for (minutes, expected) in [(0, 1), (1, 2), (1, 2), (1, 3), (3, 3), (1, 4), (1000, 5), (1000, 6), (1000, 7), (59, 7), (1, 8)]
    {
        now += Duration::from_secs(60 * minutes);
        wait(rotation.turn(&config, now));
        assert_eq!(asked.load(Ordering::Relaxed), expected, "after {minutes} min more");
    }
    assert_eq!(bench.text(), text);
}
