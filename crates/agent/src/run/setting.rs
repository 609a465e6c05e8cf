//! Everything about a job that is decided before its first stage: its directory, its variables as programs see them,
//! its feature flags, and what it asks of git.
//!
//! The order of variables is GitLab Runner's, and the last of equal names wins: feature flags, what the runner says of
//! the job, what came with the plan (the runner's own and then the job's), and last what a job cannot change.

use super::Ending;
use crate::{git, script};
use agent_contract::Plan;
use anyhow::{Context, Result, bail};
use job::variables::parse_switch;
use job::{FailureReason, Flags, Variable, Variables};
use std::path::{Path, PathBuf};

/// Name of the file with what scripts leave to later scripts (`GITLAB_ENV`).
const ENV_FILE: &str = "gitlab_runner_env";
/// Linux starts no program with a longer variable (MAX_ARG_STRLEN), and none with more in all (a quarter of the stack).
const LONGEST_VALUE: usize = 128 * 1024;
const ALL_VALUES: usize = 2 * 1024 * 1024;
/// Shells of the configuration that we have.
const SHELLS: [&str; 3] = ["", "bash", "sh"];

/// What is decided.
#[derive(Debug)]
pub struct Setting {
    /// `CI_PROJECT_DIR`.
    pub directory: PathBuf,
    /// Beside it: file variables and the like.
    pub temporary: PathBuf,
    /// The job's variables, each once, with files as paths; expandable by scripts of releases.
    pub expanded: Variables,
    /// The same for programs.
    pub variables: Vec<(String, String)>,
    /// Files to write, by name.
    files: Vec<(String, String)>,
    /// Feature flags.
    pub flags: Flags,
    /// What is asked of git.
    pub git: git::Settings,
    /// How scripts are written.
    pub options: script::Options,
    /// Sentences for the log about what could not be read.
    pub warnings: Vec<String>,
}

impl Setting {
    /// What is decided, and what makes the job impossible.
    pub fn of(plan: &Plan) -> (Self, Option<Ending>) {
        let refused = |error: anyhow::Error| Ending::failed(FailureReason::RunnerConfigurationError, format!("{error:#}"));
        let (git, mut warnings, mut ending) = match git::Settings::of(&plan.job) {
            Ok((git, warnings)) => (git, warnings, None),
            // GitLab Runner makes no script then, which is its own failure.
            Err(error) => {
                let ending = Ending::failed(FailureReason::RunnerSystemFailure, format!("{error:#}"));
                (git::Settings::nothing(), Vec::new(), Some(ending))
            }
        };
        let directory = git::project_directory(plan, git.strategy).unwrap_or_else(|error| {
            ending = Some(refused(error));
            PathBuf::from(&plan.workspace.project_dir)
        });
        let flags = Flags::resolve(&plan.settings.feature_flags, &plan.job.variables);
        warnings.extend(flags.warnings.iter().cloned());
        let temporary = PathBuf::from(format!("{}.tmp", directory.display()));
        let list = all(plan, &flags, &directory, &temporary);
        let files = list.effective().into_iter().filter(|one| one.file).map(|one| (one.key.clone(), one.value.clone())).collect();
        let expanded = with_paths(&list, &temporary).expanded();
        let variables: Vec<_> = expanded.iter().map(|one| (one.key.clone(), one.value.clone())).collect();
        if let Err(error) = check(&variables, &files).and_then(|()| check_shell(&plan.settings.shell)) {
            ending = Some(refused(error));
        }
        warnings.extend(too_long(&variables));
        let asked = expanded.get("CI_DEBUG_TRACE").and_then(parse_switch).unwrap_or(false);
        let debug_trace = asked && !plan.settings.debug_trace_disabled;
        if asked && !debug_trace {
            warnings.push("CI_DEBUG_TRACE: usage is disabled on this Runner".to_owned());
        }
        let options = script::Options {
            sections: flags.is_on("FF_SCRIPT_SECTIONS") && plan.job.features.trace_sections,
            exit_code_check: flags.is_on("FF_ENABLE_BASH_EXIT_CODE_CHECK"),
            debug_trace,
        };
        (Self { directory, temporary, expanded, variables, files, flags, git, options, warnings }, ending)
    }

