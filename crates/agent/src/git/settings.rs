//! What a job asks of git, read from its variables; pure.
//!
//! A value that makes no sense is said in the log and replaced by the default, as GitLab Runner does; only an unknown
//! `GIT_SUBMODULE_STRATEGY` fails the job there, and so it does here.

use anyhow::{Result, bail};
use job::variables::parse_switch;
use job::{Job, Variables};

/// How the source is fetched (`GIT_STRATEGY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// From nothing.
    Clone,
    /// Into what is there.
    Fetch,
    /// Not at all.
    None,
    /// An empty directory.
    Empty,
}

impl Strategy {
    /// Whether there is a repository afterwards.
    pub fn has_source(self) -> bool {
        matches!(self, Self::Clone | Self::Fetch)
    }
}

/// Which submodules are fetched (`GIT_SUBMODULE_STRATEGY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submodules {
    /// None.
    None,
    /// Those of the project.
    Normal,
    /// Those of submodules too.
    Recursive,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `GIT_STRATEGY`.
    pub strategy: Strategy,
    /// `GIT_CHECKOUT`.
    pub checkout: bool,
    /// `GIT_CLEAN_FLAGS`; `None` means no cleaning.
    pub clean: Option<Vec<String>>,
    /// `GIT_FETCH_EXTRA_FLAGS`.
    pub fetch: Vec<String>,
    /// `GIT_CLONE_EXTRA_FLAGS`.
    pub clone: Vec<String>,
    /// `GIT_SUBMODULE_STRATEGY`.
    pub submodules: Submodules,
    /// `GIT_SUBMODULE_PATHS`.
    pub submodule_paths: Vec<String>,
    /// `GIT_SUBMODULE_DEPTH`, else that of the project; 0 is all.
    pub submodule_depth: u32,
    /// `GIT_SUBMODULE_UPDATE_FLAGS`.
    pub submodule_update: Vec<String>,
    /// `GIT_SUBMODULE_FORCE_HTTPS`.
    pub force_https: bool,
    /// Whether large files are fetched (not `GIT_LFS_SKIP_SMUDGE`).
    pub large_files: bool,
}

impl Settings {
    /// For a job that will not get as far.
    pub fn nothing() -> Self {
        Self {
            strategy: Strategy::None,
            checkout: false,
            clean: None,
            fetch: Vec::new(),
            clone: Vec::new(),
            submodules: Submodules::None,
            submodule_paths: Vec::new(),
            submodule_depth: 0,
            submodule_update: Vec::new(),
            force_https: false,
            large_files: false,
        }
    }

    /// The job's choice, and sentences about what could not be read.
    ///
    /// # Errors
    /// What GitLab Runner refuses too: an unknown `GIT_SUBMODULE_STRATEGY`, and a submodule path that is `:` alone.
    pub fn of(job: &Job) -> Result<(Self, Vec<String>)> {
        let mut reader = Reader { variables: &job.variables, warnings: Vec::new() };
        let strategy = reader.strategy(job.allow_git_fetch);
        let submodules = match reader.text("GIT_SUBMODULE_STRATEGY").as_str() {
            _ if !strategy.has_source() => Submodules::None,
            "" | "none" => Submodules::None,
            "normal" => Submodules::Normal,
            "recursive" => Submodules::Recursive,
            other => bail!("unknown GIT_SUBMODULE_STRATEGY {other:?}: none, normal and recursive are known"),
        };
        let submodule_paths = words(&reader.text("GIT_SUBMODULE_PATHS"));
        if submodule_paths.iter().any(|path| path == ":") {
            bail!("GIT_SUBMODULE_PATHS has the path \":\", which stands for nothing");
        }
        let settings = Self {
            strategy,
            checkout: reader.switch("GIT_CHECKOUT", true),
            clean: reader.flags("GIT_CLEAN_FLAGS", "-ffdx"),
            fetch: reader.flags("GIT_FETCH_EXTRA_FLAGS", "--prune --quiet").unwrap_or_default(),
            clone: reader.flags("GIT_CLONE_EXTRA_FLAGS", "").unwrap_or_default(),
            submodules,
            submodule_paths,
            submodule_depth: reader.number("GIT_SUBMODULE_DEPTH", job.git.depth),
            submodule_update: words(&reader.text("GIT_SUBMODULE_UPDATE_FLAGS")),
            force_https: reader.switch("GIT_SUBMODULE_FORCE_HTTPS", false),
            large_files: !reader.switch("GIT_LFS_SKIP_SMUDGE", false),
        };
        Ok((settings, reader.warnings))
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

struct Reader<'a> {
    variables: &'a Variables,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        self.variables.value(name).unwrap_or_default()
    }

    fn warn(&mut self, name: &str, expected: &str, got: &str, default: &str) {
        self.warnings.push(format!("{name}: expected {expected} got {got:?}, using default value: {default}"));
    }

