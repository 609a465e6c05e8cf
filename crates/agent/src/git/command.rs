//! The git program with the environment that a job's git has.
//!
//! Settings travel in the environment (`GIT_CONFIG_COUNT`), behind those the job itself has put there: no file of the
//! user's is touched, a login never stands in an argument or a file, and git hands them on to its submodules.

use crate::trace::Trace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Longest variable that is handed to git, and all of them together: the kernel refuses a program with more, and what
/// is as long as that is no setting of git's.
const LONGEST_VALUE: usize = 100_000;
const ALL_VALUES: usize = 1_000_000;

/// Git in one directory.
#[derive(Clone)]
pub struct Git<'a> {
    pub environment: &'a BTreeMap<String, String>,
    pub trace: &'a Trace,
}

impl Git<'_> {
    /// Runs it; its words go into the trace.
    ///
    /// # Errors
    /// When it fails, with what it did.
    pub async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(directory, arguments);
        let status = crate::process::run(&mut command, self.trace).await;
        let status = status.context("failed to start git; the helper image must have it")?;
        if !status.success() {
            bail!("git {} failed ({status})", name(arguments));
        }
        Ok(())
    }

    /// What it prints, without its errors; `None` when it fails.
    pub async fn ask(&self, directory: &Path, arguments: &[&str]) -> Option<String> {
        let mut command = self.command(directory, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(directory).envs(self.environment);
        command
    }
}

/// The subcommand among the arguments.
fn name<'a>(arguments: &[&'a str]) -> &'a str {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "-c" => {
                rest.next();
            }
            other => return other,
        }
    }
    ""
}

/// The variables of a job for git, and settings behind the job's own.
pub fn environment(variables: &[(String, String)], settings: &[(String, String)]) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let mut left = ALL_VALUES;
    for (name, value) in variables {
        let fits = value.len() <= LONGEST_VALUE && name.len() + value.len() <= left;
        if fits && !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
            left -= name.len() + value.len();
            environment.insert(name.clone(), value.clone());
        }
    }
    // A job's own number of settings counts only as far as they are there.
    let asked = environment.get("GIT_CONFIG_COUNT").and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or(0);
    let has = |index: usize| ["KEY", "VALUE"].iter().all(|part| environment.contains_key(&format!("GIT_CONFIG_{part}_{index}")));
    let own = (0..asked).take_while(|index| has(*index)).count();
    for (index, (key, value)) in settings.iter().enumerate() {
        environment.insert(format!("GIT_CONFIG_KEY_{}", own + index), key.clone());
        environment.insert(format!("GIT_CONFIG_VALUE_{}", own + index), value.clone());
    }
    environment.insert("GIT_CONFIG_COUNT".to_owned(), (own + settings.len()).to_string());
    // Nobody is there to answer.
    environment.insert("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned());
    environment.insert("GCM_INTERACTIVE".to_owned(), "Never".to_owned());
    // Large files are fetched together afterwards: one by one they cost a program and a connection each.
    environment.insert("GIT_LFS_SKIP_SMUDGE".to_owned(), "1".to_owned());
    environment
}

#[cfg(test)]
mod tests {
    use super::{environment, name};

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_stand_behind_the_jobs_own() {
        let job =
            [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "a.b"), ("GIT_CONFIG_VALUE_0", "c"), ("GIT_TERMINAL_PROMPT", "1")];
        let made = environment(&pairs(&job), &pairs(&[("x.y", "z")]));
        let get = |name: &str| made.get(name).map(String::as_str);
        assert_eq!(
            (get("GIT_CONFIG_COUNT"), get("GIT_CONFIG_KEY_0"), get("GIT_CONFIG_KEY_1")),
            (Some("2"), Some("a.b"), Some("x.y"))
        );
        assert_eq!((get("GIT_TERMINAL_PROMPT"), get("GCM_INTERACTIVE")), (Some("0"), Some("Never")));
        let lies = environment(&pairs(&[("GIT_CONFIG_COUNT", "4000000000")]), &pairs(&[("x.y", "z")]));
        assert_eq!(lies.get("GIT_CONFIG_COUNT").map(String::as_str), Some("1"));
    }

    #[test]
    fn what_no_program_can_be_given_is_left_out() {
        let long = "x".repeat(200_000);
        let mut job = pairs(&[("LONG", &long), ("", "x"), ("A=B", "x"), ("NUL", "a\0b"), ("GOOD", "x")]);
        job.extend((0..1000).map(|index| (format!("MANY_{index}"), "y".repeat(5000))));
        let made = environment(&job, &[]);
        assert!(made.contains_key("GOOD") && made.contains_key("MANY_0") && !made.contains_key("MANY_999"));
        assert!(["LONG", "", "A=B", "NUL"].iter().all(|name| !made.contains_key(*name)));
        let status = std::process::Command::new("true").env_clear().env("PATH", "/usr/bin:/bin").envs(&made).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_failure_names_what_git_did() {
        assert_eq!(name(&["-c", "a=b", "checkout", "-f"]), "checkout");
        assert_eq!(name(&[]), "");
    }
}
