//! What holds at the edges: hostile names, many layers, dropped callers, what is left for the next program.

use crate::bench::{Bench, Case, list, until};
use crate::machine_state;
use sandbox::{Error, ExecSpec, IdRange, Layer, Machine, StartError, User};
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;

/// Every case.
pub fn all() -> Vec<Case> {
    list![
        a_working_directory_below_a_volume_is_made_in_it,
        a_working_directory_below_a_view_of_this_machine_is_made_in_it,
        nobody_else_of_this_machine_gets_into_a_pod,
        names_that_lead_elsewhere_are_refused,
        a_root_of_120_layers_is_shown,
        mounts_of_running_containers_do_not_pile_up,
        memory_has_no_swap_beyond_it,
        what_a_dropped_future_made_is_removed,
        no_container_starts_in_a_pod_that_was_removed,
        what_cannot_be_swept_stops_nobody,
        a_directory_that_was_never_finished_is_swept_when_it_is_old,
        removed_containers_are_forgotten,
        two_containers_of_one_name_are_refused_and_harm_each_other_not,
        real_time_signals_arrive,
        a_pod_can_use_the_network_of_this_machine,
        containers_that_start_together_make_one_working_directory,
        programs_begin_with_few_open_files,
    ]
}

async fn a_working_directory_below_a_volume_is_made_in_it(bench: Bench) {
    let pod = bench.pod("p").await;
    let volume = bench.volume("builds", (0, 0), 0o777);
    let inner = sandbox::Bind { target: "/builds/group/inner".into(), ..bench.volume("inner", (0, 0), 0o777) };
    let mut spec = bench.spec("a", &["sh", "-c", "pwd; touch here; id -u"]);
    spec.cwd = "/builds/group/project/".to_owned();
    spec.binds.push(volume.clone());
    let container = pod.start(spec).await.unwrap();
    assert_eq!((container.wait().await.code, bench.output("a").as_str()), (0, "/builds/group/project\n0\n"));
    let made = volume.source.join("group/project");
    let owner = made.metadata().unwrap();
    assert!(made.join("here").exists() && owner.uid() == IdRange::default().base && owner.mode() & 0o777 == 0o755);

    let mut spec = bench.spec("b", &["touch", "there"]);
    spec.cwd = "/builds/group/inner/deep".to_owned();
    spec.binds.extend([volume.clone(), inner.clone()]);
    assert_eq!(pod.start(spec).await.unwrap().wait().await.code, 0, "{}", bench.output("b"));
    assert!(inner.source.join("deep/there").exists());

    let mut spec = bench.spec("c", &["true"]);
    spec.cwd = "/builds/missing".to_owned();
    spec.binds.push(sandbox::Bind { read_only: true, ..volume.clone() });
    let error = pod.start(spec).await.err().unwrap();
    assert!(matches!(error, StartError::CannotRun(_)) && !volume.source.join("missing").exists(), "{error:?}");
    pod.remove().await.unwrap();
}

async fn a_working_directory_below_a_view_of_this_machine_is_made_in_it(bench: Bench) {
    let pod = bench.pod("p").await;
    let source = bench.directory.join("of-root");
    std::fs::create_dir_all(&source).unwrap();
    let mut spec = bench.spec("a", &["sh", "-c", "stat -c %u . && touch here"]);
    spec.cwd = "/view/made".to_owned();
    spec.binds.push(sandbox::Bind { source: source.clone(), target: "/view".into(), read_only: false, idmap: true });
    let container = pod.start(spec).await.unwrap();
    assert_eq!((container.wait().await.code, bench.output("a").as_str()), (0, "0\n"));
    assert_eq!(source.join("made/here").metadata().unwrap().uid(), 0);
    pod.remove().await.unwrap();
}

