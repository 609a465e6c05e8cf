//! What runs in the helper container around the fetching of the source: the runner's commands and the job's hooks.

use super::Sources;
use crate::script::{self, Group, Options, ScriptParts};
use anyhow::{Context, Result, bail};
use std::io::Write;
use tokio::process::Command;

/// Before: the runner's commands, then the job's.
pub const PRE: Point = Point { hook: "pre_get_sources_script", section: "pre_clone_script" };
/// After: the job's commands, then the runner's.
pub const POST: Point = Point { hook: "post_get_sources_script", section: "post_clone_script" };

/// Where a hook runs.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    hook: &'static str,
    section: &'static str,
}

impl Sources<'_> {
    /// Runs what the runner and the job have for this point.
    pub(super) async fn hooks(&self, point: Point) -> Result<()> {
        let settings = &self.plan.settings;
        let of_job = self.plan.job.hooks.iter().filter(|hook| hook.name == point.hook).flat_map(|hook| hook.script.clone());
        let is_pre = point.hook == PRE.hook;
        let of_runner = if is_pre { &settings.pre_get_sources_script } else { &settings.post_get_sources_script };
        let of_runner = (!of_runner.is_empty()).then(|| of_runner.clone());
        let commands: Vec<String> =
            if is_pre { of_runner.into_iter().chain(of_job).collect() } else { of_job.chain(of_runner).collect() };
        if commands.is_empty() {
            return Ok(());
        }
        let directory = if is_pre { self.temporary } else { self.directory };
        let text = script::text(&ScriptParts {
            variables: self.variables,
            env_file: "",
            directory: &directory.display().to_string(),
            groups: &[Group { name: point.section, commands: &commands }],
            options: Options {
                sections: self.flags.is_on("FF_SCRIPT_SECTIONS") && self.plan.job.features.trace_sections,
                exit_code_check: self.flags.is_on("FF_ENABLE_BASH_EXIT_CODE_CHECK"),
                debug_trace: false,
            },
        });
        // In the helper's own directory, which the build container does not see.
        let mut file = tempfile::NamedTempFile::new().context("failed to make room for a hook")?;
        file.write_all(text.as_bytes()).context("failed to write a hook")?;
        let shell = crate::serve::shell("").context("the helper image has no shell for hooks")?;
        let mut command = Command::new(shell);
        command.arg(file.path()).env("GIT_TERMINAL_PROMPT", "0").env("GCM_INTERACTIVE", "Never");
        let status = crate::process::run(&mut command, self.trace).await.with_context(|| format!("failed to start {shell}"))?;
        if !status.success() {
            bail!("{} failed ({status})", point.hook);
        }
        Ok(())
    }
}
