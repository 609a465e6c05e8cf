//! A container's bundle: its mounts, its group and its `config.json`, in a directory of the pod; all of it blocking.

use crate::cgroup::Cgroups;
use crate::machine::Inner as Machine;
use crate::mounts::View;
use crate::namespaces::Held;
use crate::pod::Inner as Pod;
use crate::{Bind, ContainerSpec, Error, StartError, exec, files, mounts, oci, runtime, spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest message of the runtime that is kept.
const LONGEST_MESSAGE: usize = 2000;
/// How long making a container may take, also on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a started container is made of.
pub(crate) struct Bundle {
    /// Its directory.
    directory: PathBuf,
    /// Its control group.
    pub(crate) cgroup: String,
    /// What a further program needs to join it.
    pub(crate) target: exec::Target,
}

/// Makes the bundle and starts it; answers its first process. Nothing is left of one that fails.
pub(crate) fn start(pod: &Pod, spec: ContainerSpec) -> Result<(Bundle, OwnedFd), StartError> {
    if spec.args.is_empty() {
        return Err(StartError::CannotRun("no command specified".to_owned()));
    }
    if !spec::is_name(&spec.name) {
        return Err(StartError::CannotRun(format!("container name {:?} is not valid: {}", spec.name, spec::NAME_RULE)));
    }
    let cgroup = Cgroups::path(&[&pod.machine.instance, &pod.id, &spec.name]);
    let target = exec::Target {
        pid: 0,
        cgroup_procs: Vec::new(),
        user: spec.user.clone(),
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        capabilities: oci::capabilities(&spec.capabilities, spec.privileged),
        no_new_privileges: spec.no_new_privileges,
    };
    let mut bundle = Bundle { directory: pod.directory.join("containers").join(&spec.name), cgroup, target };
    match start_in(pod, spec, &bundle) {
        Ok((pid, process)) => {
            bundle.target.pid = pid;
            bundle.target.cgroup_procs = pod.machine.cgroups.procs(&bundle.cgroup);
            Ok((bundle, process))
        }
        Err(error) => {
            remove(&bundle, &pod.machine);
            Err(error)
        }
    }
}

fn start_in(pod: &Pod, spec: ContainerSpec, bundle: &Bundle) -> Result<(i32, OwnedFd), StartError> {
    let directory = &bundle.directory;
    for passed in [directory.parent().unwrap_or(directory), directory] {
        files::make_passable(passed, pod.machine.ids)?;
    }
    let namespaces = pod.namespaces.hold()?;
    let root = mount_root(&spec, directory, pod, namespaces.user())?;
    let groups = pod.machine.cgroups.make(&bundle.cgroup)?;
    let all = all_binds(&spec, pod, groups, &namespaces);
    let binds = stage_binds(&all, directory, namespaces.user())?;
    make_working_directory(&spec.cwd, &root, &all, &binds, pod.machine.ids.base)?;
    let around = oci::Surroundings {
        root: &root,
        namespaces: &namespaces,
        cgroup: &bundle.cgroup,
        swap: pod.machine.cgroups.swap(),
        binds: &binds,
    };
    let config = directory.join("config.json");
    write_private(&config, oci::config(&spec, &around).to_string().as_bytes())?;
    let started = run(directory, &format!("{}-{}", pod.id, spec.name), &namespaces, spec);
    // It holds the environment, which the process has by now.
    let _ = std::fs::remove_file(config);
    let pid = started?;
    // The container has its own copies; ours would be copied into every container that comes after it.
    mounts::detach(&root);
    for (place, _) in &binds {
        mounts::detach(place);
    }
    let number = Pid::from_raw(pid).ok_or_else(|| StartError::CannotRun("the runtime named no process".to_owned()))?;
    let process =
        rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK).map_err(Error::errno(format!("watch process {pid}")))?;
    Ok((pid, process))
}