    /// Writes file variables, and makes room for what scripts leave to later scripts.
    ///
    /// # Errors
    /// When there is no place for them.
    pub fn write(&self) -> Result<()> {
        let on_failure = |path: &Path| format!("failed to write {}", path.display());
        std::fs::create_dir_all(&self.temporary).with_context(|| on_failure(&self.temporary))?;
        for (name, content) in &self.files {
            let path = self.temporary.join(name);
            std::fs::write(&path, content).with_context(|| on_failure(&path))?;
        }
        let path = self.env_file();
        std::fs::write(&path, "").with_context(|| on_failure(&path))
    }

    /// `GITLAB_ENV`.
    pub fn env_file(&self) -> PathBuf {
        self.temporary.join(ENV_FILE)
    }

    /// How often a stage is tried: 1 to 10 times.
    pub fn attempts(&self, variable: &str) -> u32 {
        self.expanded.get(variable).and_then(|text| text.trim().parse().ok()).unwrap_or(1).clamp(1, 10)
    }

    /// A switch among the job's variables.
    pub fn switch(&self, variable: &str, default: bool) -> bool {
        self.expanded.get(variable).and_then(parse_switch).unwrap_or(default)
    }
}

fn all(plan: &Plan, flags: &Flags, directory: &Path, temporary: &Path) -> Variables {
    let raw = |key: &str, value: String| Variable { raw: true, ..Variable::public(key, value) };
    let mut list: Variables = flags.variables().collect();
    if let Some(image) = &plan.job.image {
        list.push(Variable::public("CI_JOB_IMAGE", &image.name));
    }
    list.extend([
        raw("CI_BUILDS_DIR", plan.workspace.builds_dir.clone()),
        raw("CI_PROJECT_DIR", directory.display().to_string()),
        raw("CI_SERVER", "yes".to_owned()),
        raw("CI_JOB_STATUS", "running".to_owned()),
        raw("CI_JOB_TIMEOUT", plan.timeout().as_secs().to_string()),
    ]);
    list.extend(plan.job.variables.iter().cloned());
    list.extend([
        raw("CI_DISPOSABLE_ENVIRONMENT", "true".to_owned()),
        raw("RUNNER_TEMP_PROJECT_DIR", temporary.display().to_string()),
        raw("GITLAB_ENV", temporary.join(ENV_FILE).display().to_string()),
    ]);
    list
}

/// The variables that count, with the path of a file instead of what is in it.
fn with_paths(list: &Variables, temporary: &Path) -> Variables {
    let with_path = |one: &Variable| {
        let path = temporary.join(&one.key).display().to_string();
        if one.file { Variable { value: path, raw: true, ..one.clone() } } else { one.clone() }
    };
    list.effective().into_iter().map(with_path).collect()
}

fn check(variables: &[(String, String)], files: &Vec<(String, String)>) -> Result<()> {
    for (name, _) in files {
        if !script::is_shell_name(name) {
            bail!("the file variable {name:?} has a name that is no file name");
        }
    }
    match variables.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        Some((name, _)) => bail!("the variable {name:?} has a NUL byte, which no program can be given; make it a file variable"),
        None => Ok(()),
    }
}

fn check_shell(shell: &str) -> Result<()> {
    if !SHELLS.contains(&shell) {
        // GitLab Runner's words for the one shell that it refuses on Kubernetes too.
        let why = if shell == "cmd" { "kubernetes doesn't support shells that require script file; " } else { "" };
        bail!(
            "{why}the runner's shell {shell:?} is not supported: gantry runs scripts with bash, or with sh where the image has no bash"
        );
    }
    Ok(())
}

