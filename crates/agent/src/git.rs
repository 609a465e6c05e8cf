//! The source: what GitLab Runner does between "Getting source from Git repository" and the job's script.
//!
//! Everything is done with the git program in the helper container. A login travels in git's environment as a header
//! for this one server, never in an address, an argument or a file. What lies in the project directory from an
//! earlier job is not trusted: its settings and hooks are removed before git looks at them.

mod cleanup;
mod command;
mod config;
mod hooks;
mod large_files;
mod remote;
mod settings;
mod submodules;

pub use settings::{Settings, Strategy};

use crate::trace::Trace;
use agent_contract::Plan;
use anyhow::{Context, Result, bail};
use command::Git;
use job::Flags;
use remote::Remote;
use settings::Submodules;
use std::collections::BTreeMap;
use std::path::Path;

/// Since this git a clone can be made of one commit (`--revision`), which `FF_USE_GIT_NATIVE_CLONE` needs.
const NATIVE_CLONE: (u32, u32) = (2, 49);

/// Where the source of a job comes from, without a login and without `.git`; empty when that cannot be told.
pub fn address(job: &job::Job) -> String {
    Remote::of(job, None).map(|remote| remote.url.trim_end_matches(".git").to_owned()).unwrap_or_default()
}

/// The source of one job.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The job and how to run it.
    pub plan: &'a Plan,
    /// Where the source goes.
    pub directory: &'a Path,
    /// Beside it, for what must not stand in it.
    pub temporary: &'a Path,
    /// The job's variables as programs see them.
    pub variables: &'a [(String, String)],
    /// The job's feature flags.
    pub flags: &'a Flags,
    /// What the job asks of git.
    pub settings: &'a Settings,
    /// Where git's words go.
    pub trace: &'a Trace,
}