fn mount_root(spec: &ContainerSpec, directory: &Path, pod: &Pod, userns: BorrowedFd<'_>) -> Result<PathBuf, Error> {
    let root = directory.join("root");
    std::fs::create_dir_all(&root).map_err(Error::path("make", &root))?;
    for (number, overlay) in spec.root.overlays.iter().enumerate() {
        let state = directory.join(format!("overlay-{number}"));
        let mut lower = Vec::new();
        for (index, layer) in overlay.lower.iter().enumerate() {
            if !layer.idmap {
                lower.push(layer.path.clone());
                continue;
            }
            let view = state.join(format!("lower-{index}"));
            std::fs::create_dir_all(&view).map_err(Error::path("make", &view))?;
            mounts::bind(&layer.path, &view, View { read_only: true, idmap: Some(userns) })?;
            lower.push(view);
        }
        let relative = overlay.at.strip_prefix("/").unwrap_or(&overlay.at);
        let target = if relative.as_os_str().is_empty() { root.clone() } else { root.join(relative) };
        mounts::overlay(&lower, &state, &target, pod.machine.ids)?;
        // The overlay has its own copies of them.
        for view in overlay.lower.iter().zip(&lower).filter_map(|(layer, view)| layer.idmap.then_some(view)) {
            mounts::detach(view);
        }
    }
    Ok(root)
}

/// Everything that is bound, in an order in which nothing hides what came before.
fn all_binds(spec: &ContainerSpec, pod: &Pod, groups: Vec<(PathBuf, String)>, namespaces: &Held) -> Vec<Bind> {
    let plain =
        |source: &Path, target: PathBuf, read_only: bool| Bind { source: source.to_path_buf(), target, read_only, idmap: false };
    let mut all: Vec<Bind> = pod.shared.iter().map(|(source, target)| plain(source, target.clone(), false)).collect();
    if namespaces.network().is_some() {
        let top = Path::new("/sys/fs/cgroup");
        all.extend(groups.iter().map(|(source, name)| plain(source, top.join(name), true)));
    }
    let mut own: Vec<Bind> = spec.root.binds.iter().chain(&spec.binds).cloned().collect();
    own.sort_by_key(|bind| bind.target.components().count());
    all.extend(own);
    all
}

/// Mounts every source below the bundle; answers the mounts and where they go.
fn stage_binds(binds: &[Bind], directory: &Path, userns: BorrowedFd<'_>) -> Result<Vec<(PathBuf, PathBuf)>, StartError> {
    let stage = directory.join("binds");
    std::fs::create_dir_all(&stage).map_err(Error::path("make", &stage))?;
    let mut staged = Vec::new();
    for (number, bind) in binds.iter().enumerate() {
        let Ok(data) = std::fs::metadata(&bind.source) else { return Err(StartError::NoSource(bind.source.clone())) };
        let place = stage.join(number.to_string());
        if data.is_dir() {
            std::fs::create_dir_all(&place).map_err(Error::path("make", &place))?;
        } else {
            std::fs::write(&place, "").map_err(Error::path("make", &place))?;
        }
        let view = View { read_only: bind.read_only, idmap: bind.idmap.then_some(userns) };
        mounts::bind(&bind.source, &place, view)?;
        staged.push((place, bind.target.clone()));
    }
    Ok(staged)
}

/// Makes the working directory as root of the container, as `runc` does: in the innermost bind that it lies below, or
/// else in the root.
fn make_working_directory(cwd: &str, root: &Path, binds: &[Bind], staged: &[(PathBuf, PathBuf)], base: u32) -> Result<(), Error> {
    let plain = |path: &Path| path.components().filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>();
    let wanted = plain(Path::new(cwd));
    let around = binds.iter().zip(staged).filter(|(bind, _)| wanted.starts_with(plain(&bind.target)));
    let Some((bind, (place, _))) = around.max_by_key(|(bind, _)| plain(&bind.target).components().count()) else {
        return make_below(root, &wanted, base);
    };
    // One that cannot be written may have the directory; the runtime says so if it has not.
    if bind.read_only || !place.is_dir() {
        return Ok(());
    }
    let below = wanted.strip_prefix(plain(&bind.target)).unwrap_or(&wanted);
    // Through a view with changed ids root of this machine can make nothing; its source knows the ids of this machine.
    if bind.idmap { make_below(&bind.source, below, 0) } else { make_below(place, below, base) }
}

