//! What cannot work is told in one sentence, before anything else happens.

use crate::bench::{Bench, PATIENCE, Program, gantry};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

const CONFIGURATION: Option<i32> = Some(2);

const GOOD: &str = "[[runners]]\nname = \"one\"\nurl = \"http://127.0.0.1:9\"\ntoken = \"glrt-0123456789\"\n\
                    executor = \"kubernetes\"\n[runners.kubernetes]\n";

fn told(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "errors go to standard error");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `gantry run` with this configuration, where there is no cluster.
fn manager(directory: &Path, config: &str) -> Command {
    let path = directory.join("config.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = gantry();
    command.args(["run", "--config"]).arg(&path).env("HOME", directory);
    command
}

fn refused(config: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = manager(directory.path(), config).output().unwrap();
    let text = told(&output);
    assert_eq!(output.status.code(), CONFIGURATION, "{text}");
    text.replace(&directory.path().display().to_string(), "DIR")
}

#[test]
fn a_configuration_that_cannot_be_used_says_where_and_why() {
    let text = refused(&format!("{GOOD}memory_limit = \n"));
    assert!(text.starts_with("gantry: DIR/config.toml: line 7: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(refused("concurrent = 4\n"), "gantry: DIR/config.toml: there is no [[runners]] entry\n");
    let text = refused(&format!("log_level = \"loud\"\n{GOOD}"));
    assert!(text.contains("unknown log_level \"loud\""), "{text}");
    let output = gantry().args(["run", "--config", "/nonexistent/config.toml"]).output().unwrap();
    let expected = "gantry: failed to read /nonexistent/config.toml: No such file or directory (os error 2)\n";
    assert_eq!((output.status.code(), told(&output).as_str()), (CONFIGURATION, expected));
}

#[test]
fn a_misspelt_key_is_told_with_the_nearest_one() {
    let text = refused(&format!("{GOOD}memory_limt = \"1Gi\"\n"));
    let sentence = "runners.kubernetes.memory_limt is not a key of config.toml; did you mean runners.kubernetes.memory_limit?";
    assert!(text.contains(sentence) && text.contains("line=7"), "{text}");
}

#[test]
fn without_a_cluster_a_manager_says_how_to_name_one() {
    let text = refused(GOOD);
    let expected = "gantry: runner \"one\": failed to find a Kubernetes cluster: failed to read DIR/.kube/config: No such file or directory \
                    (os error 2); name its kubeconfig in KUBECONFIG (`gantry node` writes one)\n";
    assert_eq!(text, expected);
    let directory = tempfile::tempdir().unwrap();
    let damaged = directory.path().join("kubeconfig");
    std::fs::write(&damaged, "users:\n- token: secret-word\n  token: [\n").unwrap();
    for (path, why) in
        [(Path::new("/nonexistent/kubeconfig"), "failed to read /nonexistent/kubeconfig: "), (&damaged, "not valid, line ")]
    {
        // Inside a cluster it would be another one that is found.
        let mut command = manager(directory.path(), GOOD);
        let output = command.env("KUBECONFIG", path).env("KUBERNETES_SERVICE_HOST", "127.0.0.1").output().unwrap();
        let text = told(&output);
        assert!(output.status.code() == CONFIGURATION && text.contains(why), "{text}");
        assert!(!text.contains("secret-word") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn an_address_in_use_is_told_and_the_node_leaves_nothing() {
    let Some(bench) = Bench::start() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = gantry().args(["node", "--listen", &address]).output().unwrap();
    let text = told(&output);
    let expected = format!(
        "gantry: failed to serve the Kubernetes API: failed to listen on {address}: Address already in use (os error 98)"
    );
    assert_eq!((output.status.code(), text.lines().last()), (CONFIGURATION, Some(expected.as_str())), "{text}");
    assert!(bench.pods().is_empty(), "the node beside it is unharmed");
}

#[test]
fn a_node_without_root_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where the program lies may be closed to others.
    let program = directory.path().join("gantry");
    std::fs::copy(env!("CARGO_BIN_EXE_gantry"), &program).unwrap();
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.arg("node").current_dir("/").output().unwrap();
    let expected = "gantry: pods on this machine need root; run it again with sudo env \"PATH=$PATH\"\n";
    assert_eq!((output.status.code(), told(&output).as_str()), (CONFIGURATION, expected));
}

#[test]
fn a_node_ends_its_pods_when_it_is_told_to_stop() {
    let Some(mut bench) = Bench::start() else { return };
    let gitlab = crate::gitlab::GitLab::start(&bench, "");
    let mut manager: Program = gitlab.manager("manager.log");
    let job = gitlab.job("echo begun\nexec sleep 1000");
    gitlab.prints(job, "begun");
    manager.signal(Signal::KILL);
    manager.ends_within(PATIENCE);
    bench.node.signal(Signal::TERM);
    assert!(bench.node.ends_within(PATIENCE).success());
    let text = bench.node.output();
    let (_, end) = text.split_once("stopping").expect("the node says that it stops");
    assert!(!end.contains("WARN"), "{text}");
}
