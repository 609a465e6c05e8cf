//! What containers are expected to do.

use crate::bench::{ABANDON, Bench, Case, list, until};
use crate::machine_state;
use sandbox::{ExecSpec, IdRange, Machine, Resources, StartError, User};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Pods that run beside the one whose start is measured.
const MANY: usize = 60;

/// Every case.
pub fn all() -> Vec<Case> {
    list![
        output_and_exit_code_arrive,
        two_containers_share_localhost_and_nothing_else,
        users_and_groups_are_those_of_the_pod,
        too_much_memory_is_an_oom_kill,
        a_fork_bomb_meets_its_limit,
        a_signal_that_kills_is_128_more,
        a_missing_program_is_named,
        host_names_and_aliases_resolve,
        what_is_written_stays_in_the_container,
        exec_runs_with_input_output_and_exit_code,
        exec_with_a_terminal_has_one,
        a_program_nobody_waits_for_is_killed_and_holds_up_no_removal,
        root_of_a_container_is_nobody_outside,
        the_own_group_is_shown,
        a_link_in_the_root_leads_nowhere_outside,
        a_pod_is_removed_with_everything_that_runs_in_it,
        the_next_program_removes_what_a_killed_one_left,
        starting_takes_a_moment,
    ]
}

async fn output_and_exit_code_arrive(bench: Bench) {
    let pod = bench.pod("p").await;
    let (exit, output) = bench.sh(&pod, "a", "echo out; echo err >&2; exit 7").await;
    assert_eq!((exit.code, exit.signal, output.as_str()), (7, None, "out\nerr\n"));
    pod.remove().await.unwrap();
}

async fn two_containers_share_localhost_and_nothing_else(bench: Bench) {
    let pod = bench.pod("p").await;
    let server = "import socket; s=socket.socket(); s.bind(('127.0.0.1', 80)); s.listen(); open('/shared/ready','w'); \
                  c,_=s.accept(); c.sendall(b'hello'); c.close()";
    let shared = bench.volume("shared", (0, 0), 0o777);
    let mut spec = bench.spec("server", &["python3", "-c", server]);
    spec.binds.push(shared.clone());
    let server = pod.start(spec).await.unwrap();
    until("the server listens", || shared.source.join("ready").exists()).await;
    let script = "import socket; print(socket.create_connection(('localhost', 80)).recv(9).decode())";
    let (exit, output) =
        bench.sh(&pod, "client", &format!("python3 -c \"{script}\"; ls /proc | grep -c '^[0-9]'; ls /shared")).await;
    assert_eq!(exit.code, 2, "{output}");
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("hello"), "{output}");
    assert!(lines.next().unwrap().parse::<u32>().unwrap() < 6, "{output}");
    server.wait().await;
    pod.remove().await.unwrap();
}

async fn users_and_groups_are_those_of_the_pod(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec =
        bench.spec("a", &["sh", "-c", "id -u; id -G; touch /data/x; stat -c %u:%g /data/x; cat /proc/self/status | grep CapEff"]);
    spec.user = User { uid: 1000, gid: 2000, groups: vec![3000] };
    spec.binds.push(bench.volume("data", (0, 3000), 0o2770));
    let container = pod.start(spec).await.unwrap();
    assert_eq!(container.wait().await.code, 0, "{}", bench.output("a"));
    assert_eq!(bench.output("a"), "1000\n2000 3000\n1000:3000\nCapEff:\t0000000000000000\n");
    pod.remove().await.unwrap();
}

async fn too_much_memory_is_an_oom_kill(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["python3", "-c", "x = bytearray(200 * 1024 * 1024); print(len(x))"]);
    spec.resources =
        Resources { memory_bytes: Some(64 << 20), cpu_quota_us: Some(50_000), cpu_shares: Some(512), pids: Some(64) };
    let container = pod.start(spec).await.unwrap();
    let exit = container.wait().await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true), "{}", bench.output("a"));
    pod.remove().await.unwrap();
}

async fn a_fork_bomb_meets_its_limit(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["sh", "-c", "for i in $(seq 200); do sleep 100 & done; echo survived"]);
    spec.resources.pids = Some(50);
    let container = pod.start(spec).await.unwrap();
    let exit = container.wait().await;
    assert_ne!(exit.code, 0, "{}", bench.output("a"));
    assert!(!bench.output("a").contains("survived"));
    pod.remove().await.unwrap();
}

