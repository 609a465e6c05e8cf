//! What a job of the suite does, and what its log must then be.
//!
//! A job prints numbered lines and at the end a checksum over them. All that it does stands in its name, so that the
//! expected log follows from what GitLab says of the job alone, also after a restart of everything.

use super::dice::Dice;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// Makes lines long enough that a patch ends in the middle of one.
const FILLER: &str = "the quick brown fox jumps over the lazy dog";

/// How the line begins that a manager adds for an agent that can say no more.
const SYSTEM_FAILURE: &str = "\u{1b}[31;1mERROR: Job failed (system failure)";

/// A job's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Lines it prints.
    pub lines: u64,
    /// Pauses between them.
    pub pauses: u64,
    /// Length of each.
    pub pause: Duration,
    /// How it ends.
    pub exit_code: i32,
    /// Whether it clones first.
    pub clones: bool,
}

impl Task {
    /// Some task that pauses for `longest` at most.
    pub fn any(dice: &mut Dice, longest: Duration) -> Self {
        let lines = if dice.one_in(20) { dice.between(5_000, 20_000) } else { dice.between(10, 400) };
        let pauses = dice.between(1, 8);
        let pause = dice.time(longest) / u32::try_from(pauses).unwrap_or(1);
        let exit_code = if dice.one_in(10) { 7 } else { 0 };
        Self { lines, pauses, pause: Duration::from_millis(pause.as_millis() as u64), exit_code, clones: dice.one_in(8) }
    }

    /// Its name in a pipeline.
    pub fn name(&self, number: u64) -> String {
        let (lines, pauses, pause, exit) = (self.lines, self.pauses, self.pause.as_millis(), self.exit_code);
        format!("job {number}: {lines} lines, {pauses} pauses, {pause} ms, exit {exit}, clone {}", u8::from(self.clones))
    }

    /// Reads it back.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, rest) = name.split_once(": ")?;
        let words: Vec<_> = rest.split(|one: char| !one.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        let [lines, pauses, pause, exit, clone] = words.as_slice() else { return None };
        Some(Self {
            lines: lines.parse().ok()?,
            pauses: pauses.parse().ok()?,
            pause: Duration::from_millis(pause.parse().ok()?),
            exit_code: exit.parse().ok()?,
            clones: *clone == "1",
        })
    }

    /// Its entry in a `.gitlab-ci.yml`; `began` is where it says that it began.
    fn yaml(&self, number: u64, began: &str) -> String {
        let every = self.lines.div_ceil(self.pauses.max(1)).max(1);
        let (name, lines, pause, exit) = (self.name(number), self.lines, self.pause.as_secs_f64(), self.exit_code);
        let git = if self.clones { "clone" } else { "none" };
        format!(
            r#""{name}":
  image: $BUSYBOX
  variables: {{GIT_STRATEGY: {git}}}
  script:
    - |
      wget -q -T 3 -O /dev/null "{began}$CI_JOB_ID" 2>/dev/null || true
      i=0
      while [ $i -lt {lines} ]; do
        i=$((i+1))
        echo "line $i of job $CI_JOB_ID {FILLER}"
        [ $((i % {every})) -ne 0 ] || sleep {pause}
      done | tee lines.txt
      echo "checksum $(sha256sum < lines.txt)"
      exit {exit}
"#
        )
    }
}

/// A pipeline of these tasks, the first of which has this number.
pub fn pipeline(tasks: &[Task], first: u64, began: &str) -> String {
    (first..).zip(tasks).map(|(number, task)| task.yaml(number, began)).collect()
}

/// What a log is found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is wrong with it.
    pub wrong: Vec<String>,
    /// Whether something stands in it twice.
    pub doubled: bool,
    /// Numbered lines in it.
    pub lines: u64,
    /// Whether it says at its end what it has to say.
    pub whole: bool,
}

