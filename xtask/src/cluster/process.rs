//! Processes that outlive the command which started them, found again by what they wrote down.
//!
//! A process id alone is no name: ids are used again. So the record holds the kernel's start time too, and a process is ours only
//! when both agree. It writes the record itself, before it becomes the component: whoever kills `up` at any moment leaves no
//! component without a record. A supervisor that stays was decided against, as it could be killed like any other.

use super::paths::Paths;
use anyhow::{Context, Result, bail};
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);

/// A process as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub pid: u32,
    pub started: u64,
}

impl Recorded {
    /// Whether this very process still runs: the same id, started at the same time, and no zombie.
    pub fn runs(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        parse_stat(&stat).is_some_and(|(state, started)| started == self.started && state != "Z" && state != "X")
    }

    fn signal(self, signal: &str) {
        if self.runs() {
            // The built-in of the shell: `kill` of procps may be missing. A process that is gone by now is what we want.
            let _ = Command::new("sh")
                .args(["-c", "kill \"$0\" \"$1\"", signal, &self.pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// State and start time from `/proc/PID/stat`. The name in it may hold anything, so what counts begins after its last bracket.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let fields: Vec<_> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    Some((fields.first()?, fields.get(19)?.parse().ok()?))
}

fn parse_record(text: &str) -> Option<Recorded> {
    let mut words = text.split_whitespace();
    Some(Recorded { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
}

/// The running process of a component, if it runs.
pub fn running(paths: &Paths, name: &str) -> Option<Recorded> {
    parse_record(&fs::read_to_string(paths.pid(name)).ok()?).filter(|recorded| recorded.runs())
}

/// Starts a component in a session of its own; its output goes to its log. Says whether there was anything to start.
pub fn start(paths: &Paths, name: &str, words: &[String]) -> Result<bool> {
    if running(paths, name).is_some() {
        return Ok(false);
    }
    let log = paths.log(name);
    let record = paths.pid(name);
    let _ = fs::remove_file(&record);
    let open =
        || OpenOptions::new().create(true).append(true).open(&log).with_context(|| format!("failed to open {}", log.display()));
    // Field 22 of stat is the start time; the shell's own name has no blank in it.
    let script = r#"read -r stat </proc/$$/stat && set -- "$(echo "$stat" | cut -d' ' -f22)" "$@" &&
        echo "$$ $1" >"$0.new" && mv "$0.new" "$0" && shift && exec "$@""#;
    let mut child = Command::new("setsid")
        .args(["sh", "-c", script])
        .arg(&record)
        .args(words)
        .current_dir(&paths.state)
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    await_for(&format!("the record of {name}"), 10, || {
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended at once, {status}; {}", tail(&log));
        }
        Ok(running(paths, name).is_some())
    })?;
    Ok(true)
}

/// Ends a component: politely first, then not. Says whether it ran.
pub fn stop(paths: &Paths, name: &str, grace: Duration) -> Result<bool> {
    let was = running(paths, name);
    if let Some(process) = was {
        process.signal("-TERM");
        let deadline = Instant::now() + grace;
        while process.runs() && Instant::now() < deadline {
            sleep(TICK);
        }
        process.signal("-KILL");
        await_for(&format!("the end of {name} (process {})", process.pid), 10, || Ok(!process.runs()))?;
    }
    let _ = fs::remove_file(paths.pid(name));
    Ok(was.is_some())
}

/// Waits for a condition; the error says for what.
pub fn await_for(what: &str, seconds: u64, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !holds()? {
        if Instant::now() > deadline {
            bail!("gave up after {seconds} s of waiting for {what}");
        }
        sleep(TICK);
    }
    Ok(())
}

/// Waits like `await_for`, but not for a component that has died.
pub fn await_component(paths: &Paths, name: &str, seconds: u64, mut ready: impl FnMut() -> bool) -> Result<()> {
    await_for(name, seconds, || {
        if running(paths, name).is_none() {
            bail!("{name} died; {}", tail(&paths.log(name)));
        }
        Ok(ready())
    })
    .with_context(|| format!("{name} is not ready, see {}", paths.log(name).display()))
}

/// The last lines of a log, for an error.
fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<_> = text.lines().collect();
    format!("its last lines in {}:\n{}", log.display(), lines[lines.len().saturating_sub(8)..].join("\n"))
}

/// Runs a command without showing its output; the error has what it wrote.
pub fn quietly(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("failed to start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> (tempfile::TempDir, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { state: directory.path().to_owned() };
        fs::create_dir(directory.path().join("pids")).unwrap();
        fs::create_dir(directory.path().join("log")).unwrap();
        (directory, paths)
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_process_with_a_strange_name_is_read_right() {
        let stat = "42 (a ) (b) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_stat(stat), Some(("S", 987_654)));
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_component_starts_once_and_ends() {
        let (_directory, paths) = paths();
        assert!(start(&paths, "sleeper", &words("sleep 300")).unwrap());
        assert!(!start(&paths, "sleeper", &words("sleep 300")).unwrap());
        let process = running(&paths, "sleeper").unwrap();
        assert!(stop(&paths, "sleeper", Duration::from_secs(5)).unwrap());
        assert!(!process.runs());
        assert!(!stop(&paths, "sleeper", Duration::from_secs(5)).unwrap());
    }

    #[test]
    fn a_process_that_took_over_the_id_is_not_ended() {
        let (_directory, paths) = paths();
        let mut other = Command::new("sleep").arg("300").spawn().unwrap();
        fs::write(paths.pid("sleeper"), format!("{} 1\n", other.id())).unwrap();
        assert_eq!(running(&paths, "sleeper"), None);
        assert!(!stop(&paths, "sleeper", Duration::ZERO).unwrap());
        assert!(other.try_wait().unwrap().is_none(), "another's process was ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_component_that_ends_at_once_is_an_error_with_its_words() {
        let (_directory, paths) = paths();
        let error =
            start(&paths, "broken", &words("ls /no/such/file")).and_then(|_| await_component(&paths, "broken", 5, || false));
        assert!(format!("{:#}", error.unwrap_err()).contains("/no/such/file"));
    }
}
