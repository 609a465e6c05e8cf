//! What is read from a file, and what is said about it.

use runner_config::parse;

const GOOD: &str = r#"
concurrent = 10
[[runners]]
name = "one"
url = "https://gitlab.example"
token = "glrt-abcdefghijkl"
executor = "kubernetes"
environment = ["A=b"]
[runners.kubernetes]
namespace = "ci"
pull_policy = "if-not-present"
memory_limit = "1Gi"
[runners.kubernetes.node_selector]
arch = "amd64"
"#;

#[test]
fn an_ordinary_file_is_read_without_a_word() {
    let parsed = parse(GOOD).unwrap();
    let runner = &parsed.config.runners[0];
    assert_eq!(parsed.warnings, []);
    assert_eq!((parsed.config.concurrent(), runner.short_token()), (10, "abcdefgh"));
    assert_eq!(runner.kubernetes.pull_policy, ["if-not-present"]);
    assert_eq!(runner.kubernetes.node_selector["arch"], "amd64");
}

#[test]
fn how_gitlab_is_asked_is_read_with_the_names_of_gitlab_runner() {
    let text = GOOD.replace("name =", "request_concurrency = 4\ntls-ca-file = \"/etc/ca.pem\"\nname =");
    let parsed = parse(&text).unwrap();
    let runner = &parsed.config.runners[0];
    assert_eq!((runner.request_concurrency, runner.tls_ca_file.as_str(), parsed.warnings.len()), (4, "/etc/ca.pem", 0));
}

#[test]
fn limits_of_a_job_are_read_as_go_reads_them() {
    for (written, read) in [("\"5m\"", "5m"), ("300000000000", "300000000000ns")] {
        let keys = format!("job_status_final_update_retry_limit = 20\nget_sources_timeout = {written}\nname =");
        let parsed = parse(&GOOD.replace("name =", &keys)).unwrap();
        let runner = &parsed.config.runners[0];
        assert_eq!((runner.job_status_final_update_retry_limit, runner.get_sources_timeout.as_str()), (20, read));
        assert_eq!(parsed.warnings, []);
    }
}

#[test]
fn the_namespaces_of_all_runners_are_told_once_each() {
    let more = GOOD.replace("concurrent = 10", "").replace("namespace = \"ci\"", "");
    let parsed = parse(&format!("{GOOD}{}{}", more, GOOD.replace("concurrent = 10", ""))).unwrap();
    assert_eq!(parsed.config.namespaces().into_iter().collect::<Vec<_>>(), ["ci", "default"]);
}

#[test]
fn keys_count_in_any_case_and_the_known_spelling_before_others() {
    let other = GOOD.replace("concurrent", "Concurrent").replace("[[runners]]", "[[Runners]]").replace("[runners.", "[Runners.");
    let other = other.replace("url =", "URL =").replace("kubernetes.node_selector", "Kubernetes.Node_Selector");
    let other = other.replace("[Runners.kubernetes]", "[Runners.Kubernetes]").replace("memory_limit", "Memory_Limit");
    let parsed = parse(&other).unwrap();
    assert_eq!((&parsed.config, parsed.warnings.len()), (&parse(GOOD).unwrap().config, 0), "{other}");
    // Names that a user gives are no keys.
    let named = GOOD.replace("arch = \"amd64\"", "Arch = \"amd64\"\nLimit = \"x\"");
    let selector = &parse(&named).unwrap().config.runners[0].kubernetes.node_selector;
    assert_eq!((selector["Arch"].as_str(), selector["Limit"].as_str()), ("amd64", "x"));
    let both = parse(&GOOD.replace("concurrent = 10", "CONCURRENT = 4\nconcurrent = 10")).unwrap();
    assert_eq!((both.config.concurrent(), both.warnings.len()), (10, 1));
    let wrong = parse(&GOOD.replace("concurrent = 10", "Concurrent = \"many\"")).unwrap_err().to_string();
    assert!(wrong.contains("expected u32") && !wrong.contains("many"), "{wrong}");
    let unknown = parse(&other.replace("namespace =", "Helper_Image_Flavor = \"alpine\"\nnamespace =")).unwrap().warnings;
    let told: Vec<_> = unknown.iter().map(|one| (one.line, one.message.as_str())).collect();
    assert_eq!(told, [(10, "runners.kubernetes.helper_image_flavor is not supported by gantry yet and has no effect")]);
}

#[test]
fn keys_that_are_not_read_are_told_apart() {
    let text = GOOD.replace("memory_limit", "helper_image_flavor = \"alpine\"\nmemory_limt");
    let warnings = parse(&text).unwrap().warnings;
    let told: Vec<_> = warnings.iter().map(|one| (one.line, one.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (12, "runners.kubernetes.helper_image_flavor is not supported by gantry yet and has no effect"),
            (13, "runners.kubernetes.memory_limt is not a key of config.toml; did you mean runners.kubernetes.memory_limit?"),
        ]
    );
}

#[test]
fn the_table_of_another_executor_is_no_mistake() {
    let warnings = parse(&format!("{GOOD}[runners.docker]\nimage = \"x\"\n")).unwrap().warnings;
    assert_eq!(warnings[0].message, "runners.docker is not supported by gantry yet and has no effect");
}

#[test]
fn all_mistakes_of_a_file_come_at_once() {
    let text = GOOD
        .replace("token = \"glrt-abcdefghijkl\"", "")
        .replace("\"kubernetes\"", "\"docker\"")
        .replace("if-not-present", "sometimes");
    let told = parse(&text).unwrap_err().to_string();
    for part in ["token is missing", "executor \"docker\" is not supported", "unknown pull_policy \"sometimes\""] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn a_wrong_type_names_its_line() {
    let problems = parse("concurrent = 1\nlog_level = 5\n").unwrap_err();
    assert_eq!(problems.0[0].line, 2, "{problems}");
    assert_eq!(parse("concurrent = [").unwrap_err().0[0].line, 1);
}

#[test]
fn no_value_of_the_file_stands_in_a_message() {
    let text = GOOD.replace("name = \"one\"", "id = \"glrt-in-the-wrong-place\"");
    let told = parse(&text).unwrap_err().to_string();
    assert!(told.starts_with("line 4: invalid type: string") && !told.contains("wrong-place"), "{told}");
    let told = parse(&GOOD.replace("A=b", "hunter22")).unwrap_err().to_string();
    assert!(told.contains("entry 1 of environment") && !told.contains("hunter22"), "{told}");
}

#[test]
fn a_table_of_our_own_is_no_mistake() {
    let parsed =
        parse(&format!("{GOOD}[runners.kubernetes.gantry]\nmask_encodings = false\nresource_report = false\nx = 1\n")).unwrap();
    let [warning] = &parsed.warnings[..] else { panic!("{:?}", parsed.warnings) };
    assert!(warning.message.contains("x has no effect: gantry has no such option"), "{warning:?}");
    let gantry = &parsed.config.runners[0].kubernetes.gantry;
    assert_eq!((gantry.mask_encodings, gantry.resource_report), (Some(false), Some(false)));
}

#[test]
fn limits_are_shared_only_where_the_file_says_so() {
    let text = "[[runners]]\nurl = \"http://g\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n";
    assert!(!runner_config::parse(text).unwrap().config.gantry.shared_limits);
    let shared = runner_config::parse(&format!("[gantry]\nshared_limits = true\n{text}")).unwrap();
    assert!(shared.config.gantry.shared_limits && shared.warnings.is_empty());
}
