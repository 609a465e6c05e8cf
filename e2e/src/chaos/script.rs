//! What a job of the suite does, and what its log must then be.
//!
//! A job prints numbered lines and at the end a checksum over them. All that it does stands in its name, so that the
//! expected log follows from what GitLab says of the job alone, also after a restart of everything.

use super::dice::Dice;
use super::odd::Odd;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// Makes lines long enough that a patch ends in the middle of one.
const FILLER: &str = "the quick brown fox jumps over the lazy dog";

/// How the line begins that a manager adds for an agent that can say no more.
const SYSTEM_FAILURE: &str = "\u{1b}[31;1mERROR: Job failed (system failure)";
/// What is said where a cancel ended a script, and at the end of a job that it ended.
const SCRIPT_CANCELED: &str = "WARNING: script canceled externally (UI, API)";
const CANCELED: &str = "ERROR: Job failed: canceled";
/// What a shell may say of a child that was ended, perhaps behind half a line of its.
const TERMINATED: &str = "Terminated";

/// Where the submodule of the project is.
pub const SUBMODULE: &str = "library";

/// Asked by its address: the static busybox cannot resolve names.
const SERVICE: &str = r#"  services:
    - name: $BUSYBOX
      alias: web
      command: [sh, -c, "mkdir -p /www && echo served > /www/index.html && exec httpd -f -p 8080 -h /www"]
"#;

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
    /// What else belongs to it.
    pub extras: Extras,
}

/// What a job has besides its script, for each of which a pod or an agent does more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// It clones first.
    pub clones: bool,
    /// With a submodule, if it clones.
    pub submodule: bool,
    /// Its lines become artifacts.
    pub artifacts: bool,
    /// It asks a service before it prints.
    pub service: bool,
    /// It has an after_script.
    pub after_script: bool,
    /// Which fails.
    pub after_fails: bool,
    /// What it prints last.
    pub odd: Odd,
}

impl Extras {
    fn any(dice: &mut Dice) -> Self {
        Self {
            clones: dice.one_in(8),
            submodule: dice.one_in(2),
            artifacts: dice.one_in(5),
            service: dice.one_in(8),
            after_script: dice.one_in(5),
            after_fails: dice.one_in(3),
            odd: Odd::any(dice),
        }
    }

    fn flags(self) -> [bool; 6] {
        [self.clones, self.submodule, self.artifacts, self.service, self.after_script, self.after_fails]
    }

    fn of_flags([clones, submodule, artifacts, service, after_script, after_fails]: [bool; 6], odd: Odd) -> Self {
        Self { clones, submodule, artifacts, service, after_script, after_fails, odd }
    }

    /// Without what a job asks GitLab for besides its own updates: git and uploads give up when their server is away for
    /// long, and the job with them. That is no loss of ours.
    pub fn without_gitlab(self) -> Self {
        Self { clones: false, submodule: false, artifacts: false, ..self }
    }
}

impl Task {
    /// Some task that pauses for `longest` at most.
    pub fn any(dice: &mut Dice, longest: Duration) -> Self {
        let lines = if dice.one_in(20) { dice.between(5_000, 20_000) } else { dice.between(10, 400) };
        let pauses = dice.between(1, 8);
        let pause = dice.time(longest) / u32::try_from(pauses).unwrap_or(1);
        let exit_code = if dice.one_in(10) { 7 } else { 0 };
        let pause = Duration::from_millis(pause.as_millis() as u64);
        Self { lines, pauses, pause, exit_code, extras: Extras::any(dice) }
    }

    /// Its name in a pipeline.
    pub fn name(&self, number: u64) -> String {
        let (lines, pauses, pause, exit) = (self.lines, self.pauses, self.pause.as_millis(), self.exit_code);
        let flags: Vec<_> = self.extras.flags().iter().map(|flag| u8::from(*flag).to_string()).collect();
        format!(
            "job {number}: {lines} lines, {pauses} pauses, {pause} ms, exit {exit}, extras {} {}",
            flags.join(" "),
            self.extras.odd.number()
        )
    }