    fn strategy(&mut self, may_fetch: bool) -> Strategy {
        let default = if may_fetch { Strategy::Fetch } else { Strategy::Clone };
        match self.text("GIT_STRATEGY").as_str() {
            "" => default,
            "clone" => Strategy::Clone,
            "fetch" => Strategy::Fetch,
            "none" => Strategy::None,
            "empty" => Strategy::Empty,
            other => {
                let word = if may_fetch { "fetch" } else { "clone" };
                self.warn("GIT_STRATEGY", "one of clone, fetch, none, empty", other, word);
                default
            }
        }
    }

    fn switch(&mut self, name: &str, default: bool) -> bool {
        let text = self.text(name);
        match parse_switch(&text) {
            Some(value) => value,
            None => {
                if !text.is_empty() {
                    self.warn(name, "bool", &text, &default.to_string());
                }
                default
            }
        }
    }

    fn number(&mut self, name: &str, default: u32) -> u32 {
        let text = self.text(name);
        match text.trim().parse() {
            Ok(value) => value,
            Err(_) => {
                if !text.trim().is_empty() {
                    self.warn(name, "int", &text, &default.to_string());
                }
                default
            }
        }
    }

    /// Words of a command line; `none` means that there are none.
    fn flags(&self, name: &str, default: &str) -> Option<Vec<String>> {
        match self.text(name).trim() {
            "" => Some(words(default)),
            "none" => None,
            text => Some(words(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Settings, Strategy, Submodules};
    use job::Variable;

    fn job(variables: &[(&str, &str)]) -> job::Job {
        let payload = serde_json::json!({"id": 1, "token": "t", "git_info": {"depth": 20}});
        let payload: gitlab_api::JobResponse = serde_json::from_value(payload).unwrap();
        let mut job = payload.into_job().unwrap();
        job.variables.extend(variables.iter().map(|(name, value)| Variable::public(*name, *value)));
        job
    }

    fn read(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        Settings::of(&job(variables)).unwrap()
    }

    #[test]
    fn without_variables_the_defaults_are_gitlab_runners() {
        let (settings, warnings) = read(&[]);
        assert!(warnings.is_empty());
        assert_eq!((settings.strategy, settings.checkout, settings.submodules), (Strategy::Clone, true, Submodules::None));
        assert_eq!(settings.clean.unwrap(), ["-ffdx"]);
        assert_eq!(settings.fetch, ["--prune", "--quiet"]);
        assert_eq!((settings.submodule_depth, settings.force_https, settings.large_files), (20, false, true));
        let fetching = job::Job { allow_git_fetch: true, ..job(&[]) };
        assert_eq!(Settings::of(&fetching).unwrap().0.strategy, Strategy::Fetch);
    }

    #[test]
    fn every_variable_counts_and_is_expanded() {
        let (settings, warnings) = read(&[
            ("HOW", "fetch"),
            ("GIT_STRATEGY", "$HOW"),
            ("GIT_CHECKOUT", "false"),
            ("GIT_CLEAN_FLAGS", "none"),
            ("GIT_FETCH_EXTRA_FLAGS", " --tags  --force "),
            ("GIT_CLONE_EXTRA_FLAGS", "--filter=blob:none"),
            ("GIT_SUBMODULE_STRATEGY", "recursive"),
            ("GIT_SUBMODULE_PATHS", "a :(exclude)b"),
            ("GIT_SUBMODULE_DEPTH", "3"),
            ("GIT_SUBMODULE_UPDATE_FLAGS", "--remote --jobs 4"),
            ("GIT_SUBMODULE_FORCE_HTTPS", "1"),
            ("GIT_LFS_SKIP_SMUDGE", "true"),
        ]);
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = Settings {
            strategy: Strategy::Fetch,
            checkout: false,
            clean: None,
            fetch: words(&["--tags", "--force"]),
            clone: words(&["--filter=blob:none"]),
            submodules: Submodules::Recursive,
            submodule_paths: words(&["a", ":(exclude)b"]),
            submodule_depth: 3,
            submodule_update: words(&["--remote", "--jobs", "4"]),
            force_https: true,
            large_files: false,
        };
        assert_eq!((settings, warnings), (expected, vec![]));
    }

    #[test]
    fn what_makes_no_sense_is_said_and_replaced_or_refused() {
        let (settings, warnings) = read(&[("GIT_STRATEGY", "pull"), ("GIT_CHECKOUT", "yes"), ("GIT_SUBMODULE_DEPTH", "all")]);
        assert_eq!((settings.strategy, settings.checkout, settings.submodule_depth), (Strategy::Clone, true, 20));
        assert_eq!(warnings.len(), 3);
        assert!(warnings[1].contains("GIT_CHECKOUT: expected bool got \"yes\", using default value: true"), "{warnings:?}");
        assert!(Settings::of(&job(&[("GIT_SUBMODULE_STRATEGY", "some")])).is_err());
        assert!(Settings::of(&job(&[("GIT_SUBMODULE_PATHS", "a :")])).is_err());
        let (settings, _) = read(&[("GIT_SUBMODULE_STRATEGY", "some"), ("GIT_STRATEGY", "none")]);
        assert_eq!(settings.submodules, Submodules::None);
    }
}