async fn a_signal_that_kills_is_128_more(bench: Bench) {
    let pod = bench.pod("p").await;
    let container = bench.start(&pod, "a", &["sleep", "1000"]).await.unwrap();
    container.kill(libc::SIGTERM);
    container.kill(libc::SIGKILL);
    let exit = container.wait().await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    pod.remove().await.unwrap();
}

async fn a_missing_program_is_named(bench: Bench) {
    let pod = bench.pod("p").await;
    let error = bench.start(&pod, "a", &["no-such-program"]).await.err().unwrap();
    assert!(matches!(&error, StartError::CommandNotFound(name) if name == "no-such-program"), "{error:?}");
    let error = bench.start(&pod, "b", &["/usr/share"]).await.err().unwrap();
    assert!(matches!(error, StartError::CannotRun(_)), "{error:?}");
    pod.remove().await.unwrap();
}

async fn host_names_and_aliases_resolve(bench: Bench) {
    let pod = bench.pod("named").await;
    let (_, output) =
        bench.sh(&pod, "a", "hostname; grep -c db /etc/hosts; cat /etc/hostname; test -s /etc/resolv.conf && echo r").await;
    assert_eq!(output, "named\n1\nnamed\nr\n");
    pod.remove().await.unwrap();
}

async fn what_is_written_stays_in_the_container(bench: Bench) {
    let pod = bench.pod("p").await;
    let marker = format!("/usr/share/gantry-test-{}", std::process::id());
    let (exit, output) = bench.sh(&pod, "a", &format!("echo x > {marker} && rm /usr/bin/env && echo y > /etc/z && id -u")).await;
    assert_eq!((exit.code, output.as_str()), (0, "0\n"));
    assert!(!std::path::Path::new(&marker).exists() && std::path::Path::new("/usr/bin/env").exists());
    let (exit, _) = bench.sh(&pod, "b", &format!("test ! -e {marker} && test -e /usr/bin/env")).await;
    assert_eq!(exit.code, 0);
    pod.remove().await.unwrap();
}

async fn exec_runs_with_input_output_and_exit_code(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["sleep", "1000"]);
    spec.user = User { uid: 7, gid: 8, groups: vec![9] };
    let container = pod.start(spec).await.unwrap();
    let words = ["sh", "-c", "cat; id -u; echo $HOME $EXTRA; exit 5"].map(str::to_owned);
    let env = vec![("EXTRA".to_owned(), "more".to_owned())];
    let mut exec = container.exec(ExecSpec { args: words.into(), env, ..ExecSpec::default() }).await.unwrap();
    let mut input = exec.stdin.take().unwrap();
    input.write_all(b"typed\n").await.unwrap();
    drop(input);
    let mut output = String::new();
    exec.stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "typed\n7\n/root more\n");
    assert_eq!(exec.exit.await, 5);
    let missing = ExecSpec { args: vec!["no-such-program".to_owned()], ..ExecSpec::default() };
    let error = container.exec(missing).await.err().unwrap();
    assert!(matches!(error, StartError::CommandNotFound(_)), "{error:?}");
    pod.remove().await.unwrap();
}

async fn exec_with_a_terminal_has_one(bench: Bench) {
    let pod = bench.pod("p").await;
    let container = bench.start(&pod, "a", &["sleep", "1000"]).await.unwrap();
    let words = ["sh", "-c", "read line; stty size; test -t 0 && test -t 1 && echo terminal; exit 3"].map(str::to_owned);
    let mut exec = container.exec(ExecSpec { args: words.into(), tty: true, ..ExecSpec::default() }).await.unwrap();
    exec.resize.as_ref().unwrap().send((120, 40)).unwrap();
    let mut input = exec.stdin.take().unwrap();
    input.write_all(b"go\n").await.unwrap();
    let mut output = Vec::new();
    exec.stdout.read_to_end(&mut output).await.unwrap();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("40 120") && output.contains("terminal"), "{output:?}");
    assert_eq!(exec.exit.await, 3);
    pod.remove().await.unwrap();
}