async fn nobody_else_of_this_machine_gets_into_a_pod(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["sleep", "1000"]);
    spec.user = User { uid: 1000, gid: 1000, groups: Vec::new() };
    let container = pod.start(spec).await.unwrap();
    let directory = bench.options("p").run_dir;
    std::fs::set_permissions(directory.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for closed in [directory.clone(), directory.join("containers"), directory.join("containers/a")] {
        let data = closed.metadata().unwrap();
        assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o710, 0, IdRange::default().base), "{closed:?}");
    }
    let see = |number: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", number, "--regid", number, "--clear-groups", "test", "-e"]);
        command.arg(directory.join("etc/hosts")).status().unwrap().success()
    };
    assert!(see("0") && !see("12345"));
    let words = ["cat", "/etc/hosts"].map(str::to_owned).into();
    let mut exec = container.exec(ExecSpec { args: words, ..ExecSpec::default() }).await.unwrap();
    let mut output = String::new();
    exec.stdout.read_to_string(&mut output).await.unwrap();
    assert!(output.contains("localhost"), "{output:?}");
    pod.remove().await.unwrap();
}

async fn names_that_lead_elsewhere_are_refused(bench: Bench) {
    for id in ["", "..", "a/b", "A", "a_b", &"a".repeat(64)] {
        let error = bench.machine.create_pod(bench.options(id)).await.err().unwrap();
        assert!(matches!(error, Error::Name { .. }) && error.to_string().contains("1 to 63"), "{error:?}");
    }
    let longest = "a".repeat(63);
    let pod =
        bench.machine.create_pod(sandbox::PodOptions { hostname: "p".to_owned(), ..bench.options(&longest) }).await.unwrap();
    for name in ["", "..", "../../x", "a b"] {
        let spec = sandbox::ContainerSpec { name: name.to_owned(), ..bench.spec("a", &["true"]) };
        let error = pod.start(spec).await.err().unwrap();
        assert!(matches!(&error, StartError::CannotRun(message) if message.contains("1 to 63")), "{error:?}");
    }
    let container = bench.start(&pod, &longest, &["true"]).await.unwrap();
    assert_eq!(container.wait().await.code, 0);
    pod.remove().await.unwrap();
}

async fn a_root_of_120_layers_is_shown(bench: Bench) {
    let pod = bench.pod("p").await;
    let mut spec = bench.spec("a", &["sh", "-c", "ls /layers | wc -l; cat /layers/same; grep -c gantry /proc/self/mountinfo"]);
    for number in 0..119 {
        let path = bench.directory.join(format!("layer-with-a-long-name-so-that-no-page-holds-them-{number}"));
        std::fs::create_dir_all(path.join("layers")).unwrap();
        std::fs::write(path.join(format!("layers/{number}")), "").unwrap();
        std::fs::write(path.join("layers/same"), format!("{number}\n")).unwrap();
        let lower = &mut spec.root.overlays[0].lower;
        lower.insert(lower.len() - 1, Layer { path, idmap: number % 2 == 0 });
    }
    let container = pod.start(spec).await.unwrap();
    container.wait().await;
    let output = bench.output("a");
    assert_eq!(output.lines().take(2).collect::<Vec<_>>(), ["120", "0"], "{output}");
    pod.remove().await.unwrap();
}

async fn mounts_of_running_containers_do_not_pile_up(bench: Bench) {
    let pod = bench.pod("p").await;
    let before = machine_state::mounts();
    let mut spec = bench.spec("a", &["sleep", "1000"]);
    spec.binds.push(bench.volume("v", (0, 0), 0o777));
    let container = pod.start(spec).await.unwrap();
    let more: Vec<_> = machine_state::mounts().difference(&before).cloned().collect();
    assert!(more.is_empty(), "{more:?}");
    let words = ["sh", "-c", "touch /v/x /y && ls /usr | grep -c bin"].map(str::to_owned).into();
    let exec = container.exec(ExecSpec { args: words, ..ExecSpec::default() }).await.unwrap();
    assert_eq!(exec.exit.await, 0);
    container.kill(libc::SIGKILL);
    container.wait().await;
    container.remove().await;
    assert!(!bench.options("p").run_dir.join("containers/a").exists());
    pod.remove().await.unwrap();
}

