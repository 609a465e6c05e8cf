//! What a pod does on this node, one behaviour per function.

use crate::bench::{Bench, container, end, phase, waiting};
use futures::{AsyncReadExt, StreamExt};
use kube::api::{AttachParams, LogParams};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub async fn a_script_succeeds_and_its_log_is_kept(bench: &Bench) {
    let (pod, log) = bench.script("hello", "echo out; echo err >&2; echo $0 $HOSTNAME", json!({})).await;
    assert_eq!(phase(&pod), "Succeeded");
    assert_eq!(end(&pod, "a"), (0, "Completed".to_owned(), String::new()));
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out", "sh hello"]);
    let one = container(&pod, "a");
    assert!(one.container_id.unwrap().starts_with("gantry://") && one.image_id.contains("sha256:"));
    assert_eq!(one.restart_count, 0);
    assert!(pod.status.unwrap().pod_ip.is_some());
}

/// A pod that sleeps, running.
pub async fn sleeping(bench: &Bench, name: &str) {
    bench.create(name, json!({"containers": [{"name": "a", "image": "host", "command": ["sleep", "600"]}]})).await;
    bench.running(name).await;
}

pub async fn the_first_byte_comes_fast(bench: &Bench) {
    let mut times = Vec::new();
    for number in 0..7 {
        let name = format!("fast-{number}");
        let start = Instant::now();
        let spec = json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", "echo first; sleep 60"]}]});
        bench.create(&name, spec).await;
        bench.running(&name).await;
        let parameters = LogParams { follow: true, ..LogParams::default() };
        let mut stream = bench.pods.log_stream(&name, &parameters).await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        times.push(start.elapsed());
        bench.delete(&name, 0).await;
        bench.gone(&name).await;
    }
    times.sort_unstable();
    println!("    pod created to first byte: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
}

pub async fn a_script_fails_with_its_exit_code_and_message(bench: &Bench) {
    let more = json!({"container.terminationMessagePolicy": "FallbackToLogsOnError"});
    let (pod, _) = bench.script("fails", "echo reason; exit 3", more).await;
    assert_eq!((phase(&pod), end(&pod, "a")), ("Failed", (3, "Error".to_owned(), "reason\n".to_owned())));
    let (pod, _) = bench.script("message", "echo done > /dev/termination-log", json!({})).await;
    assert_eq!(end(&pod, "a"), (0, "Completed".to_owned(), "done\n".to_owned()));
    // The first process of a pod cannot kill itself, so a child does; Kubernetes makes one dollar of two.
    let (pod, _) = bench.script("killed", "sh -c 'kill -9 $$$$'; exit $?", json!({})).await;
    assert_eq!(end(&pod, "a").0, 137);
}

pub async fn a_program_that_does_not_exist_is_a_start_error(bench: &Bench) {
    bench.create("nothing", json!({"containers": [{"name": "a", "image": "host", "command": ["no-such-program"]}]})).await;
    let pod = bench.ended("nothing").await;
    let (code, reason, message) = end(&pod, "a");
    assert_eq!((phase(&pod), code, reason.as_str()), ("Failed", 128, "StartError"));
    assert!(message.contains("no-such-program"), "{message}");
    assert_eq!(bench.log("nothing", "a").await, "", "what never ran has an empty log");
    bench.delete("nothing", 0).await;
    bench.gone("nothing").await;
}

pub async fn too_much_memory_is_oom_killed(bench: &Bench) {
    // A line without an end, of which tail keeps everything.
    let (pod, _) = bench.script("hungry", "tail /dev/zero", json!({"container.resources": {"limits": {"memory": "64Mi"}}})).await;
    assert_eq!((phase(&pod), end(&pod, "a").1.as_str()), ("Failed", "OOMKilled"));
}

pub async fn an_image_that_cannot_be_had_is_told_and_the_pod_goes_at_once(bench: &Bench) {
    for (name, image, reason) in [
        ("no-layout", "oci:/does/not/exist", "ErrImagePull"),
        ("no-registry", "127.0.0.1:9/none/none:1", "ErrImagePull"),
        ("bad-name", "Not An Image", "InvalidImageName"),
    ] {
        bench.create(name, json!({"containers": [{"name": "a", "image": image}]})).await;
        let pod = bench.until(name, reason, |pod| waiting(pod, "a").0 == reason).await;
        assert!(!waiting(&pod, "a").1.is_empty());
        assert_eq!(phase(&pod), "Pending");
        let start = Instant::now();
        bench.delete(name, 30).await;
        bench.gone(name).await;
        assert!(start.elapsed() < Duration::from_secs(10), "deleting {name} took {:?}", start.elapsed());
        assert!(bench.events(name).await.iter().any(|event| event.starts_with("Failed: ")));
    }
}

pub async fn secrets_come_as_files_and_environment(bench: &Bench) {
    bench.secret("plan", "plan.0", "hidden").await;
    let script =
        "cat /plan/plan.0; echo \" $TOKEN $(stat -c '%a %u' /plan/plan.0)\"; touch /plan/x 2>/dev/null || echo read-only";
    let more = json!({
        "container.env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "plan", "key": "plan.0"}}}],
        "container.volumeMounts": [{"name": "plan", "mountPath": "/plan"}],
        "volumes": [{"name": "plan", "projected": {"defaultMode": 256, "sources": [{"secret": {"name": "plan"}}]}}],
    });
    let (pod, log) = bench.script("secrets", script, more).await;
    assert_eq!((phase(&pod), log.as_str()), ("Succeeded", "hidden hidden 400 0\nread-only\n"));
}

pub async fn a_missing_secret_is_waited_for(bench: &Bench) {
    let env = json!([{"name": "T", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]);
    let spec = json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", "echo $T"], "env": env}]});
    bench.create("late", spec).await;
    let reason = "CreateContainerConfigError";
    let pod = bench.until("late", reason, |pod| waiting(pod, "a").0 == reason).await;
    assert_eq!(waiting(&pod, "a").1, "secret \"late\" not found");
    bench.secret("late", "k", "came").await;
    bench.ended("late").await;
    assert_eq!(bench.log("late", "a").await, "came\n");
    bench.delete("late", 0).await;
}

pub async fn containers_share_a_directory_and_localhost(bench: &Bench) {
    // Perl is part of every Debian and Ubuntu base system, and python3 is not.
    let listen = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local => '/shared/s', Listen => 1) or die $!; \
                  my $c = $s->accept; print $c \"over the socket\\n\"; close $c; \
                  use IO::Socket::INET; my $t = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 5555, Listen => 1, ReuseAddr => 1) or die $!; \
                  open my $f, '>', '/shared/ready'; close $f; my $d = $t->accept; print $d \"over localhost\\n\"; close $d;";
    let read = "use IO::Socket::UNIX; use IO::Socket::INET; my $c; \
                until ($c = IO::Socket::UNIX->new(Peer => '/shared/s')) { select(undef, undef, undef, 0.01) } print <$c>; \
                until (-e '/shared/ready') { select(undef, undef, undef, 0.01) } \
                my $d = IO::Socket::INET->new(PeerAddr => 'db', PeerPort => 5555) or die $!; print <$d>;";
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    let spec = json!({
        "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["db", "db.local"]}],
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "containers": [
            {"name": "server", "image": "host", "command": ["perl", "-e", listen], "volumeMounts": mounts},
            {"name": "client", "image": "host", "command": ["perl", "-e", read], "volumeMounts": mounts},
        ],
    });
    bench.create("shared", spec).await;
    let pod = bench.ended("shared").await;
    let log = bench.log("shared", "client").await;
    assert_eq!(
        (phase(&pod), log.as_str()),
        ("Succeeded", "over the socket\nover localhost\n"),
        "{}",
        bench.log("shared", "server").await
    );
    bench.delete("shared", 0).await;
}

pub async fn memory_volumes_are_bounded(bench: &Bench) {
    let more = json!({
        "container.volumeMounts": [{"name": "m", "mountPath": "/m"}],
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    });
    let script = "stat -f -c %T /m; head -c 2000000 /dev/zero > /m/x 2>/dev/null && echo fits || echo full";
    assert_eq!(bench.script("memory", script, more).await.1, "tmpfs\nfull\n");
}

pub async fn a_deleted_pod_has_its_grace_period(bench: &Bench) {
    let trap = "trap 'echo terminated; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    for (name, script, grace, least, most) in [("polite", trap, 30, 0, 10), ("deaf", deaf, 2, 2, 15)] {
        bench.create(name, json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", script]}]})).await;
        bench.running(name).await;
        bench.log_has(name, "a", "ready").await;
        let parameters = LogParams { follow: true, ..LogParams::default() };
        let stream = bench.pods.log_stream(name, &parameters).await.unwrap();
        let start = Instant::now();
        bench.delete(name, grace).await;
        let marked = bench.pods.get_opt(name).await.unwrap();
        assert!(marked.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
        bench.gone(name).await;
        let seconds = start.elapsed().as_secs();
        assert!((least..most).contains(&seconds), "{name} took {:?}", start.elapsed());
        let mut log = String::new();
        let mut stream = Box::pin(stream);
        stream.read_to_string(&mut log).await.unwrap();
        assert_eq!(log.contains("terminated"), name == "polite", "{log}");
    }
}

pub async fn a_pod_that_runs_too_long_is_ended(bench: &Bench) {
    let more = json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 1});
    let (pod, _) = bench.script("long", "sleep 60", more).await;
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    assert_eq!((phase(&pod), reason), ("Failed", Some("DeadlineExceeded")));
}

