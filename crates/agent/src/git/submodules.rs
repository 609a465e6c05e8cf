//! Submodules: brought to what the project's commit names, tried a second time when that fails.
//!
//! Git hands our settings, the login among them, on to its submodules. What stays in them for the job's scripts is the
//! same included file that the project has.

use super::Sources;
use super::command::Git;
use super::large_files;
use super::settings::Submodules;
use anyhow::Result;

/// A second try of `--remote` finds the branch that a shallow clone did not bring.
const ALL_HEADS: &str = "git fetch origin +refs/heads/*:refs/remotes/origin/*";
const INCLUDE: &str = "git config --replace-all include.path \"$GLR_EXT_GIT_CONFIG_PATH\"";

impl Sources<'_> {
    /// All of it.
    pub(super) async fn submodules(&self, git: &Git<'_>) -> Result<()> {
        let settings = self.settings;
        let recursive = settings.submodules == Submodules::Recursive;
        let how = if recursive { " recursively" } else { "" };
        let depth = settings.submodule_depth;
        let shown = if depth > 0 { format!(" with git depth set to {depth}") } else { String::new() };
        self.notice(&format!("Updating/initializing submodules{how}{shown}...")).await;
        if !self.directory.join(".gitmodules").exists() {
            return Ok(());
        }
        let calls = Calls { sources: self, git, recursive };
        calls.submodule(&["init"], &[]).await?;
        calls.sync().await?;
        let flags = settings.clean.clone().unwrap_or_else(|| vec!["-ffdx".to_owned()]);
        let clean = format!("git clean {}", flags.join(" "));
        calls.each(&clean).await?;
        calls.each("git reset --hard").await?;
        if calls.update().await.is_ok() {
            self.notice("Updated submodules").await;
            calls.sync().await?;
        } else {
            self.warning("Updating submodules failed. Retrying...").await;
            if settings.submodule_update.iter().any(|flag| flag.eq_ignore_ascii_case("--remote")) {
                calls.each(ALL_HEADS).await?;
            }
            calls.sync().await?;
            calls.update().await?;
            calls.each("git reset --hard").await?;
        }
        calls.each(&clean).await?;
        self.notice("Configuring submodules to use parent git credentials...").await;
        // Of those below too, whatever the strategy: a script may fetch them.
        git.run(self.directory, &["submodule", "foreach", "--recursive", INCLUDE]).await?;
        if settings.large_files && large_files::is_installed() {
            self.notice("Pulling LFS files...").await;
            calls.each("git lfs pull").await?;
        }
        Ok(())
    }
}

struct Calls<'a, 'b> {
    sources: &'a Sources<'b>,
    git: &'a Git<'b>,
    recursive: bool,
}

impl Calls<'_, '_> {
    async fn submodule(&self, arguments: &[&str], paths: &[String]) -> Result<()> {
        let mut all = vec!["submodule"];
        all.extend(arguments);
        if !paths.is_empty() {
            all.push("--");
            all.extend(paths.iter().map(String::as_str));
        }
        self.git.run(self.sources.directory, &all).await
    }

    /// Addresses may have changed.
    async fn sync(&self) -> Result<()> {
        let arguments: &[&str] = if self.recursive { &["sync", "--recursive"] } else { &["sync"] };
        self.submodule(arguments, &self.sources.settings.submodule_paths).await
    }

    async fn each(&self, command: &str) -> Result<()> {
        let arguments: &[&str] = if self.recursive { &["foreach", "--recursive", command] } else { &["foreach", command] };
        self.submodule(arguments, &[]).await
    }

    async fn update(&self) -> Result<()> {
        let settings = self.sources.settings;
        let mut arguments = vec!["update", "--init"];
        if self.recursive {
            arguments.push("--recursive");
        }
        let depth = settings.submodule_depth.to_string();
        if settings.submodule_depth > 0 {
            arguments.extend(["--depth", &depth]);
        }
        arguments.extend(settings.submodule_update.iter().map(String::as_str));
        self.submodule(&arguments, &settings.submodule_paths).await
    }
}