/// Makes a directory and those above it; links cannot lead out of `root`.
fn make_below(root: &Path, path: &Path, owner: u32) -> Result<(), Error> {
    let what = || format!("make working directory {} in {}", path.display(), root.display());
    let top = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(Error::errno(what()))?;
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    let mut walked = PathBuf::from(".");
    for part in path.components() {
        let parent = open(&walked).map_err(Error::errno(what()))?;
        walked.push(part);
        if open(&walked).is_ok() {
            continue;
        }
        match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // Another container that starts at the same time has made it.
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(Error::errno(what())(error)),
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent, part.as_os_str(), Some(uid), Some(gid), flags).map_err(Error::errno(what()))?;
    }
    Ok(())
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(Error::path("write", path))
}

/// Runs the copy of this program that creates the container; answers the number of its first process.
fn run(directory: &Path, id: &str, namespaces: &Held, spec: ContainerSpec) -> Result<i32, StartError> {
    let program = spec.args[0].clone();
    let mut runtime = Command::new("/proc/self/exe")
        .arg(runtime::NAME)
        .arg(directory)
        .arg(id)
        .args(namespaces.paths().into_iter().map(|(_, path)| path))
        .stdin(Stdio::null())
        .stdout(spec.stdout)
        .stderr(spec.stderr)
        .env_clear()
        .spawn()
        .map_err(Error::system("start a copy of this program"))?;
    let status = wait(&mut runtime)?;
    if !status.success() {
        let message = std::fs::read_to_string(directory.join(runtime::ERROR_FILE)).unwrap_or_default();
        return Err(start_error(&message, &program, status));
    }
    let path = directory.join(runtime::PID_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::path("read", &path))?;
    text.trim().parse().map_err(|_| StartError::CannotRun(format!("{} holds no number", path.display())))
}

/// Waits for the runtime; one that hangs, on a dead disk say, is killed.
fn wait(runtime: &mut Child) -> Result<ExitStatus, Error> {
    let failed = || Error::system("wait for a copy of this program");
    let process = Pid::from_child(runtime);
    let Ok(descriptor) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else {
        return runtime.wait().map_err(failed());
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed()(error.into())),
            Ok(0) => {
                let _ = runtime.kill();
                let _ = runtime.wait();
                let message = format!("it has not come to an end in {} seconds", PATIENCE.as_secs());
                return Err(Error::Reexec { what: "start a container", message });
            }
            Ok(_) => return runtime.wait().map_err(failed()),
        }
    }
}

/// What the runtime says, in the words of people.
fn start_error(message: &str, program: &str, status: ExitStatus) -> StartError {
    let message = message.trim();
    let missing = ["not found in $PATH", "executable file not found", "No such file or directory", "ENOENT"];
    if message.contains(program) && missing.iter().any(|words| message.contains(words)) {
        StartError::CommandNotFound(program.to_owned())
    } else if message.is_empty() {
        StartError::CannotRun(format!("the container runtime ended ({status})"))
    } else {
        StartError::CannotRun(message.chars().take(LONGEST_MESSAGE).collect())
    }
}

/// Removes what a container leaves on this machine.
pub(crate) fn remove(bundle: &Bundle, machine: &Machine) {
    let cleared = machine.cgroups.remove(&bundle.cgroup).and_then(|_| mounts::detach_below(&bundle.directory));
    if let Err(error) = cleared {
        tracing::warn!(error = &error as &dyn std::error::Error, "something of a container was left behind");
        return;
    }
    match std::fs::remove_dir_all(&bundle.directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, directory = %bundle.directory.display(), "files of a container were left behind");
        }
        _ => {}
    }
}
