//! `gantry verify`.

use crate::bench::Bench;

const GOOD: &str = "glrt-good567890";
const BAD: &str = "glrt-badd567890";

#[test]
fn a_probe_without_any_environment_finds_the_words_that_it_looks_for() {
    let bench = Bench::start(&[GOOD, "old-token-1234"]);
    bench.write(&[bench.entry("one", GOOD), bench.entry("two", "old-token-1234")].concat());
    let ended = bench.gantry(&["verify"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let expected =
        "Verifying runner... is valid runner=good5678 name=\"one\"\nVerifying runner... is alive runner=old-toke name=\"two\"\n";
    assert_eq!(ended.out, expected);
    let [(call, body), (_, other)] = &bench.calls()[..] else { panic!("one call for each") };
    assert_eq!(call, "POST runners/verify");
    let system_id = std::fs::read_to_string(bench.directory.path().join(".runner_system_id")).unwrap();
    assert!(body["system_id"] == system_id.as_str() && other["system_id"] == system_id.as_str(), "{body}");
    assert_eq!(body["info"]["features"]["cancel_gracefully"], true, "the server keeps what it is told last");
}

#[test]
fn a_runner_that_gitlab_does_not_know_fails_the_command_and_stays_in_the_file() {
    let bench = Bench::start(&[GOOD]);
    let text = [bench.entry("one", BAD), bench.entry("two", GOOD), bench.entry("three", "old-token-1234")].concat();
    bench.write(&text);
    let ended = bench.gantry(&["verify"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), "gantry: Failed to verify runners\n"));
    let words: Vec<_> = ended.out.lines().filter_map(|line| line.split(" runner=").next()).collect();
    assert_eq!(words, ["Verifying runner... is not valid", "Verifying runner... is valid", "Verifying runner... is removed"]);
    assert_eq!(bench.text(), text);
    assert!(![ended.out, ended.err].concat().contains(BAD), "no token is told");
}

#[test]
fn selectors_narrow_what_is_asked_for_and_one_that_means_nothing_is_an_error() {
    let bench = Bench::start(&[GOOD]);
    bench.write(&[bench.entry("one", BAD), bench.entry("two", GOOD)].concat());
    for arguments in [["--name", "two"], ["--token", GOOD]] {
        assert_eq!(bench.gantry(&[&["verify"], &arguments[..]].concat()).code, Some(0), "{arguments:?}");
    }
    assert_eq!(bench.calls().len(), 2);
    assert_eq!(bench.gantry(&["verify", "--url", &bench.url]).code, Some(1));
    let ended = bench.gantry(&["verify", "--name", "two", "--token", BAD]);
    let expected = format!("gantry: {}: no runner has this name, token and URL\n", bench.config().display());
    assert_eq!((ended.code, ended.err), (Some(2), expected));
    // What a registration is told by the environment says nothing here.
    let mut command = bench.command(&["verify", "-n", "two"]);
    let output = command.env("CI_SERVER_TOKEN", BAD).env("CI_SERVER_URL", "http://127.0.0.1:9").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn delete_takes_away_what_gitlab_does_not_know_and_nothing_else() {
    let bench = Bench::start(&[GOOD]);
    let head = "# ours\nconcurrent = 4\n";
    let kept = bench.entry("two", GOOD);
    bench.write(&[head, &bench.entry("one", BAD), &kept, &bench.entry("three", "old-token-1234")].concat());
    let ended = bench.gantry(&["verify", "--delete"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.ends_with(&format!("Updated {}\n", bench.config().display())), "{}", ended.out);
    assert_eq!(bench.text(), [head, &kept].concat());
    assert_eq!(bench.gantry(&["verify"]).code, Some(0));
}

#[test]
fn a_broken_server_never_removes_runners() {
    let bench = Bench::start(&[]);
    let text = bench.entry("one", BAD);
    bench.write(&text);
    for fault in [Some(404), Some(401), Some(501), Some(409)] {
        bench.known.lock().unwrap().fault = fault;
        let ended = bench.gantry(&["verify", "--delete"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let said = "Verifying runner... failed runner=badd5678 name=\"one\": POST runners/verify: status ";
        assert!(ended.out.starts_with(said), "{ended:?}");
    }
    bench.write(&text.replace(&bench.url, "http://127.0.0.1:9"));
    let ended = bench.gantry(&["verify", "--delete"]);
    assert!(ended.code == Some(0) && ended.out.contains("failed") && !ended.out.contains("is "), "{ended:?}");
    assert_eq!(bench.text().replace("http://127.0.0.1:9", &bench.url), text);
}