    /// Reads it back.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, rest) = name.split_once(": ")?;
        let words: Vec<_> = rest.split(|one: char| !one.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        let [lines, pauses, pause, exit, flags @ .., odd] = words.as_slice() else { return None };
        let flags: [&str; 6] = flags.try_into().ok()?;
        Some(Self {
            lines: lines.parse().ok()?,
            pauses: pauses.parse().ok()?,
            pause: Duration::from_millis(pause.parse().ok()?),
            exit_code: exit.parse().ok()?,
            extras: Extras::of_flags(flags.map(|flag| flag == "1"), Odd::of_number(odd.parse().ok()?)?),
        })
    }

    /// What `CI_JOB_STATUS` is in its after_script.
    fn status_word(&self, script_canceled: bool) -> &'static str {
        match self.exit_code {
            _ if script_canceled => "canceled",
            0 => "success",
            _ => "failed",
        }
    }

    /// Its entry in a `.gitlab-ci.yml`; `began` is where it says that it began.
    fn yaml(&self, number: u64, began: &str) -> String {
        let every = self.lines.div_ceil(self.pauses.max(1)).max(1);
        let (name, lines, pause, exit) = (self.name(number), self.lines, self.pause.as_secs_f64(), self.exit_code);
        let (extras, odd) = (self.extras, self.extras.odd.script());
        let git = if extras.clones { "clone" } else { "none" };
        let submodules = if extras.submodule { "normal" } else { "none" };
        let mut first = String::new();
        if extras.clones && extras.submodule {
            let _ = write!(first, "\n      test -s {SUBMODULE}/README.md || exit 9");
        }
        if extras.service {
            first += "\n      n=0; until timeout 3 wget -q -O - http://127.0.0.1:8080/ | grep -q served; do n=$((n+1)); [ $n -lt 100 ] || exit 8; sleep 0.3; done";
        }
        let mut rest = String::new();
        if extras.service {
            rest += SERVICE;
        }
        if extras.artifacts {
            rest += "  artifacts: {paths: [lines.txt]}\n";
        }
        if extras.after_script {
            rest += "  after_script:\n    - echo \"after of job $CI_JOB_ID, $CI_JOB_STATUS\"\n";
            rest += if extras.after_fails { "    - exit 3\n" } else { "" };
        }
        format!(
            r#""{name}":
  image: $BUSYBOX
  variables: {{GIT_STRATEGY: {git}, GIT_SUBMODULE_STRATEGY: {submodules}}}
{rest}  script:
    - |
      timeout 3 wget -q -O /dev/null "{began}$CI_JOB_ID" 2>/dev/null || true{first}
      i=0
      while [ $i -lt {lines} ]; do
        i=$((i+1))
        echo "line $i of job $CI_JOB_ID {FILLER}"
        [ $((i % {every})) -ne 0 ] || sleep {pause}
      done | tee lines.txt
      echo "checksum $(sha256sum < lines.txt)"
      {odd}
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
    /// Whether its script printed all that it had to.
    pub is_printed: bool,
    /// How often the after_script spoke.
    pub afters: usize,
    /// Whether a cancel ended the script.
    pub script_canceled: bool,
    /// Whether a cancel ended the job.
    pub canceled: bool,
    /// Whether the job ended by itself.
    pub ended: bool,
}

impl Found {
    /// What is wrong with it as the log of a job that was canceled, and whose script `began`: it ends early, or not at
    /// all early when the cancel came late, but it has an end, unless nothing of it ran.
    pub fn wrong_of_canceled(&self, task: &Task, began: bool) -> Option<String> {
        let problem = match (self.canceled, self.ended) {
            (true, true) => "it ends in two ways",
            (false, false) if began || self.lines > 0 => "it began and has no end",
            (false, false) => return None,
            (false, true) if self.whole => return None,
            (false, true) => "it ended by itself and is not whole",
            (true, false) if self.script_canceled && self.afters != usize::from(task.extras.after_script) => {
                "the after_script of a canceled script did not speak"
            }
            (true, false) if !self.script_canceled && self.lines > 0 && !self.is_printed => "its script ends without a word",
            (true, false) => return None,
        };
        Some(problem.to_owned())
    }
}

/// Compares the log of job `id` with its task.
pub fn check(task: &Task, id: u64, trace: &[u8]) -> Found {
    let text = String::from_utf8_lossy(trace);
    let (mut found, mut hash, mut checksums) = (Found::default(), Sha256::new(), Vec::new());
    let (canceled, script_canceled) = (text.matches(CANCELED).count(), text.matches(SCRIPT_CANCELED).count());
    let after = format!("after of job {id}, {}", task.status_word(script_canceled > 0));
    let (mut expected, mut half) = (String::new(), None);
    // The manager's own last line stands behind whatever came of an agent that fell, perhaps half a line.
    let of_the_agent = text.split(SYSTEM_FAILURE).next().unwrap_or_default();
    let mut lines = of_the_agent.split('\n').map(|line| line.trim_end_matches('\r')).peekable();
    while let Some(line) = lines.next() {
        // A carriage return hides what stands before it, a section mark for example.
        let line = line.rsplit('\r').next().unwrap_or(line).trim_start_matches("\u{1b}[0K");
        if let Some(sum) = line.strip_prefix("checksum ") {
            checksums.push(sum.split(' ').next().unwrap_or_default().to_owned());
        } else if line == after {
            found.afters += 1;
        } else if line.starts_with("after of job ") {
            found.wrong.push(format!("{line:?} where {after:?} belongs"));
        } else if line.starts_with("line ") {
            expected.clear();
            let _ = write!(expected, "line {} of job {id} {FILLER}", found.lines + 1);
            if line == expected && half.is_none() {
                found.lines += 1;
                hash.update(line.as_bytes());
                hash.update(b"\n");
            } else if half.is_none() && expected.starts_with(line.trim_end_matches(TERMINATED)) {
                // What came after it was not sent, or was not printed any more.
                half = Some((line, lines.peek().is_none()));
            } else {
                let number = line.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok());
                found.doubled |= number.is_some_and(|number| number <= found.lines);
                found.wrong.push(format!("after line {} stands {line:?}", found.lines));
            }
        }
    }
    let last = if task.exit_code == 0 { "Job succeeded".to_owned() } else { format!("exit code {}", task.exit_code) };
    let ends = text.matches(&last).count();
    let odd = task.extras.odd.count(id, &text);
    found.doubled |= ends > 1 || canceled > 1 || script_canceled > 1 || checksums.len() > 1 || found.afters > 1 || odd > 1;
    if let Some((line, false)) = half.filter(|_| script_canceled == 0 || !checksums.is_empty()) {
        found.wrong.push(format!("after line {} stands {line:?}", found.lines));
    }
    let sum = hex::encode(hash.finalize());
    if checksums.iter().any(|told| *told != sum) && text.len() == of_the_agent.len() {
        found.wrong.push("its checksum is that of other lines".to_owned());
    }
    found.is_printed = found.lines == task.lines && checksums == [sum] && odd == 1;
    (found.script_canceled, found.canceled, found.ended) = (script_canceled > 0, canceled > 0, ends > 0);
    let is_ended = ends == 1 && found.afters == usize::from(task.extras.after_script);
    found.whole = found.wrong.is_empty() && found.is_printed && is_ended;
    if found.doubled {
        found.wrong.push("something stands in it twice".to_owned());
    }
    // One line too many tells as much as a thousand.
    found.wrong.truncate(3);
    found
}