impl Sources<'_> {
    /// Makes the project directory as the job wants it.
    ///
    /// # Errors
    /// When git or a hook fails, with what it did; git's own words are in the trace.
    pub async fn get(&self) -> Result<()> {
        match self.settings.strategy {
            Strategy::None => {
                self.notice("Skipping Git repository setup").await;
                make_directory(self.directory)
            }
            Strategy::Empty => {
                self.notice("Skipping Git repository setup and creating an empty build directory").await;
                remove(self.directory)?;
                make_directory(self.directory)
            }
            Strategy::Clone | Strategy::Fetch => self.clone_or_fetch().await,
        }
    }

    async fn clone_or_fetch(&self) -> Result<()> {
        let job = &self.plan.job;
        let remote = Remote::of(job, self.plan.coordinator.clone_url.as_deref())?;
        let instead_of = if self.settings.force_https { remote.instead_of_ssh(job) } else { Vec::new() };
        let certificates = self.certificates();
        let parts = config::Parts {
            remote: &remote,
            certificates: &certificates,
            instead_of: &instead_of,
            correlation_id: if self.flags.is_on("FF_USE_GITALY_CORRELATION_ID") {
                &self.plan.settings.correlation_id
            } else {
                ""
            },
            bundle_uri: self.flags.is_on("FF_USE_GIT_BUNDLE_URIS"),
            proactive_login: self.flags.is_on("FF_USE_GIT_PROACTIVE_AUTH"),
        };
        let environment = self.environment(&parts);
        let git = Git { environment: &environment, trace: self.trace };
        self.hooks(hooks::PRE).await?;
        cleanup::clean(self.directory, self.keeps_settings());
        let template = parts.write(self.temporary)?;
        if !parts.correlation_id.is_empty() {
            self.notice(&format!("Gitaly correlation ID: {}", parts.correlation_id)).await;
        }
        if self.settings.strategy == Strategy::Clone {
            remove(self.directory)?;
        }
        let fresh = !self.directory.join(".git").exists();
        if self.clones_natively(&git).await {
            self.clone(&git, &remote, &template).await?;
        } else {
            self.fetch(&git, &remote, &template).await?;
        }
        if self.settings.checkout {
            self.checkout(&git, fresh).await?;
        } else {
            self.notice("Skipping Git checkout").await;
        }
        match self.settings.submodules {
            Submodules::None => self.notice("Skipping Git submodules setup").await,
            Submodules::Normal | Submodules::Recursive => self.submodules(&git).await?,
        }
        self.hooks(hooks::POST).await
    }

    /// Deletes what a failed try left of the work tree, so that the next one begins with nothing but the repository.
    pub async fn clear_worktree(&self) {
        self.notice("Deleting tracked and untracked files...").await;
        if !self.directory.is_dir() {
            return;
        }
        let environment = command::environment(self.variables, &[("safe.directory".to_owned(), "*".to_owned())]);
        let git = Git { environment: &environment, trace: self.trace };
        let removed = git.run(self.directory, &["rm", "-rf", "--quiet", "--ignore-unmatch", "."]).await;
        let cleaned = match removed {
            Ok(()) => git.run(self.directory, &["clean", "-ffdx", "--quiet"]).await,
            Err(error) => Err(error),
        };
        // A repository that cannot even do that is of no use to the next try.
        if cleaned.is_err() {
            let _ = std::fs::remove_dir_all(self.directory);
        }
    }

    /// After the job: what the next one in this directory must not find.
    pub async fn clean_up(&self) {
        if self.flags.is_on("FF_ENABLE_JOB_CLEANUP") {
            match self.settings.strategy {
                Strategy::Clone | Strategy::Empty => {
                    let _ = std::fs::remove_dir_all(self.directory);
                }
                Strategy::Fetch => self.clear_worktree().await,
                Strategy::None => {}
            }
        }
        cleanup::clean(self.directory, self.keeps_settings());
    }

    /// Files that git does not know, ignored ones among them; `None` where there is no repository to ask.
    pub async fn untracked(&self) -> Option<Vec<std::path::PathBuf>> {
        let environment = command::environment(self.variables, &[("safe.directory".to_owned(), "*".to_owned())]);
        let git = Git { environment: &environment, trace: self.trace };
        let listed = git.ask(self.directory, &["ls-files", "--others", "-z"]).await?;
        Some(listed.split('\0').filter(|path| !path.is_empty()).map(Into::into).collect())
    }

    fn keeps_settings(&self) -> bool {
        !self.plan.settings.clean_git_config.unwrap_or(self.settings.strategy != Strategy::None)
    }

    fn certificates(&self) -> Vec<(&'static str, String)> {
        let words = [
            ("CI_SERVER_TLS_CA_FILE", "sslCAInfo"),
            ("CI_SERVER_TLS_CERT_FILE", "sslCert"),
            ("CI_SERVER_TLS_KEY_FILE", "sslKey"),
        ];
        let path = |name: &str| self.variables.iter().rfind(|(key, _)| key == name).map(|(_, path)| path.clone());
        words.into_iter().filter_map(|(name, word)| Some((word, path(name).filter(|path| !path.is_empty())?))).collect()
    }

    fn environment(&self, parts: &config::Parts<'_>) -> BTreeMap<String, String> {
        let agent = format!("gitlab-runner {} linux/{}", self.plan.settings.version, std::env::consts::ARCH);
        let mut settings = parts.of_calls(&agent);
        if self.settings.large_files {
            settings.extend(large_files::filters());
        }
        let mut environment = command::environment(self.variables, &settings);
        let included = self.temporary.join(config::INCLUDED).display().to_string();
        environment.insert("GLR_EXT_GIT_CONFIG_PATH".to_owned(), included);
        environment
    }

    async fn clones_natively(&self, git: &Git<'_>) -> bool {
        if self.settings.strategy != Strategy::Clone || !self.flags.is_on("FF_USE_GIT_NATIVE_CLONE") {
            return false;
        }
        let version = git.ask(self.temporary, &["version"]).await.and_then(|text| version(&text));
        version.is_some_and(|version| version >= NATIVE_CLONE)
    }

    async fn clone(&self, git: &Git<'_>, remote: &Remote, template: &Path) -> Result<()> {
        let info = &self.plan.job.git;
        let of = if info.reference.is_empty() { String::new() } else { format!(" for {}", info.reference) };
        let depth = if info.depth > 0 { format!(" with git depth set to {}", info.depth) } else { String::new() };
        self.notice(&format!("Cloning repository{of}{depth}...")).await;
        let arguments = clone_arguments(&self.plan.job.git, &self.settings.clone, &remote.url, (self.directory, template));
        git.run(self.temporary, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    async fn fetch(&self, git: &Git<'_>, remote: &Remote, template: &Path) -> Result<()> {
        let info = &self.plan.job.git;
        let shown = if info.depth > 0 { format!(" with git depth set to {}", info.depth) } else { String::new() };
        self.notice(&format!("Fetching changes{shown}...")).await;
        let has_settings = self.directory.join(".git/config").exists();
        let (directory, template) = (self.directory.display().to_string(), template.display().to_string());
        let mut init = vec!["init", &directory, "--template", &template];
        if info.object_format != "sha1" {
            init.extend(["--object-format", &info.object_format]);
        }
        git.run(self.temporary, &init).await?;
        if has_settings {
            self.point_to(git, remote).await?;
        } else {
            self.notice("Created fresh repository.").await;
        }
        let shallow = self.directory.join(".git/shallow").exists();
        let arguments = fetch_arguments(info, &self.settings.fetch, shallow);
        git.run(self.directory, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// A repository whose settings were kept is told where the source is now.
    async fn point_to(&self, git: &Git<'_>, remote: &Remote) -> Result<()> {
        if git.ask(self.directory, &["remote", "add", "origin", &remote.url]).await.is_some() {
            self.notice("Created fresh repository.").await;
        } else {
            git.run(self.directory, &["remote", "set-url", "origin", &remote.url]).await?;
        }
        let included = self.temporary.join(config::INCLUDED).display().to_string();
        let pattern = format!("{}$", config::INCLUDED.replace('.', "\\."));
        git.run(self.directory, &["config", "--replace-all", "include.path", &included, &pattern]).await
    }

    async fn checkout(&self, git: &Git<'_>, fresh: bool) -> Result<()> {
        let info = &self.plan.job.git;
        let short: String = info.sha.chars().take(8).collect();
        self.notice(&format!("Checking out {short} as detached HEAD (ref is {})...", info.reference)).await;
        git.run(self.directory, &["-c", "submodule.recurse=false", "checkout", "-f", "-q", &info.sha]).await?;
        // Nothing can lie in a directory that was not there.
        if let (Some(flags), false) = (&self.settings.clean, fresh) {
            let arguments: Vec<_> = ["clean"].into_iter().chain(flags.iter().map(String::as_str)).collect();
            git.run(self.directory, &arguments).await?;
        }
        if self.settings.large_files { self.large_files(git).await } else { Ok(()) }
    }

    /// A green line, as GitLab Runner's scripts print them.
    async fn notice(&self, text: &str) {
        self.trace.work_line(&format!("\x1b[32;1m{text}")).await;
    }

    async fn warning(&self, text: &str) {
        self.trace.work_line(&format!("\x1b[0;33m{text}")).await;
    }
}

/// What is asked of the server.
fn fetch_arguments(info: &job::GitInfo, flags: &[String], shallow: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["fetch", "origin", "--no-recurse-submodules"].map(str::to_owned).into();
    arguments.extend(info.refspecs.iter().cloned());
    if info.refspecs.is_empty() {
        // Servers from before refspecs: the commit itself.
        arguments.push(info.sha.clone());
    }
    if info.depth > 0 {
        arguments.extend(["--depth".to_owned(), info.depth.to_string()]);
    }
    arguments.extend(flags.iter().cloned());
    if info.depth == 0 && shallow {
        arguments.push("--unshallow".to_owned());
    }
    arguments
}

fn clone_arguments(info: &job::GitInfo, flags: &[String], url: &str, (into, template): (&Path, &Path)) -> Vec<String> {
    let (into, template) = (into.display().to_string(), template.display().to_string());
    let mut arguments: Vec<String> = ["clone", "--no-checkout", url, &into, "--template", &template].map(str::to_owned).into();
    if info.depth > 0 {
        arguments.extend(["--depth".to_owned(), info.depth.to_string()]);
    }
    if info.reference.starts_with("refs/") {
        arguments.extend(["--revision".to_owned(), info.reference.clone()]);
    } else if !info.reference.is_empty() {
        arguments.extend(["--branch".to_owned(), info.reference.clone()]);
    }
    arguments.extend(flags.iter().cloned());
    arguments
}

/// Reads `git version 2.39.5`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(2)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where a job's source goes: the configured place, or what `GIT_CLONE_PATH` says.
///
/// # Errors
/// A path outside the builds directory, or any where the runner does not allow it.
pub fn project_directory(plan: &Plan, strategy: Strategy) -> Result<std::path::PathBuf> {
    let builds = normal(Path::new(&plan.workspace.builds_dir));
    let mut given = plan.job.variables.clone();
    given.push(job::Variable { raw: true, ..job::Variable::public("CI_BUILDS_DIR", builds.display().to_string()) });
    let asked = given.value("GIT_CLONE_PATH").filter(|path| !path.is_empty());
    let directory = match asked {
        None => std::path::PathBuf::from(&plan.workspace.project_dir),
        Some(_) if plan.settings.custom_build_dir == Some(false) => {
            bail!("setting GIT_CLONE_PATH is not allowed, enable `custom_build_dir` feature");
        }
        Some(path) => {
            let path = normal(Path::new(&path));
            if !path.starts_with(&builds) {
                bail!("the GIT_CLONE_PATH={:?} has to be within {:?}", path.display(), builds.display());
            }
            path
        }
    };
    Ok(if strategy == Strategy::Empty { format!("{}-empty", directory.display()).into() } else { directory })
}

/// The path without `.` and `..`, as text: what a link leads to is the pod's own affair.
fn normal(path: &Path) -> std::path::PathBuf {
    let mut out = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Strategy, clone_arguments, fetch_arguments, project_directory, version};
    use agent_contract::{Plan, Settings, Workspace};
    use job::Variable;
    use std::path::Path;

    fn job() -> job::Job {
        let git = serde_json::json!({"ref": "main", "sha": "abc", "refspecs": ["+a:b", "+c:d"], "depth": 20});
        let payload: gitlab_api::JobResponse =
            serde_json::from_value(serde_json::json!({"id": 1, "token": "t", "git_info": git})).unwrap();
        payload.into_job().unwrap()
    }

    #[test]
    fn a_fetch_asks_for_the_refspecs_in_order_and_for_all_of_a_shallow_clone() {
        let flags = ["--prune".to_owned(), "--quiet".to_owned()];
        let mut info = job().git;
        let line = |info: &job::GitInfo, shallow| fetch_arguments(info, &flags, shallow).join(" ");
        assert_eq!(line(&info, true), "fetch origin --no-recurse-submodules +a:b +c:d --depth 20 --prune --quiet");
        info.depth = 0;
        assert_eq!(line(&info, false), "fetch origin --no-recurse-submodules +a:b +c:d --prune --quiet");
        assert_eq!(line(&info, true), "fetch origin --no-recurse-submodules +a:b +c:d --prune --quiet --unshallow");
        info.refspecs.clear();
        assert_eq!(line(&info, false), "fetch origin --no-recurse-submodules abc --prune --quiet");
    }

    #[test]
    fn a_native_clone_names_the_branch_or_the_ref_and_takes_extra_flags() {
        let mut info = job().git;
        let flags = ["--filter=blob:none".to_owned()];
        let line = |info: &job::GitInfo| clone_arguments(info, &flags, "u", (Path::new("/p"), Path::new("/t"))).join(" ");
        assert_eq!(line(&info), "clone --no-checkout u /p --template /t --depth 20 --branch main --filter=blob:none");
        (info.reference, info.depth) = ("refs/merge-requests/1/head".to_owned(), 0);
        assert_eq!(
            line(&info),
            "clone --no-checkout u /p --template /t --revision refs/merge-requests/1/head --filter=blob:none"
        );
        assert_eq!((version("git version 2.39.5\n"), version("git version 2.49.0.windows.1")), (Some((2, 39)), Some((2, 49))));
    }

    #[test]
    fn a_clone_path_must_stay_below_the_builds_directory() {
        let plan = |path: &str, allowed| {
            let mut job = job();
            job.variables.push(Variable::public("GIT_CLONE_PATH", path));
            Plan {
                job,
                coordinator: Default::default(),
                workspace: Workspace { builds_dir: "/builds".into(), project_dir: "/builds/g/p".into() },
                settings: Settings { custom_build_dir: allowed, ..Settings::default() },
            }
        };
        let place = |path: &str, allowed| {
            project_directory(&plan(path, allowed), Strategy::Fetch)
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(place("", Some(false)).unwrap(), "/builds/g/p");
        assert_eq!(place("$CI_BUILDS_DIR/x/./y", None).unwrap(), "/builds/x/y");
        assert_eq!(place("/builds", None).unwrap(), "/builds");
        for outside in ["/elsewhere", "$CI_BUILDS_DIR/../x", "/builds-not", "relative"] {
            assert!(place(outside, Some(true)).unwrap_err().contains("has to be within"), "{outside}");
        }
        assert!(place("/builds/x", Some(false)).unwrap_err().contains("custom_build_dir"));
        let empty = project_directory(&plan("", None), Strategy::Empty).unwrap();
        assert_eq!(empty.display().to_string(), "/builds/g/p-empty");
    }
}
