//! `gantry register` and `gantry unregister`.

use crate::bench::{Bench, Ended};
use std::os::unix::fs::PermissionsExt;

const TOKEN: &str = "glrt-good567890";

fn parsed(bench: &Bench) -> runner_config::Config {
    runner_config::parse(&bench.text()).unwrap().config
}

#[test]
fn a_runner_that_was_made_in_gitlab_is_looked_up_and_written_down() {
    let bench = Bench::start(&["glrt-other", TOKEN]);
    bench.write(&["# ours\nconcurrent = 4\n", &bench.entry("one", "glrt-other")].concat());
    let before = bench.text();
    let arguments =
        ["register", "--non-interactive", "--url", &bench.url, "--token", TOKEN, "--name", "two", "--executor", "kubernetes"];
    let keys = [
        "--kubernetes-image",
        "alpine",
        "--kubernetes-node-selector",
        "a:b",
        "--env",
        "A=b",
        "--env",
        "C=d",
        "--kubernetes-privileged",
    ];
    let ended = bench.gantry(&[&arguments[..], &keys].concat());
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.starts_with("Runner registered successfully"), "{}", ended.out);
    assert!(bench.text().starts_with(&before), "what was there stays");
    let config = parsed(&bench);
    let runner = &config.runners[1];
    assert_eq!((config.concurrent, runner.name.as_str(), runner.token.as_str(), runner.id), (4, "two", TOKEN, 2));
    assert_eq!(
        (runner.environment.as_slice(), runner.kubernetes.image.as_str()),
        (&["A=b".to_owned(), "C=d".to_owned()][..], "alpine")
    );
    assert!(runner.kubernetes.privileged && runner.kubernetes.node_selector["a"] == "b");
    assert!(!runner.token_obtained_at.is_empty() && runner.token_expires_at.is_empty());
    let calls = bench.calls();
    assert_eq!((calls.len(), calls[0].0.as_str()), (1, "POST runners/verify"));
    assert_eq!(bench.gantry(&["verify", "--name", "two"]).code, Some(0));
}

#[test]
fn variables_and_a_template_say_what_the_command_line_does_not() {
    let bench = Bench::start(&[TOKEN]);
    let template = bench.directory.path().join("template.toml");
    let text = "[[runners]]\nname = 'no'\ntoken = 'no'\nlimit = 7\nenvironment = ['X=y']\n[runners.kubernetes]\nnamespace = 'tpl'\nimage = 'tpl'\n\
                [runners.kubernetes.node_selector]\na = 'tpl'\nz = 'tpl'\n";
    std::fs::write(&template, text).unwrap();
    let mut command = bench.command(&["register", "--kubernetes-node-selector", "a=said"]);
    command.env("CONFIG_FILE", bench.directory.path().join("new/config.toml"));
    command
        .env("CI_SERVER_URL", &bench.url)
        .env("CI_SERVER_TOKEN", TOKEN)
        .env("RUNNER_NAME", "chart")
        .env("TEMPLATE_CONFIG_FILE", template);
    // A chart sets what it does not know to nothing.
    command.env("KUBERNETES_IMAGE", "said").env("KUBERNETES_CPU_LIMIT", "").env("REGISTER_LOCKED", "").env("RUNNER_TAG_LIST", "");
    let ended = Ended::of(&command.output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let made = bench.directory.path().join("new");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&made), mode(&made.join("config.toml"))), (0o700, 0o600));
    let runner =
        runner_config::parse(&std::fs::read_to_string(made.join("config.toml")).unwrap()).unwrap().config.runners.remove(0);
    assert_eq!(
        (runner.name.as_str(), runner.token.as_str(), runner.limit, runner.executor.as_str()),
        ("chart", TOKEN, 7, "kubernetes")
    );
    let kubernetes = &runner.kubernetes;
    assert_eq!((kubernetes.namespace.as_str(), kubernetes.image.as_str(), kubernetes.cpu_limit.as_str()), ("tpl", "said", ""));
    assert_eq!((kubernetes.node_selector["a"].as_str(), kubernetes.node_selector["z"].as_str()), ("said", "tpl"));
}

#[test]
fn what_cannot_work_is_told_before_gitlab_is_asked_and_changes_nothing() {
    let bench = Bench::start(&[TOKEN]);
    bench.write("concurrent = 4\n");
    let url = bench.url.clone();
    let good = ["register", "--url", &url, "--token", TOKEN];
    for (arguments, sentence) in [
        (vec!["register", "--url", &url], "The token needs to be entered"),
        (vec!["register", "--token", TOKEN], "The url needs to be entered"),
        ([&good[..], &["--executor", "docker"]].concat(), "executor \"docker\" is not supported"),
        ([&good[..], &["--tag-list", "a,b"]].concat(), "--tag-list was given, which only a registration token can say"),
        ([&good[..], &["--locked=false"]].concat(), "--locked was given"),
        ([&good[..], &["--limit", "many"]].concat(), "--limit: a number is expected"),
        ([&good[..], &["--template-config", "/nowhere"]].concat(), "failed to read /nowhere"),
        ([&good[..], &["--kubernetes-pull-policy", "often"]].concat(), "unknown pull_policy"),
    ] {
        let ended = bench.gantry(&arguments);
        assert!(ended.code == Some(2) && ended.err.contains(sentence), "{arguments:?} {ended:?}");
    }
    assert!(bench.calls().is_empty());
    let ended = bench.gantry(&["register", "--url", &bench.url, "--token", "glrt-unknown"]);
    assert!(ended.code == Some(2) && ended.err.contains("does not know this token"), "{ended:?}");
    assert_eq!(bench.text(), "concurrent = 4\n");
}