async fn memory_has_no_swap_beyond_it(bench: Bench) {
    let pod = bench.pod("p").await;
    let files = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes /sys/fs/cgroup/memory.swap.max";
    let mut spec = bench.spec("a", &["sh", "-c", &format!("cat {files} 2>/dev/null")]);
    spec.resources.memory_bytes = Some(128 << 20);
    pod.start(spec).await.unwrap().wait().await;
    let counts = |file: &str| Path::new("/sys/fs/cgroup").join(file).exists();
    let expected = if counts("memory/memory.memsw.limit_in_bytes") {
        (128 << 20).to_string()
    } else if counts("cgroup.controllers") && Path::new("/proc/swaps").exists() {
        "0".to_owned()
    } else {
        String::new()
    };
    assert_eq!(bench.output("a").trim(), expected);
    pod.remove().await.unwrap();
}

/// Polls the work until something has come to be, and drops it then; whether it was dropped before its end.
async fn dropped_when<T>(work: impl Future<Output = T>, what: &str, holds: impl FnMut() -> bool) -> bool {
    tokio::select! {
        biased;
        _ = work => false,
        () = until(what, holds) => true,
    }
}

async fn what_a_dropped_future_made_is_removed(bench: Bench) {
    let options = bench.options("dropped");
    let (directory, hosts) = (options.run_dir.clone(), options.run_dir.join("etc/hosts"));
    assert!(dropped_when(bench.machine.create_pod(options), "the pod is begun", || directory.exists()).await);
    // It is connected before it has files, and disconnected when it is removed.
    until("the pod is removed", || {
        hosts.exists() && !machine_state::left_behind().iter().any(|one| one.contains("interface gv"))
    })
    .await;

    let pod = bench.pod("p").await;
    let bundle = bench.options("p").run_dir.join("containers/a");
    let work = bench.start(&pod, "a", &["sleep", "1000"]);
    assert!(dropped_when(work, "the container is made", || bundle.exists()).await);
    until("the container is removed", || !bundle.exists()).await;
    let (exit, _) = bench.sh(&pod, "a", "true").await;
    assert_eq!(exit.code, 0);

    let work = bench.start(&pod, "a", &["sleep", "1000"]);
    assert!(dropped_when(work, "the container is made", || bundle.exists()).await);
    pod.remove().await.unwrap();
    assert!(!bundle.exists());
}

async fn no_container_starts_in_a_pod_that_was_removed(bench: Bench) {
    let pod = bench.pod("p").await;
    pod.remove().await.unwrap();
    let error = bench.start(&pod, "a", &["true"]).await.err().unwrap();
    assert!(matches!(error, StartError::CannotRun(_)), "{error:?}");
}

async fn what_cannot_be_swept_stops_nobody(bench: Bench) {
    let run = bench.directory.join("other-run");
    let busy = run.join("00c0ffee/busy");
    std::fs::create_dir_all(&busy).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&busy).status().unwrap().success());
    let first = Machine::open(&run, IdRange::default()).await.unwrap();
    machine_state::watch(first.instance());
    assert_eq!(first.swept().directories, 0);
    assert!(Command::new("umount").arg(&busy).status().unwrap().success());
    let second = Machine::open(&run, IdRange::default()).await.unwrap();
    machine_state::watch(second.instance());
    assert_eq!(second.swept().directories, 1);
    assert!(!busy.exists() && run.join(first.instance()).exists());
    first.close().await;
    second.close().await;
}

async fn a_directory_that_was_never_finished_is_swept_when_it_is_old(bench: Bench) {
    let run = bench.directory.join("other-run");
    let (old, young, held) = (run.join("00000001.new"), run.join("00000002.new"), run.join("00000003.new"));
    for directory in [&old, &young, &held] {
        std::fs::create_dir_all(directory).unwrap();
        File::create(directory.join("lock")).unwrap();
    }
    let lock = File::open(held.join("lock")).unwrap();
    lock.lock().unwrap();
    for directory in [&old, &held] {
        File::open(directory).unwrap().set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
    }
    let machine = Machine::open(&run, IdRange::default()).await.unwrap();
    machine_state::watch(machine.instance());
    assert!(!old.exists() && young.exists() && held.exists());
    machine.close().await;
}

