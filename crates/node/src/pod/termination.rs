//! How a container ended, in the kubelet's words.

use crate::clock;
use crate::logs::Log;
use crate::status::Termination;
use k8s_openapi::jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use std::io::Read;
use std::path::Path;

/// Longest termination message (the kubelet's own).
const MOST_BYTES: usize = 4096;
/// Lines a message falls back to (the kubelet's own).
const LOG_LINES: usize = 80;
/// Bytes a message falls back to (the kubelet's own).
const LOG_BYTES: usize = 2048;

/// What the container left as its message. The file is the container's to write, so what it has become is not
/// trusted: no link is followed, nothing but a file is read.
pub fn message(file: &Path, policy: Option<&str>, log: &Log, exit_code: i32) -> String {
    let text = read(file).unwrap_or_default();
    if text.is_empty() && exit_code != 0 && policy == Some("FallbackToLogsOnError") {
        return log.last_lines(LOG_LINES, LOG_BYTES);
    }
    text
}

fn read(file: &Path) -> std::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = std::fs::File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !opened.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    opened.take(MOST_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process that ended.
pub fn ended(exit: &sandbox::Exit, started_at: Timestamp, message: String) -> Termination {
    let reason = match exit.code {
        0 => "Completed",
        _ if exit.oom_killed => "OOMKilled",
        _ => "Error",
    };
    Termination {
        exit_code: exit.code,
        signal: None,
        reason,
        message,
        started_at: Some(started_at),
        finished_at: clock::now(),
        container_id: None,
    }
}

/// A process that could not be started at all.
pub fn never_started(message: String) -> Termination {
    Termination {
        exit_code: 128,
        signal: None,
        reason: "StartError",
        message,
        started_at: None,
        finished_at: clock::now(),
        container_id: None,
    }
}

/// Number of a signal as images name it: `SIGTERM`, `TERM` or `15`.
pub fn signal(name: &str) -> Option<i32> {
    let short = name.trim().to_ascii_uppercase();
    let short = short.strip_prefix("SIG").unwrap_or(&short);
    let known = match short {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "TERM" => libc::SIGTERM,
        "WINCH" => libc::SIGWINCH,
        "PWR" => libc::SIGPWR,
        other => {
            let offset = other.strip_prefix("RTMIN+").and_then(|rest| rest.parse::<i32>().ok());
            // The C library keeps the first two real-time signals for itself.
            return offset.map(|offset| 34 + offset).or_else(|| other.parse().ok()).filter(|number| (1..=64).contains(number));
        }
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::{MOST_BYTES, message, signal};
    use crate::logs::Log;

    #[test]
    fn a_message_is_bounded_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new(&directory.path().join("log")).unwrap();
        let file = directory.path().join("m");
        std::fs::write(&file, vec![b'x'; MOST_BYTES + 10]).unwrap();
        assert_eq!(message(&file, None, &log, 1).len(), MOST_BYTES);
        let link = directory.path().join("l");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert_eq!(message(&link, None, &log, 1), "");
        rustix::fs::mknodat(rustix::fs::CWD, directory.path().join("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(message(&directory.path().join("p"), None, &log, 1), "", "a pipe without a writer must not hang");
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, expected) in
            [("SIGTERM", Some(15)), ("quit", Some(3)), ("9", Some(9)), ("SIGRTMIN+3", Some(37)), ("65", None), ("X", None)]
        {
            assert_eq!(signal(name), expected, "{name}");
        }
    }
}