#[test]
fn what_has_no_effect_is_said() {
    let bench = Bench::start(&[TOKEN]);
    let mut arguments = vec!["register", "--url", &bench.url, "--registration-token", TOKEN, "--tag-list", "a", "--paused"];
    arguments.extend(["--kubernetes-runtime-class-name", "gvisor"]);
    let ended = bench.gantry(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("--tag-list, --paused has no effect"), "{}", ended.err);
    assert!(
        ended.err.contains("runners.kubernetes.runtime_class_name is not supported by gantry yet and has no effect"),
        "{}",
        ended.err
    );
    assert!(bench.text().contains("runtime_class_name = \"gvisor\""), "GitLab Runner reads it");
}

#[test]
fn with_a_registration_token_a_runner_is_made_and_taken_away_again() {
    let bench = Bench::start(&["registration"]);
    let mut arguments =
        vec!["register", "--url", &bench.url, "--registration-token", "registration", "--name", "one", "--tag-list", "a,b"];
    arguments.extend(["--locked=false", "--maximum-timeout", "600"]);
    let ended = bench.gantry(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (call, body) = bench.calls().remove(0);
    assert_eq!(call, "POST runners");
    assert_eq!((&body["description"], &body["tag_list"], &body["maximum_timeout"]), (&"one".into(), &"a,b".into(), &600.into()));
    assert_eq!((&body["run_untagged"], &body["locked"], &body["paused"]), (&false.into(), &false.into(), &false.into()));
    let runner = parsed(&bench).runners.remove(0);
    assert_eq!((runner.id, runner.token.as_str()), (77, "made-token-77"));
    assert_eq!(bench.gantry(&["unregister", "--name", "one"]).code, Some(0));
    assert!(!bench.text().contains("[[runners]]"), "{}", bench.text());
    assert_eq!(bench.calls().last().unwrap().0, "DELETE runners");
}

#[test]
fn runners_are_taken_away_at_gitlab_first_and_those_that_are_not_stay_in_the_file() {
    let bench = Bench::start(&[TOKEN, "old-token-1234"]);
    let refused = bench.entry("two", "glrt-gone");
    bench.write(&[bench.entry("one", TOKEN), refused.clone(), bench.entry("three", "old-token-1234")].concat());
    let ended = bench.gantry(&["unregister", "--all-runners"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("runner=gone name=\"two\": DELETE runners/managers: the token is not accepted"), "{}", ended.err);
    assert_eq!(bench.text(), refused);
    let calls: Vec<_> = bench.calls().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls, ["DELETE runners/managers", "DELETE runners/managers", "DELETE runners"]);
    let system_id = std::fs::read_to_string(bench.directory.path().join(".runner_system_id")).unwrap();
    assert_eq!(bench.calls()[0].1["system_id"], system_id.as_str());
    assert_eq!(bench.gantry(&["unregister"]).code, Some(2));
    assert_eq!(bench.gantry(&["unregister", "--name", "nobody"]).code, Some(2));
}

#[test]
fn one_runner_is_taken_away_by_its_token_whether_the_file_has_it_or_not() {
    let bench = Bench::start(&[TOKEN, "glrt-elsewhere"]);
    let kept = bench.entry("two", "glrt-kept");
    bench.write(&[bench.entry("one", TOKEN), kept.clone()].concat());
    for token in [TOKEN, "glrt-elsewhere"] {
        let mut command = bench.command(&["unregister"]);
        let output = command.env("CI_SERVER_TOKEN", token).env("CI_SERVER_URL", &bench.url).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{:?}", Ended::of(&output));
        assert_eq!(bench.text(), kept);
    }
    assert!(bench.known.lock().unwrap().tokens.is_empty());
}

#[test]
fn where_no_runner_is_left_none_has_to_be_taken_away() {
    let bench = Bench::start(&[TOKEN]);
    let all = || bench.gantry(&["unregister", "--all-runners"]).code;
    assert_eq!(all(), Some(0), "there is no file");
    bench.write(&["concurrent = 2\n", &bench.entry("one", TOKEN)].concat());
    assert_eq!((all(), bench.text().as_str()), (Some(0), "concurrent = 2\n"));
    assert_eq!(all(), Some(0));
    assert_eq!(bench.calls().len(), 1);
    bench.write("[[runners]]\ntoken = hunter2\n");
    let ended = bench.gantry(&["unregister", "--all-runners"]);
    assert!(ended.code == Some(2) && !ended.err.contains("hunter2"), "{ended:?}");
}
