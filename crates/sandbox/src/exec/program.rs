//! The process that becomes the program: streams, user, rights, then the program itself.
//!
//! It is the container's already. What it cannot do it says over a pipe that closes by itself when the program runs.

use super::wire::Request;
use anyhow::Context as _;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::{fs, process, stdio, thread};
use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

/// First byte of the message that the program is missing.
pub(super) const NOT_FOUND: &str = "n";
/// First byte of any other message.
const CANNOT_RUN: &str = "c";
/// Most bytes of `/etc/passwd` that are looked at.
const PASSWD_LIMIT: u64 = 1 << 20;

/// The program's standard streams.
pub(super) enum Streams {
    /// Input, output, errors.
    Pipes([OwnedFd; 3]),
    /// A terminal for all three.
    Terminal(OwnedFd),
}

/// Becomes the program, or says why not and ends.
pub(super) fn run(request: &Request, streams: Streams, report: OwnedFd) -> ! {
    let (kind, code, message) = match become_program(request, streams) {
        Ok(Failure::NotFound) => (NOT_FOUND, 127, String::new()),
        Ok(Failure::CannotRun(message)) => (CANNOT_RUN, 126, message),
        Err(error) => (CANNOT_RUN, 126, format!("{error:#}")),
    };
    let _ = std::fs::File::from(report).write_all(format!("{kind}{message}").as_bytes());
    std::process::exit(code)
}

/// Why there is no program.
enum Failure {
    NotFound,
    CannotRun(String),
}

fn become_program(request: &Request, streams: Streams) -> anyhow::Result<Failure> {
    process::setsid().context("failed to start a session")?;
    attach(streams).context("failed to attach the streams")?;
    let environment = environment(request)?;
    let arguments: Vec<CString> = request.args.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>()?;
    drop_rights(request).context("failed to become the container's user")?;
    if let Err(error) = process::chdir(request.cwd.as_str()) {
        return Ok(Failure::CannotRun(format!("chdir to {:?}: {}", request.cwd, std::io::Error::from(error))));
    }
    process::umask(Mode::from_raw_mode(0o022));
    reset_signals();
    // The outer copy is in another process namespace: a parent that can be seen is a new one.
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    anyhow::ensure!(process::getppid().is_none(), "nobody waits for the program");
    Ok(execute(&request.args[0], request, &arguments, &environment))
}

fn attach(streams: Streams) -> rustix::io::Result<()> {
    let [input, output, errors] = match &streams {
        Streams::Pipes([input, output, errors]) => [input, output, errors],
        Streams::Terminal(terminal) => {
            process::ioctl_tiocsctty(terminal)?;
            [terminal; 3]
        }
    };
    stdio::dup2_stdin(input)?;
    stdio::dup2_stdout(output)?;
    stdio::dup2_stderr(errors)
}

/// Bounding set first, while there is the right to; the user last.
fn drop_rights(request: &Request) -> anyhow::Result<()> {
    let keep = CapabilitySet::from_bits_retain(request.capabilities);
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !keep.contains(one) {
            match thread::remove_capability_from_bounding_set(one) {
                // Past the last one the kernel knows.
                Err(Errno::INVAL) => break,
                dropped => dropped?,
            }
        }
    }
    let groups: Vec<_> = request.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
    thread::set_thread_groups(&groups)?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    let held = if uid.is_root() { thread::capabilities(None)?.permitted & keep } else { CapabilitySet::empty() };
    thread::set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() })?;
    if request.no_new_privileges {
        thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// Ignored signals and blocked ones are inherited; the program shall find the usual ones.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: no handler of ours is installed that could be missed; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero signal set is an empty one, and it lives through the call.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn environment(request: &Request) -> anyhow::Result<Vec<CString>> {
    let mut lines: Vec<String> = request.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !request.env.iter().any(|(name, _)| name == "HOME") {
        lines.push(format!("HOME={}", home(request.uid)));
    }
    Ok(lines.into_iter().map(CString::new).collect::<Result<_, _>>()?)
}

/// The user's home directory, `/` when the container does not know the user.
fn home(uid: u32) -> String {
    // Any file may be there; one that blocks is not opened for long.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut text = Vec::new();
    if let Ok(file) = fs::open("/etc/passwd", flags, Mode::empty())
        && fs::fstat(&file).is_ok_and(|stat| fs::FileType::from_raw_mode(stat.st_mode).is_file())
    {
        let _ = std::fs::File::from(file).take(PASSWD_LIMIT).read_to_end(&mut text);
    }
    home_in(&String::from_utf8_lossy(&text), uid).unwrap_or("/").to_owned()
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2))?.filter(|home| home.starts_with('/') && !home.contains('\0'))
    })
}

/// Searches as a shell does: the first file that runs, and a file without the right to run it only when there is no
/// other.
fn execute(name: &str, request: &Request, arguments: &[CString], environment: &[CString]) -> Failure {
    let path = request.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path.as_str());
    let mut denied = None;
    for candidate in candidates(name, path) {
        let Ok(file) = CString::new(candidate.as_str()) else { continue };
        match replace_process(&file, arguments, environment) {
            Errno::NOENT | Errno::NOTDIR if fs::stat(&file).is_ok() => {
                return Failure::CannotRun(format!("exec {candidate:?}: its interpreter is missing"));
            }
            Errno::NOENT | Errno::NOTDIR => {}
            error @ (Errno::ACCESS | Errno::ISDIR) => denied = denied.or(Some((candidate, error))),
            error => return Failure::CannotRun(format!("exec {candidate:?}: {}", std::io::Error::from(error))),
        }
    }
    match denied {
        None => Failure::NotFound,
        Some((candidate, error)) => Failure::CannotRun(format!("exec {candidate:?}: {}", std::io::Error::from(error))),
    }
}

fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    // An empty part is the working directory, as everywhere.
    path.split(':').map(|part| format!("{}/{name}", if part.is_empty() { "." } else { part })).collect()
}

/// Comes back only with an error.
fn replace_process(file: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers =
        |texts: &[CString]| -> Vec<_> { texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>() };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: all three point to strings ended by zero, and both lists end with a null pointer.
    unsafe { libc::execve(file.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_directory_is_the_users_own_and_absolute() {
        let passwd = "broken\nroot:x:0:0:root:/root:/bin/sh\nodd:x:7:7::relative:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh";
        assert_eq!(home_in(passwd, 1000), Some("/home/app"));
        assert_eq!((home_in(passwd, 7), home_in(passwd, 8)), (None, None));
    }

    #[test]
    fn only_a_bare_name_is_searched_for() {
        assert_eq!(candidates("sh", "/usr/bin::/bin"), ["/usr/bin/sh", "./sh", "/bin/sh"]);
        assert_eq!(candidates("./run", "/bin"), ["./run"]);
    }
}