#[cfg(test)]
mod tests {
    use super::{Extras, Task, check, pipeline};
    use crate::chaos::dice::Dice;
    use crate::chaos::odd::Odd;
    use std::process::Command;
    use std::time::Duration;

    const NOTHING: Extras = Extras {
        clones: false,
        submodule: false,
        artifacts: false,
        service: false,
        after_script: false,
        after_fails: false,
        odd: Odd::Nothing,
    };
    const TASK: Task = Task { lines: 12, pauses: 2, pause: Duration::from_millis(1), exit_code: 7, extras: NOTHING };

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
    fn an_after_script_is_to_be_said_once() {
        let task = Task { extras: Extras { after_script: true, ..NOTHING }, ..TASK };
        assert!(!check(&task, 5, log(5).as_bytes()).whole);
        let said = log(5).replace("ERROR", "after of job 5, failed\nERROR");
        assert!(check(&task, 5, said.as_bytes()).whole && !check(&TASK, 5, said.as_bytes()).whole);
        assert!(check(&task, 5, said.replace("ERROR", "after of job 5, failed\nERROR").as_bytes()).doubled);
    }

    #[test]
    fn every_extra_stands_in_a_pipeline_that_can_be_read() {
        let all = Extras {
            clones: true,
            submodule: true,
            artifacts: true,
            service: true,
            after_script: true,
            after_fails: true,
            odd: Odd::Long,
        };
        let yaml = pipeline(&[TASK, Task { extras: all, ..TASK }], 1, "http://127.0.0.1:1/");
        for word in [
            "GIT_SUBMODULE_STRATEGY: normal",
            "alias: web",
            "paths: [lines.txt]",
            "after_script:",
            "exit 3",
            "tr '\\0' x",
            "library/README.md",
        ] {
            assert_eq!(yaml.matches(word).count(), 1, "{word} in {yaml}");
        }
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

    #[test]
    fn the_odd_end_of_a_script_is_part_of_its_log() {
        let task = Task { extras: Extras { odd: Odd::Unfinished, ..NOTHING }, ..TASK };
        assert!(!check(&task, 5, log(5).as_bytes()).whole);
        let said = |text: &str| log(5).replace("ERROR", &format!("{text}\nERROR"));
        assert!(check(&task, 5, said("odd end of job 5 without a newline").as_bytes()).whole);
        assert!(!check(&task, 5, said("odd end of job 5 without a newlin").as_bytes()).whole);
    }

    /// The log of a script of which a cancel left `said`.
    fn canceled(said: &str, more: &str) -> String {
        format!(
            "{}\nsection_end:1:step_script\r\u{1b}[0K\u{1b}[0;33m{}\u{1b}[0;m\n{more}\u{1b}[31;1m{}\u{1b}[0;m\n",
            said,
            super::SCRIPT_CANCELED,
            super::CANCELED
        )
    }

    #[test]
    fn a_canceled_script_may_end_after_any_byte_and_says_so() {
        let log = log(5);
        let end = log.find("checksum").unwrap();
        for at in 0..end {
            let found = check(&TASK, 5, canceled(&log[..at], "").as_bytes());
            assert!(found.wrong.is_empty() && !found.doubled && found.canceled && !found.whole, "{at}: {found:?}");
            assert_eq!(found.wrong_of_canceled(&TASK, true), None);
        }
        let hole = canceled(&log[..end - 10], "").replace("line 3 of", "line 4 of");
        assert!(!check(&TASK, 5, hole.as_bytes()).wrong.is_empty());
        let goes_on = canceled(&log[..end - 10], "line 13 of job 5\n");
        assert!(!check(&TASK, 5, goes_on.as_bytes()).wrong.is_empty());
    }

    #[test]
    fn what_is_wrong_with_the_log_of_a_canceled_job_is_said() {
        let task = Task { extras: Extras { after_script: true, ..NOTHING }, ..TASK };
        let wrong = |task: &Task, began, log: &str| {
            let found = check(task, 5, log.as_bytes());
            (found.wrong.is_empty(), found.wrong_of_canceled(task, began))
        };
        let whole = log(5);
        let middle = &whole[..whole.find("line 6 ").unwrap()];
        let good = (true, None);
        assert_eq!(wrong(&TASK, false, ""), good);
        assert_eq!(wrong(&TASK, false, "ERROR: Job failed: canceled\n"), good);
        // The cancel came too late for the script.
        assert_eq!(wrong(&TASK, true, &whole), good);
        assert_eq!(wrong(&TASK, true, &whole.replace("exit code 7", "canceled")), good);
        assert_eq!(wrong(&task, true, &canceled(middle, "after of job 5, canceled\n")), good);
        let lacks = canceled(middle, "");
        assert_eq!(wrong(&TASK, true, &lacks), good);
        assert!(wrong(&task, true, &lacks).1.unwrap().contains("after_script"));
        assert!(!wrong(&task, true, &canceled(middle, "after of job 5, failed\n")).0);
        assert!(wrong(&TASK, true, "").1.unwrap().contains("no end"));
        let silent = lacks.replace(super::SCRIPT_CANCELED, "");
        assert!(wrong(&TASK, true, &silent).1.unwrap().contains("without a word"));
        assert!(wrong(&TASK, true, &format!("{lacks}exit code 7\n")).1.unwrap().contains("two ways"));
    }
}
