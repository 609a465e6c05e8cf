//! `gantry reset-token`.

use crate::bench::Bench;

const FIRST: &str = "glrt-frst567890";
const SECOND: &str = "glrt-scnd567890";

#[test]
fn a_token_is_reset_by_its_runner_or_by_a_person_and_written_down() {
    let bench = Bench::start(&[FIRST, SECOND]);
    let second = [&bench.entry("two", SECOND), "  id = 2\n"].concat();
    bench.write(&["concurrent = 4\n", &bench.entry("one", FIRST), &second].concat());
    let ended = bench.gantry(&["reset-token", "--name", "one"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert_eq!(ended.out, "Resetting runner token... succeeded runner=frst5678 name=\"one\"\n");
    let tokens = || {
        let runners = runner_config::parse(&bench.text()).unwrap().config.runners;
        runners.into_iter().map(|runner| runner.token).collect::<Vec<_>>()
    };
    assert_eq!(tokens(), [&format!("{FIRST}-1"), SECOND]);
    assert_eq!(bench.gantry(&["reset-token", "--id", "2", "--pat", "a-person"]).code, Some(0));
    assert_eq!(tokens(), [&format!("{FIRST}-1"), "glrt-by-a-person"]);
    let calls: Vec<_> = bench.calls().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls, ["POST runners/reset_authentication_token", "POST runners/2/reset_authentication_token"]);
    assert_eq!(bench.gantry(&["verify", "--name", "one"]).code, Some(0));
}

#[test]
fn a_runner_whose_token_is_not_reset_keeps_it_and_the_others_get_theirs() {
    let bench = Bench::start(&[SECOND]);
    bench.write(&[bench.entry("one", FIRST), bench.entry("two", SECOND)].concat());
    let ended = bench.gantry(&["reset-token", "--all-runners"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("gantry: Resetting runner token... failed runner=frst5678 name=\"one\": "), "{}", ended.err);
    assert!(bench.text().starts_with(&bench.entry("one", FIRST)) && bench.text().contains(&format!("{SECOND}-1")));
    for arguments in [&["reset-token"][..], &["reset-token", "--name", "three"]] {
        assert_eq!(bench.gantry(arguments).code, Some(2), "{arguments:?}");
    }
    let ended = bench.gantry(&["reset-token", "--name", "two", "--pat", "a-person"]);
    assert!(ended.code == Some(1) && ended.err.contains("the entry has no id"), "{ended:?}");
}
