//! The cases, and what they stand on.

use crate::machine_state;
use crate::{cases, more_cases};
use sandbox::{Bind, Capabilities, Container, ContainerSpec, Exit, IdRange, Layer, Machine, Overlay, Pod, PodOptions};
use sandbox::{Resources, Rootfs, StartError, User};
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

/// First argument of the copy that starts a pod and waits to be killed.
pub const ABANDON: &str = "abandon-a-pod";

/// A case by its name.
pub type Case = (&'static str, fn(Bench) -> Pin<Box<dyn Future<Output = ()>>>);

/// A list of cases from the names of their functions.
macro_rules! list { ($($name:ident,)*) => { vec![$((stringify!($name), |bench| Box::pin($name(bench))),)*] }; }
pub(crate) use list;

/// Runs all cases, or those whose name holds `only`.
pub fn run(only: Option<&str>) -> ExitCode {
    let all = cases::all().into_iter().chain(more_cases::all());
    let cases: Vec<Case> = all.filter(|(name, _)| only.is_none_or(|only| name.contains(only))).collect();
    if let Err(error) = sandbox::enter() {
        println!("skipped, because {error}: {} cases", cases.len());
        println!("0 passed, 0 failed, {} skipped", cases.len());
        // CI is root; there a skip would hide that nothing was tested.
        let must_run = std::env::var_os("CI").is_some() && Path::new("/sys/fs/cgroup").exists();
        return if must_run { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut failed = 0;
    for (name, case) in &cases {
        let before = machine_state::mounts();
        let (bench, keep) = runtime.block_on(Bench::new());
        let machine = bench.machine.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(case(bench))));
        // Also after a case that failed: nobody else would find what it made.
        runtime.block_on(machine.close());
        drop(keep);
        let mut left = machine_state::left_behind();
        left.extend(machine_state::mounts().difference(&before).cloned());
        let well = outcome.is_ok() && left.is_empty();
        if !left.is_empty() {
            println!("left behind: {left:?}");
        }
        println!("test {name} ... {}", if well { "ok" } else { "FAILED" });
        failed += usize::from(!well);
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The copy: a pod with a process that ignores everything, then a wait for the kill.
pub fn abandon(run: &str) -> ExitCode {
    sandbox::enter().expect("root");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bench = Bench::at(Path::new(run)).await;
        let pod = bench.pod("abandoned").await;
        bench.start(&pod, "a", &["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"]).await.expect("a container");
        println!("started");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

/// A machine and directories for one case.
pub struct Bench {
    pub machine: Machine,
    pub directory: PathBuf,
}

impl Bench {
    /// The directory goes with the second part.
    async fn new() -> (Self, tempfile::TempDir) {
        let keep = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(keep.path(), std::fs::Permissions::from_mode(0o711)).expect("open");
        (Self::at(keep.path()).await, keep)
    }

    pub async fn at(directory: &Path) -> Self {
        let machine = Machine::open(&directory.join("run"), IdRange::default()).await.expect("a machine");
        machine_state::watch(machine.instance());
        let skeleton = directory.join("skeleton");
        let base = IdRange::default().base;
        for path in ["usr", "etc", "tmp", "proc", "sys", "dev", "root", "run", "var"] {
            std::fs::create_dir_all(skeleton.join(path)).expect("a skeleton");
            chown(skeleton.join(path), Some(base), Some(base)).expect("an owner");
        }
        chown(&skeleton, Some(base), Some(base)).expect("an owner");
        std::fs::set_permissions(skeleton.join("tmp"), std::fs::Permissions::from_mode(0o1777)).expect("a mode");
        for link in ["bin", "sbin", "lib", "lib64"] {
            let _ = std::os::unix::fs::symlink(format!("usr/{link}"), skeleton.join(link));
        }
        let _ = std::fs::write(skeleton.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
        Self { machine, directory: directory.to_path_buf() }
    }

    pub async fn pod(&self, id: &str) -> Pod {
        self.machine.create_pod(self.options(id)).await.expect("a pod")
    }

    pub fn options(&self, id: &str) -> PodOptions {
        PodOptions {
            id: id.to_owned(),
            hostname: id.to_owned(),
            host_aliases: vec![("127.0.0.1".parse().expect("an address"), vec!["db".to_owned()])],
            host_network: false,
            run_dir: self.directory.join("pods").join(id),
        }
    }

    pub async fn start(&self, pod: &Pod, name: &str, args: &[&str]) -> Result<Container, StartError> {
        pod.start(self.spec(name, args)).await
    }

    pub fn spec(&self, name: &str, args: &[&str]) -> ContainerSpec {
        let output = File::create(self.output_file(name)).expect("a file");
        let layer = |path: PathBuf, idmap| Layer { path, idmap };
        ContainerSpec {
            name: name.to_owned(),
            root: Rootfs {
                overlays: vec![
                    Overlay { at: "/".into(), lower: vec![layer(self.directory.join("skeleton"), false)] },
                    Overlay { at: "/usr".into(), lower: vec![layer("/usr".into(), true)] },
                ],
                binds: Vec::new(),
            },
            args: args.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/root".into())],
            cwd: "/".to_owned(),
            user: User::default(),
            capabilities: Capabilities::default(),
            privileged: false,
            no_new_privileges: false,
            read_only_root: false,
            binds: Vec::new(),
            resources: Resources::default(),
            stderr: output.try_clone().expect("a second handle"),
            stdout: output,
        }
    }

    /// Runs a shell script to its end.
    pub async fn sh(&self, pod: &Pod, name: &str, script: &str) -> (Exit, String) {
        let container = self.start(pod, name, &["sh", "-c", script]).await.expect("a container");
        let exit = container.wait().await;
        container.remove().await;
        (exit, self.output(name))
    }

    pub fn output_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    pub fn output(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output_file(name)).unwrap_or_default()).into_owned()
    }

    /// A directory owned by ids of the pod.
    pub fn volume(&self, name: &str, (uid, gid): (u32, u32), mode: u32) -> Bind {
        let source = self.directory.join("volumes").join(name);
        std::fs::create_dir_all(&source).expect("a volume");
        let base = IdRange::default().base;
        chown(&source, Some(base + uid), Some(base + gid)).expect("an owner");
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(mode)).expect("a mode");
        Bind { source, target: format!("/{name}").into(), read_only: false, idmap: false }
    }
}

/// Waits for a condition, at most ten seconds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
