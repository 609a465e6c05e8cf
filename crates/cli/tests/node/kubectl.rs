//! kubectl, as people use it, while a job runs.

use crate::bench::{Bench, PATIENCE, Program, skip, wait_for};
use crate::gitlab::GitLab;
use std::process::{Command, Output, Stdio};

impl Bench {
    /// kubectl of this node, given up after a while.
    fn kubectl(&self, args: &[&str]) -> Command {
        self.patiently("kubectl", args)
    }

    fn patiently(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(program).args(args).stdin(Stdio::null());
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.directory.path()).current_dir(self.directory.path());
        command
    }

    /// What kubectl prints when it succeeds.
    fn shows(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).output().unwrap();
        let text = both(&output);
        assert!(output.status.success(), "kubectl {args:?}: {text}");
        text
    }
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn is_here() -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_here = found.is_ok_and(|status| status.success());
    if !is_here {
        skip("kubectl is not installed");
    }
    is_here
}

fn has_line(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| words.iter().all(|word| line.split_whitespace().any(|one| one == *word)))
}

#[test]
fn kubectl_shows_a_job_that_runs() {
    if !is_here() {
        return;
    }
    let Some(bench) = Bench::start() else { return };
    let gitlab = GitLab::start(&bench, "");
    let _manager = gitlab.manager("manager.log");
    let watching = Program::start(bench.kubectl(&["get", "pods", "-w"]), &bench.path("watch.log"));
    let job = gitlab.job(&format!("echo begun\n{}", gitlab.gate()));
    gitlab.prints(job, "begun");
    let (pod, _) = bench.only_pod();
    assert!(has_line(&bench.shows(&["get", "pods"]), &[&pod, "Running"]));
    let wide = bench.shows(&["get", "pods", "-A", "-o", "wide"]);
    assert!(has_line(&wide, &["default", &pod, "Running"]) && wide.contains("NODE"), "{wide}");
    let described = bench.shows(&["describe", "pod", &pod]);
    let places: Vec<_> =
        ["Scheduled", "Pulled", "Created", "Started"].map(|reason| described.find(&format!("Normal  {reason}"))).into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{described}");
    let id = bench.shows(&["exec", &pod, "-c", "build", "--", "sh", "-c", "echo to $((40 + 2)); cat /proc/1/comm"]);
    assert!(id.contains("to 42") && id.contains("gantry-agent"), "{id}");
    let failed = bench.kubectl(&["exec", &pod, "-c", "build", "--", "sh", "-c", "exit 5"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(5), "{}", both(&failed));
    let typed = format!(
        "stty rows 33 cols 99; exec kubectl exec -it {pod} -c build -- sh -c 'until stty size | grep -v ^0; do sleep 0.1; done; tty'"
    );
    // The size comes after the start, as with a real kubelet.
    let terminal = both(&bench.patiently("script", &["-qec", &typed, "/dev/null"]).output().unwrap());
    assert!(terminal.contains("33 99") && terminal.contains("/dev/pts/"), "{terminal}");
    let _open = gitlab.open_gate();
    gitlab.ends(job);
    bench.is_clean();
    wait_for("the end of the pod in the watch", || {
        let seen = watching.output();
        (has_line(&seen, &[&pod, "Running"]) && has_line(&seen, &[&pod, "Completed"])).then_some(())
    });
}

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
    "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [{"name": "build", "image": "host",
        "command": ["bash", "-c", "trap 'echo told; exit 0' TERM; echo begun; while true; do sleep 0.1; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    "volumes": [{"name": "data", "emptyDir": {}}]}}"#;

#[test]
fn kubectl_follows_logs_copies_files_and_deletes() {
    if !is_here() {
        return;
    }
    let Some(bench) = Bench::start() else { return };
    std::fs::write(bench.path("pod.json"), POD).unwrap();
    assert_eq!(bench.shows(&["apply", "-f", "pod.json"]), "pod/p created\n");
    bench.shows(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    let mut following = Program::start(bench.kubectl(&["logs", "-f", "p"]), &bench.path("follow.log"));
    wait_for("the log", || following.output().contains("begun").then_some(()));
    std::fs::create_dir(bench.path("sent")).unwrap();
    std::fs::write(bench.path("sent/file"), "there and back\n").unwrap();
    bench.shows(&["cp", "sent", "p:/data/came"]);
    assert_eq!(bench.shows(&["exec", "p", "--", "cat", "/data/came/file"]), "there and back\n");
    bench.shows(&["cp", "p:/data/came/file", "back"]);
    assert_eq!(std::fs::read_to_string(bench.path("back")).unwrap(), "there and back\n");
    assert!(bench.shows(&["delete", "pod", "p"]).contains("deleted"));
    assert!(bench.pods().is_empty());
    assert!(following.ends_within(PATIENCE).success());
    assert_eq!(following.output(), "begun\ntold\n");
    assert!(has_line(&bench.shows(&["get", "nodes"]), &["Ready"]));
}
