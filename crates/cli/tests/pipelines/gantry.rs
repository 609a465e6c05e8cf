//! The program `gantry` as a child: what it prints, how it ends, signals.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a run may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(20);

/// A run under way. Its output goes to files, so that it never waits for us.
pub struct Gantry {
    child: Child,
    output: tempfile::TempDir,
}

/// A run that ended.
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it printed as errors.
    pub stderr: String,
}

impl Gantry {
    /// Starts `gantry ci` with these arguments.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_with(directory, arguments, |_| {})
    }

    /// The same with something else about the child, as its environment.
    pub fn start_with(directory: &Path, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let output = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(output.path().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.arg("ci").args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        change(&mut command);
        let child = command.spawn().unwrap();
        Self { child, output }
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where its standard output goes.
    pub fn stdout_file(&self) -> std::path::PathBuf {
        self.output.path().join("stdout")
    }

    /// Waits until it has printed `text`.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |gantry| gantry.printed("stdout").contains(text));
    }

    /// Waits until `done`.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                panic!("{what}: not seen ({ended:?}):\n{}\n{}", self.printed("stdout"), self.printed("stderr"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(self) -> Ended {
        let (code, output) = self.end_within(PATIENCE);
        let read = |name: &str| String::from_utf8_lossy(&std::fs::read(output.path().join(name)).unwrap()).into_owned();
        let ended = Ended { code, stdout: read("stdout"), stderr: read("stderr") };
        // However it ended: the manager has removed its pods, and no part has lost its head.
        ended.hides("were not cleaned up").hides("panicked at")
    }

    /// Waits for its end; answers its exit code and where the output is.
    pub fn end_within(mut self, limit: Duration) -> (Option<i32>, tempfile::TempDir) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let output = std::mem::replace(&mut self.output, tempfile::tempdir().unwrap());
                return (status.code(), output);
            }
            assert!(begun.elapsed() < limit, "it runs still:\n{}\n{}", self.printed("stdout"), self.printed("stderr"));
            std::thread::sleep(LOOK);
        }
    }

    /// What it printed so far, as `stdout` or `stderr`.
    pub fn printed(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path().join(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Gantry {
    fn drop(&mut self) {
        // Only a case that failed gets here with a child that runs: it may clean up first.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(20) && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    /// Fails with all that was printed, unless it ended with `code`.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails with all that was printed, unless `text` was.
    pub fn shows(self, text: &str) -> Self {
        let shown = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(shown, "{text:?} is not shown:\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails when `text` was printed.
    pub fn hides(self, text: &str) -> Self {
        let shown = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(!shown, "{text:?} is shown:\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Where traces were kept (`--keep`).
    pub fn kept(&self) -> std::path::PathBuf {
        kept(&self.stderr)
    }
}

/// Where traces were kept, from what was printed as errors.
pub fn kept(stderr: &str) -> std::path::PathBuf {
    let line = stderr.lines().find_map(|line| line.split_once("are kept in "));
    line.unwrap_or_else(|| panic!("no place is told: {stderr}")).1.trim().into()
}

/// Runs `gantry ci` to its end.
pub fn ci(directory: &Path, arguments: &[&str]) -> Ended {
    Gantry::start(directory, arguments).end()
}