fn too_long(variables: &[(String, String)]) -> Vec<String> {
    let longest = variables.iter().filter(|(name, value)| name.len() + value.len() + 2 > LONGEST_VALUE);
    let mut warnings: Vec<_> = longest
        .map(|(name, value)| {
            format!("{name} has {} bytes; Linux starts no program with a variable of more than {LONGEST_VALUE}", value.len())
        })
        .collect();
    let all: usize = variables.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
    if all > ALL_VALUES {
        warnings.push(format!("all variables have {all} bytes; Linux starts no program with more than {ALL_VALUES}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::Setting;
    use crate::run::Ending;
    use agent_contract::{Plan, Settings, Workspace};
    use job::{FailureReason, Variable};

    fn plan(variables: &[Variable]) -> Plan {
        let payload =
            serde_json::json!({"id": 1, "token": "t", "image": {"name": "alpine:$TAG"}, "runner_info": {"timeout": 60}});
        let payload: gitlab_api::JobResponse = serde_json::from_value(payload).unwrap();
        let mut job = payload.into_job().unwrap();
        job.variables.extend(variables.iter().cloned());
        let workspace = Workspace { builds_dir: "/builds".into(), project_dir: "/builds/g/p".into() };
        Plan { job, coordinator: Default::default(), workspace, settings: Settings::default() }
    }

    fn value(setting: &Setting, name: &str) -> String {
        let found: Vec<_> = setting.variables.iter().filter(|(key, _)| key == name).collect();
        assert_eq!(found.len(), 1, "{name} once");
        found[0].1.clone()
    }

    #[test]
    fn variables_come_in_the_runners_order() {
        let (setting, ending) = Setting::of(&plan(&[
            Variable::public("TAG", "3"),
            Variable::public("A", "$CI_PROJECT_DIR $FILE $$HOME $(id)"),
            Variable { file: true, ..Variable::internal("FILE", "content $TAG") },
            Variable { raw: true, ..Variable::public("RAW", "$TAG") },
            Variable::public("CI_SERVER", "no"),
            Variable::public("CI_DISPOSABLE_ENVIRONMENT", "no"),
            Variable::public("FF_HASH_CACHE_KEYS", "1"),
        ]));
        assert_eq!(ending, None);
        for (name, expected) in [
            ("CI_JOB_IMAGE", "alpine:3"),
            ("CI_PROJECT_DIR", "/builds/g/p"),
            ("CI_BUILDS_DIR", "/builds"),
            ("CI_JOB_TIMEOUT", "60"),
            ("CI_JOB_STATUS", "running"),
            ("CI_SERVER", "no"),
            ("CI_DISPOSABLE_ENVIRONMENT", "true"),
            ("RUNNER_TEMP_PROJECT_DIR", "/builds/g/p.tmp"),
            ("GITLAB_ENV", "/builds/g/p.tmp/gitlab_runner_env"),
            ("FF_TIMESTAMPS", "true"),
            ("FILE", "/builds/g/p.tmp/FILE"),
            ("A", "/builds/g/p /builds/g/p.tmp/FILE $HOME $(id)"),
            ("RAW", "$TAG"),
        ] {
            assert_eq!(value(&setting, name), expected, "{name}");
        }
        assert_eq!(value(&Setting::of(&plan(&[])).0, "CI_SERVER"), "yes", "where the job says nothing");
        // A job's own value of a flag is told as it was given; what it means is the resolved one.
        assert!(setting.flags.is_on("FF_HASH_CACHE_KEYS"));
    }

    #[test]
    fn a_value_that_no_program_can_be_given_fails_the_job_unless_it_is_a_file() {
        let (_, ending) = Setting::of(&plan(&[Variable::public("A", "a\0b")]));
        let Some(Ending::Failed { reason: FailureReason::RunnerConfigurationError, message, .. }) = ending else {
            panic!("{ending:?}")
        };
        assert!(message.contains("\"A\" has a NUL byte"), "{message}");
        assert_eq!(Setting::of(&plan(&[Variable { file: true, ..Variable::public("A", "a\0b") }])).1, None);
    }

    #[test]
    fn what_is_too_long_for_linux_is_said() {
        let (setting, ending) = Setting::of(&plan(&[Variable::public("LONG", "x".repeat(140_000))]));
        assert_eq!(ending, None);
        assert!(
            setting.warnings.len() == 1 && setting.warnings[0].starts_with("LONG has 140000 bytes"),
            "{:?}",
            setting.warnings
        );
        let many: Vec<_> = (0..1000).map(|index| Variable::public(format!("MANY_{index}"), "y".repeat(2500))).collect();
        let (setting, _) = Setting::of(&plan(&many));
        assert!(setting.warnings.len() == 1 && setting.warnings[0].starts_with("all variables have"), "{:?}", setting.warnings);
    }

    #[test]
    fn a_shell_we_do_not_have_is_refused_by_name() {
        for (shell, good) in [("bash", true), ("sh", true), ("", true), ("pwsh", false), ("powershell", false), ("cmd", false)] {
            let mut plan = plan(&[]);
            plan.settings.shell = shell.into();
            let (_, ending) = Setting::of(&plan);
            assert_eq!(ending.is_none(), good, "{shell}: {ending:?}");
        }
    }
}