pub async fn commands_run_in_a_running_container(bench: &Bench) {
    let script = "export A=1; echo ready; sleep 60";
    let env = json!([{"name": "OWN", "value": "yes"}]);
    bench
        .create("exec", json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", script], "env": env}]}))
        .await;
    bench.running("exec").await;
    let parameters = AttachParams::default().stdin(false).stderr(true);
    let mut session =
        bench.pods.exec("exec", ["sh", "-c", "echo $OWN $HOSTNAME; echo bad >&2; exit 7"], &parameters).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("yes exec\n", "bad\n"));
    let status = session.take_status().unwrap().await.unwrap();
    let cause = status.details.unwrap().causes.unwrap().remove(0);
    assert_eq!(cause.message.as_deref(), Some("7"));
    bench.delete("exec", 0).await;
    bench.gone("exec").await;
}

pub async fn a_command_can_have_a_terminal(bench: &Bench) {
    sleeping(bench, "terminal").await;
    let parameters = AttachParams::interactive_tty();
    let mut session = bench.pods.exec("terminal", ["sh", "-c", "tty; read line; echo \"got $line\""], &parameters).await.unwrap();
    session.stdin().unwrap().write_all(b"typed\n").await.unwrap();
    let mut out = String::new();
    session.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert!(out.contains("/dev/pts/") && out.contains("got typed"), "{out:?}");
    bench.delete("terminal", 0).await;
    bench.gone("terminal").await;
}