async fn a_program_nobody_waits_for_is_killed_and_holds_up_no_removal(bench: Bench) {
    let pod = bench.pod("p").await;
    let shared = bench.volume("shared", (0, 0), 0o777);
    let mut spec = bench.spec("a", &["sleep", "1000"]);
    spec.binds.push(shared.clone());
    let container = pod.start(spec).await.unwrap();
    let beat = "(while :; do date +%N > /shared/child; sleep 0.02; done) & while :; do date +%N > /shared/beat; sleep 0.02; done";
    let words = || ExecSpec { args: ["sh", "-c", beat].map(str::to_owned).into(), ..ExecSpec::default() };
    let exec = container.exec(words()).await.unwrap();
    let beats = || ["beat", "child"].map(|name| std::fs::read(shared.source.join(name)).unwrap_or_default());
    until("both run", || beats().iter().all(|beat| !beat.is_empty())).await;
    drop(exec);
    let mut last = (std::time::Instant::now(), beats());
    until("both have stopped", || {
        if last.1 != beats() {
            last = (std::time::Instant::now(), beats());
        }
        last.0.elapsed() > std::time::Duration::from_millis(300)
    })
    .await;
    let running = container.exec(words()).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(10), pod.remove()).await.expect("removal goes on").unwrap();
    assert_eq!(running.exit.await, 137);
}

async fn root_of_a_container_is_nobody_outside(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["sleep", "1000"]);
    spec.privileged = true;
    let container = pod.start(spec).await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{}", IdRange::default().base)), "{status}");
    pod.remove().await.unwrap();
}

async fn the_own_group_is_shown(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec =
        bench.spec("a", &["sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"]);
    spec.resources.memory_bytes = Some(128 << 20);
    let container = pod.start(spec).await.unwrap();
    container.wait().await;
    assert_eq!(bench.output("a").trim(), (128 << 20).to_string());
    pod.remove().await.unwrap();
}

async fn a_link_in_the_root_leads_nowhere_outside(bench: Bench) {
    let pod = bench.pod("p").await;
    let outside = bench.directory.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let trap = bench.directory.join("skeleton/trap");
    std::os::unix::fs::symlink(&outside, &trap).unwrap();
    let mut spec = bench.spec("a", &["true"]);
    spec.cwd = "/trap/made".to_owned();
    let mut bind = bench.volume("v", (0, 0), 0o777);
    bind.target = "/trap/bound".into();
    spec.binds.push(bind);
    // Whether it starts or is refused: nothing is made outside.
    if let Ok(container) = pod.start(spec).await {
        container.wait().await;
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    pod.remove().await.unwrap();
}

async fn a_pod_is_removed_with_everything_that_runs_in_it(bench: Bench) {
    let pod = bench.pod("p").await;
    bench.start(&pod, "a", &["sh", "-c", "trap '' TERM; setsid sleep 1000 & setsid sleep 1000 & sleep 1000"]).await.unwrap();
    bench.start(&pod, "b", &["sleep", "1000"]).await.unwrap();
    pod.remove().await.unwrap();
}

async fn the_next_program_removes_what_a_killed_one_left(bench: Bench) {
    let directory = bench.directory.join("other");
    std::fs::create_dir_all(&directory).unwrap();
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .args([ABANDON, directory.to_str().unwrap()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert_eq!(line, "started\n");
    child.kill().await.unwrap();
    for instance in std::fs::read_dir(directory.join("run")).unwrap() {
        machine_state::watch(instance.unwrap().file_name().to_str().unwrap());
    }
    let machine = Machine::open(&directory.join("run"), IdRange::default()).await.unwrap();
    machine_state::watch(machine.instance());
    let swept = machine.swept();
    assert!(swept.instances == 1 && swept.processes >= 1 && swept.cgroups >= 1 && swept.directories == 1, "{swept:?}");
    machine.close().await;
}

async fn starting_takes_a_moment(bench: Bench) {
    let alone = median_start(&bench, "alone").await;
    let pods: Vec<_> = (0..MANY).map(|number| format!("many{number}")).collect();
    for id in &pods {
        let pod = bench.pod(id).await;
        bench.start(&pod, id, &["sleep", "1000"]).await.unwrap();
    }
    let among_many = median_start(&bench, "crowd").await;
    println!("pod made, container started, ended, removed (median of 10)");
    println!("alone: {alone:?}");
    println!("with {MANY} pods running: {among_many:?}");
}

async fn median_start(bench: &Bench, prefix: &str) -> [Duration; 4] {
    let mut times = Vec::new();
    for number in 0..10 {
        let begun = Instant::now();
        let pod = bench.pod(&format!("{prefix}{number}")).await;
        let made = begun.elapsed();
        let container = bench.start(&pod, &format!("a{number}"), &["true"]).await.unwrap();
        let started = begun.elapsed();
        container.wait().await;
        let ended = begun.elapsed();
        pod.remove().await.unwrap();
        times.push([made, started, ended, begun.elapsed()]);
    }
    times.sort();
    times[5]
}