async fn removed_containers_are_forgotten(bench: Bench) {
    let pod = bench.pod("p").await;
    // Each that is known holds a descriptor of its process.
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    bench.sh(&pod, "a", "true").await;
    let before = open();
    for _ in 0..5 {
        bench.sh(&pod, "a", "true").await;
    }
    until("descriptors are closed", || open() <= before).await;
    pod.remove().await.unwrap();
}

async fn two_containers_of_one_name_are_refused_and_harm_each_other_not(bench: Bench) {
    let pod = bench.pod("p").await;
    let first = bench.start(&pod, "a", &["sleep", "1000"]).await.unwrap();
    let error = bench.start(&pod, "a", &["true"]).await.err().unwrap();
    assert!(matches!(error, StartError::Machine(Error::InUse { .. })), "{error:?}");
    first.kill(libc::SIGTERM);
    first.kill(libc::SIGKILL);
    first.wait().await;
    let (one, two) = (first.remove(), first.remove());
    tokio::join!(one, two);
    let second = bench.start(&pod, "a", &["sleep", "1000"]).await.unwrap();
    first.remove().await;
    let exec = second.exec(ExecSpec { args: vec!["true".to_owned()], ..ExecSpec::default() }).await.unwrap();
    assert_eq!(exec.exit.await, 0);
    pod.remove().await.unwrap();
}

async fn real_time_signals_arrive(bench: Bench) {
    let pod = bench.pod("p").await;
    let shared = bench.volume("shared", (0, 0), 0o777);
    let script = "import signal, sys; signal.signal(signal.SIGRTMIN + 3, lambda *_: sys.exit(9)); \
                  open('/shared/ready', 'w'); signal.pause()";
    let mut spec = bench.spec("a", &["python3", "-c", script]);
    spec.binds.push(shared.clone());
    let container = pod.start(spec).await.unwrap();
    until("it listens", || shared.source.join("ready").exists()).await;
    container.kill(libc::SIGRTMIN() + 3);
    let exit = tokio::time::timeout(Duration::from_secs(10), container.wait()).await.unwrap();
    assert_eq!((exit.code, exit.signal), (9, None));
    pod.remove().await.unwrap();
}

async fn programs_begin_with_few_open_files(bench: Bench) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let own: Vec<_> = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(own[0], own[1]);
    let pod = bench.pod("p").await;
    let container = bench.start(&pod, "a", &["sh", "-c", "ulimit -n; ulimit -Hn; sleep 1000"]).await.unwrap();
    let expected = format!("1024\n{}\n", own[1]);
    until("it has spoken", || bench.output("a") == expected).await;
    let words = ["sh", "-c", "ulimit -n; ulimit -Hn"].map(str::to_owned).into();
    let mut exec = container.exec(ExecSpec { args: words, ..ExecSpec::default() }).await.unwrap();
    let mut output = String::new();
    exec.stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, expected);
    pod.remove().await.unwrap();
}

async fn a_pod_can_use_the_network_of_this_machine(bench: Bench) {
    let options = sandbox::PodOptions { host_network: true, ..bench.options("p") };
    let pod = bench.machine.create_pod(options).await.unwrap();
    assert_eq!(pod.ip(), None);
    let (exit, output) = bench.sh(&pod, "a", "cat /proc/net/dev; hostname; id -u").await;
    assert!(exit.code == 0 && output.contains(&format!("gy{}", bench.machine.instance())), "{output}");
    assert!(output.ends_with("\np\n0\n"), "{output}");
    pod.remove().await.unwrap();
}

async fn containers_that_start_together_make_one_working_directory(bench: Bench) {
    let pod = bench.pod("p").await;
    let volume = bench.volume("builds", (0, 0), 0o777);
    for round in 0..5 {
        let starts = ["a", "b", "c", "d"].map(|name| {
            let mut spec = bench.spec(name, &["true"]);
            spec.cwd = format!("/builds/{round}/1/2/3/4");
            spec.binds.push(volume.clone());
            pod.start(spec)
        });
        for started in futures::future::join_all(starts).await {
            let container = started.unwrap();
            assert_eq!(container.wait().await.code, 0);
            container.remove().await;
        }
    }
    pod.remove().await.unwrap();
}