pub async fn the_helper_image_has_the_agent(bench: &Bench) {
    let spec = json!({"containers": [{"name": "a", "image": node::HELPER_IMAGE, "command": ["/usr/bin/gantry-agent", "run"]}]});
    bench.create("helper", spec).await;
    let pod = bench.ended("helper").await;
    assert_eq!((phase(&pod), bench.log("helper", "a").await.as_str()), ("Succeeded", "agent run\n"));
    bench.delete("helper", 0).await;
}

pub async fn a_container_has_what_its_security_context_says(bench: &Bench) {
    let more = json!({"container.securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}}});
    let script =
        "touch /x 2>/dev/null || echo read-only; grep -E 'NoNewPrivs|CapEff' /proc/self/status; cat /proc/self/uid_map | wc -l";
    let (_, log) = bench.script("security", script, more).await;
    let words: Vec<_> = log.split_whitespace().collect();
    let expected = ["read-only", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "1"];
    assert_eq!(words, expected);
    let (pod, log) = bench.script("own-root", "echo x > /usr/gantry-was-here && cat /usr/gantry-was-here", json!({})).await;
    assert_eq!((phase(&pod), log.as_str()), ("Succeeded", "x\n"));
    assert!(!std::path::Path::new("/usr/gantry-was-here").exists(), "what a pod writes stays in the pod");
}

pub async fn a_part_of_a_volume_is_mounted(bench: &Bench) {
    bench.secret("parts", "one", "1").await;
    let more = json!({
        "container.volumeMounts": [
            {"name": "s", "mountPath": "/etc/one", "subPath": "one"},
            {"name": "v", "mountPath": "/part", "subPath": "a/b"}, {"name": "v", "mountPath": "/whole"}],
        "volumes": [{"name": "s", "secret": {"secretName": "parts"}}, {"name": "v", "emptyDir": {}}],
    });
    let (_, log) = bench.script("parts", "cat /etc/one; echo; touch /part/x; ls /whole/a/b", more).await;
    assert_eq!(log, "1\nx\n");
}

pub async fn what_a_node_does_not_serve_is_told(bench: &Bench) {
    let spec = json!({
        "automountServiceAccountToken": true,
        "volumes": [{"name": "h", "hostPath": {"path": "/etc"}}],
        "containers": [{"name": "a", "image": "host", "volumeMounts": [{"name": "h", "mountPath": "/h"}]}],
    });
    bench.create("unserved", spec).await;
    let reason = "CreateContainerConfigError";
    let pod = bench.until("unserved", reason, |pod| waiting(pod, "a").0 == reason).await;
    assert!(waiting(&pod, "a").1.contains("hostPath /etc is not allowed"), "{:?}", waiting(&pod, "a"));
    assert!(bench.events("unserved").await.iter().any(|event| event.contains("automountServiceAccountToken")));
    bench.delete("unserved", 0).await;
    bench.gone("unserved").await;
}

pub async fn a_pod_reaches_the_ports_of_its_machine_that_are_allowed(bench: &Bench) {
    let listen = || async {
        let listener = tokio::net::TcpListener::bind((bench.node.gateway(), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        port
    };
    let (allowed, other) = (listen().await, listen().await);
    bench.node.allow_port(allowed);
    let connect = format!(
        "use IO::Socket::INET; for my $n (1..100) {{ last if IO::Socket::INET->new(PeerAddr => \"{gateway}:{allowed}\", Timeout => 1); \
         select(undef, undef, undef, 0.05); die \"allowed\" if $n == 100 }} print \"reached\\n\"; \
         print IO::Socket::INET->new(PeerAddr => \"{gateway}:{other}\", Timeout => 1) ? \"open\\n\" : \"closed\\n\";",
        gateway = bench.node.gateway()
    );
    let (_, log) = bench.script("ports", "", json!({"container.command": ["perl", "-e", connect]})).await;
    assert!(log.starts_with("reached\n"), "{log}");
    println!("    another port of the machine is {}", log.lines().last().unwrap_or_default());
}

pub async fn the_volumes_belong_to_the_group(bench: &Bench) {
    let more = json!({
        "securityContext": {"runAsUser": 1234, "runAsGroup": 1235, "fsGroup": 2000, "supplementalGroups": [3000]},
        "container.volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    let script = "id -u; id -g; id -G; touch /v/x; stat -c '%u %g' /v/x; stat -c '%a %g' /v";
    let (pod, log) = bench.script("group", script, more).await;
    assert_eq!((phase(&pod), log.as_str()), ("Succeeded", "1234\n1235\n1235 2000 3000\n1234 2000\n2777 2000\n"));
}

pub async fn init_containers_and_sidecars_run_in_their_order(bench: &Bench) {
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [
            {"name": "first", "image": "host", "command": ["sh", "-c", "echo first >> /v/order"], "volumeMounts": mounts},
            {"name": "side", "image": "host", "restartPolicy": "Always", "volumeMounts": mounts,
                "command": ["sh", "-c", "trap 'echo side ends; exit 0' TERM; echo side >> /v/order; while :; do sleep 0.05; done"]},
            {"name": "second", "image": "host", "volumeMounts": mounts,
                "command": ["sh", "-c", "until grep -q side /v/order; do sleep 0.05; done; echo second >> /v/order"]},
        ],
        "containers": [{"name": "a", "image": "host", "command": ["cat", "/v/order"], "volumeMounts": mounts}],
    });
    bench.create("order", spec).await;
    let pod = bench.ended("order").await;
    assert_eq!((phase(&pod), bench.log("order", "a").await.as_str()), ("Succeeded", "first\nside\nsecond\n"));
    assert_eq!(bench.log("order", "side").await, "side ends\n");
    bench.delete("order", 0).await;
    let spec = json!({
        "initContainers": [{"name": "bad", "image": "host", "command": ["sh", "-c", "exit 4"]}],
        "containers": [{"name": "a", "image": "host", "command": ["true"]}],
    });
    bench.create("bad-init", spec).await;
    let pod = bench.ended("bad-init").await;
    assert_eq!((phase(&pod), end(&pod, "bad").0, waiting(&pod, "a").0.as_str()), ("Failed", 4, "PodInitializing"));
    bench.delete("bad-init", 0).await;
}

pub async fn a_pod_that_fits_nowhere_waits_with_a_sentence(bench: &Bench) {
    let big = json!({"requests": {"memory": "1000Ti"}});
    bench.create("big", json!({"containers": [{"name": "a", "image": "host", "resources": big}]})).await;
    let scheduled = |pod: &k8s_openapi::api::core::v1::Pod| {
        let conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        conditions.into_iter().find(|one| one.type_ == "PodScheduled")
    };
    let pod = bench.until("big", "unschedulable", |pod| scheduled(pod).is_some()).await;
    let condition = scheduled(&pod).unwrap();
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    assert_eq!(condition.message.as_deref(), Some("0/1 nodes are available: 1 Insufficient memory."));
    bench.delete("big", 30).await;
    bench.gone("big").await;
}

pub async fn a_container_is_started_again_when_its_policy_says_so(bench: &Bench) {
    let spec =
        json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "host", "command": ["sh", "-c", "exit 1"]}]});
    bench.create("again", spec).await;
    let pod = bench.until("again", "backing off", |pod| waiting(pod, "a").0 == "CrashLoopBackOff").await;
    assert_eq!(container(&pod, "a").last_state.unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(phase(&pod), "Running");
    bench.delete("again", 30).await;
    bench.gone("again").await;
}

pub async fn a_long_log_is_whole(bench: &Bench) {
    let script = "seq 1 400000; printf 'no line end'";
    bench.create("long-log", json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", script]}]})).await;
    bench.ended("long-log").await;
    let log = bench.log("long-log", "a").await;
    let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect::<String>() + "no line end";
    assert!(log == expected, "{} bytes instead of {}", log.len(), expected.len());
    let tail = LogParams { tail_lines: Some(2), timestamps: true, ..LogParams::default() };
    let tail = bench.pods.logs("long-log", &tail).await.unwrap();
    assert_eq!(tail.lines().map(|line| line.split_once("Z ").unwrap().1).collect::<Vec<_>>(), ["400000", "no line end"]);
    bench.delete("long-log", 0).await;
}

pub async fn two_hundred_children_are_gone_with_their_pod(bench: &Bench) {
    let script = "for i in $(seq 200); do (trap '' TERM; sleep 600) & done; echo ready; wait";
    bench.create("fork", json!({"containers": [{"name": "a", "image": "host", "command": ["sh", "-c", script]}]})).await;
    bench.running("fork").await;
    bench.log_has("fork", "a", "ready").await;
    bench.delete("fork", 0).await;
    bench.gone("fork").await;
}

pub async fn many_pods_at_once_all_succeed(bench: &Bench) {
    let names: Vec<_> = (0..20).map(|number| format!("many-{number}")).collect();
    let all = futures::stream::iter(names).map(|name| async move {
        let (pod, log) = bench.script(&name, "echo $HOSTNAME", json!({})).await;
        assert_eq!((phase(&pod), log), ("Succeeded", format!("{name}\n")));
    });
    let start = Instant::now();
    all.buffer_unordered(10).collect::<Vec<()>>().await;
    println!("    20 pods, 10 at a time: {:?}", start.elapsed());
}