/// Compares the log of job `id` with its task.
pub fn check(task: &Task, id: u64, trace: &[u8]) -> Found {
    let text = String::from_utf8_lossy(trace);
    let (mut found, mut hash, mut checksums) = (Found::default(), Sha256::new(), Vec::new());
    let mut expected = String::new();
    // The manager's own last line stands behind whatever came of an agent that fell, perhaps half a line.
    let of_the_agent = text.split(SYSTEM_FAILURE).next().unwrap_or_default();
    let mut lines = of_the_agent.split('\n').map(|line| line.trim_end_matches('\r')).peekable();
    while let Some(line) = lines.next() {
        // A carriage return hides what stands before it, a section mark for example.
        let line = line.rsplit('\r').next().unwrap_or(line).trim_start_matches("\u{1b}[0K");
        if let Some(sum) = line.strip_prefix("checksum ") {
            checksums.push(sum.split(' ').next().unwrap_or_default().to_owned());
        } else if line.starts_with("line ") {
            expected.clear();
            let _ = write!(expected, "line {} of job {id} {FILLER}", found.lines + 1);
            if line == expected {
                found.lines += 1;
                hash.update(line.as_bytes());
                hash.update(b"\n");
            } else if lines.peek().is_none() && expected.starts_with(line) {
                // What came after it was not sent.
            } else {
                let number = line.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok());
                found.doubled |= number.is_some_and(|number| number <= found.lines);
                found.wrong.push(format!("after line {} stands {line:?}", found.lines));
            }
        }
    }
    let last = if task.exit_code == 0 { "Job succeeded".to_owned() } else { format!("exit code {}", task.exit_code) };
    let ends = text.matches(&last).count();
    found.doubled |= ends > 1 || checksums.len() > 1;
    found.whole = found.wrong.is_empty() && found.lines == task.lines && checksums == [hex::encode(hash.finalize())] && ends == 1;
    if found.doubled {
        found.wrong.push("something stands in it twice".to_owned());
    }
    // One line too many tells as much as a thousand.
    found.wrong.truncate(3);
    found
}

#[cfg(test)]
mod tests {
    use super::{Task, check, pipeline};
    use crate::chaos::dice::Dice;
    use std::process::Command;
    use std::time::Duration;

    const TASK: Task = Task { lines: 12, pauses: 2, pause: Duration::from_millis(1), exit_code: 7, clones: false };

    /// What the very script prints, with the last line that a runner adds.
    fn log(id: u64) -> String {
        let yaml = pipeline(&[TASK], 1, "http://127.0.0.1:1/");
        let script: String = yaml.split("- |\n").nth(1).unwrap().to_owned();
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("CI_JOB_ID", id.to_string()).current_dir(&directory);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(7));
        format!("section_start:1:x\r\u{1b}[0K{}ERROR: Job failed: exit code 7\n", String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_name_says_all_of_a_task() {
        let mut dice = Dice::new(1);
        for number in 0..100 {
            let task = Task::any(&mut dice, Duration::from_secs(9));
            assert_eq!(Task::of_name(&task.name(number)), Some(task));
        }
    }

    #[test]
    fn the_log_of_the_script_is_what_is_expected() {
        let found = check(&TASK, 5, log(5).as_bytes());
        assert!(found.whole && !found.doubled && found.wrong.is_empty(), "{found:?}");
    }

    #[test]
    fn the_log_of_an_agent_that_fell_may_end_anywhere() {
        let log = log(5);
        let fell = |at: usize| format!("{}{}: it fell\n", &log[..at], super::SYSTEM_FAILURE);
        for at in 0..log.len() {
            let found = check(&TASK, 5, fell(at).as_bytes());
            assert!(found.wrong.is_empty() && !found.doubled, "{at}: {found:?}");
        }
        let middle = log.find("line 5").unwrap();
        let hole = fell(middle + 30).replace("line 2 of", "line 3 of");
        assert!(!check(&TASK, 5, hole.as_bytes()).wrong.is_empty());
    }

    #[test]
    fn a_line_that_lacks_or_stands_twice_is_seen() {
        let log = log(5);
        let line = log.lines().find(|line| line.starts_with("line 3 ")).unwrap();
        let lacks = check(&TASK, 5, log.replace(&format!("{line}\n"), "").as_bytes());
        assert!(!lacks.whole && !lacks.doubled && !lacks.wrong.is_empty(), "{lacks:?}");
        let twice = check(&TASK, 5, log.replace(line, &format!("{line}\n{line}")).as_bytes());
        assert!(!twice.whole && twice.doubled, "{twice:?}");
        let again = check(&TASK, 5, format!("{log}{log}").as_bytes());
        assert!(!again.whole && again.doubled, "{again:?}");
        let bent = check(&TASK, 5, log.replace("fox", "fax").as_bytes());
        assert!(!bent.whole && !bent.wrong.is_empty(), "{bent:?}");
    }
}
