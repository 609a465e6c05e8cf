//! A GitLab for each scenario, all at one port: the first part of the path says whose it is.
//!
//! That is GitLab under a relative URL, so a client that forgets the path is found out here.

use crate::scenario::{Folder, Hold};
use anyhow::{Context, Result};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use coordinator::{Commit, Coordinator, NewPipeline, PipelineContext, PipelineId, ProjectId, ProjectVariable};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tower::ServiceExt;

/// Path of the one project of a GitLab.
pub const PROJECT: &str = "group/project";
/// Path at which a job asks whether its gate is open.
const GATE: &str = "/-/gate";

const LOOK: Duration = Duration::from_millis(50);

/// What is served, by name.
#[derive(Clone, Default)]
pub struct Sites(Arc<Mutex<BTreeMap<String, Site>>>);

#[derive(Clone)]
struct Site {
    router: axum::Router,
    gate: Arc<AtomicBool>,
    hold: Vec<Hold>,
    away_until: Arc<Mutex<Option<Instant>>>,
}

impl Site {
    fn is_away(&self) -> bool {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Whether an answer has to wait for the gate.
    fn holds(&self, request: &Request) -> bool {
        let path = request.uri().path();
        !self.gate.load(Ordering::Relaxed)
            && self.hold.iter().any(|hold| match hold {
                Hold::Git => path.contains(".git/"),
                Hold::Artifacts => path.ends_with("/artifacts") && request.method() == axum::http::Method::POST,
            })
    }
}

impl Sites {
    /// Serves them until the runtime ends.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn serve(gateway: IpAddr, port: u16) -> Result<Self> {
        let sites = Self::default();
        let shared = sites.clone();
        let router = axum::Router::new().fallback(move |request: Request| answer(shared.clone(), request));
        let listener = tokio::net::TcpListener::bind((gateway, port)).await.context("failed to listen for pods")?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(sites)
    }

    fn get(&self, name: &str) -> Option<Site> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

async fn answer(sites: Sites, mut request: Request) -> Response {
    let path_and_query = request.uri().path_and_query().map_or("/", |whole| whole.as_str()).trim_start_matches('/').to_owned();
    let (name, rest) = path_and_query.split_once('/').unwrap_or((&path_and_query, ""));
    let Some(site) = sites.get(name) else {
        return (axum::http::StatusCode::NOT_FOUND, "no such site\n").into_response();
    };
    let rest = format!("/{rest}");
    if rest == GATE {
        let open = site.gate.load(Ordering::Relaxed);
        return if open { "open\n".into_response() } else { axum::http::StatusCode::NOT_FOUND.into_response() };
    }
    let Ok(uri) = rest.parse() else {
        return axum::http::StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    if site.is_away() {
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    }
    while site.holds(&request) {
        tokio::time::sleep(LOOK).await;
    }
    site.router.oneshot(request).await.into_response()
}

/// A GitLab with one project.
pub struct GitLab {
    /// The embedded one.
    pub coordinator: Coordinator,
    /// Its address as pods see it.
    pub url: String,
    /// Token of its runner.
    pub token: String,
    gate: Arc<AtomicBool>,
    away_until: Arc<Mutex<Option<Instant>>>,
}

struct Tree<'a>(&'a Path);

impl ci_yaml::Files for Tree<'_> {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        match std::fs::read_to_string(self.0.join(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl GitLab {
    /// Opens one at `url`, whose last part is its name, and serves it, but for what is held until the gate is open.
    ///
    /// # Errors
    /// When its state cannot be made.
    pub fn open(sites: &Sites, url: String, hold: &[Hold], directory: &Path) -> Result<Self> {
        let coordinator = Coordinator::open(&directory.join("coordinator"))?;
        coordinator.set_url(&url);
        let token = coordinator.register_runner("e2e")?;
        let gate = Arc::new(AtomicBool::new(false));
        let away_until = Arc::default();
        let site =
            Site { router: coordinator.router(), gate: gate.clone(), hold: hold.to_vec(), away_until: Arc::clone(&away_until) };
        let name = url.rsplit('/').next().unwrap_or_default().to_owned();
        sites.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, site);
        Ok(Self { coordinator, url, token, gate, away_until })
    }

    /// Lets waiting jobs pass.
    pub fn open_gate(&self) {
        self.gate.store(true, Ordering::Relaxed);
    }

    /// Everything but the gate is answered by 502 for so long: what a proxy says while GitLab is away.
    pub fn stop_for(&self, time: Duration) {
        *self.away_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
    }

    /// Address that a job asks for its gate.
    pub fn gate_url(&self) -> String {
        format!("{}{GATE}", self.url)
    }

    /// Makes the pipeline of a scenario, with these variables of the project.
    ///
    /// # Errors
    /// When the file is not a pipeline.
    pub fn run(&self, folder: &Folder, variables: Vec<ProjectVariable>, work: &Path) -> Result<PipelineId> {
        let repository = work.join("repository");
        let sha = commit(folder, &repository)?;
        let project = self.coordinator.create_project(PROJECT, &repository)?;
        make_pipeline(&self.coordinator, project, sha, variables, &Tree(&repository))
    }
}

/// Compiles the `.gitlab-ci.yml` of `files` and makes a pipeline of it, with these variables of the project.
///
/// # Errors
/// When the file is not a pipeline.
pub fn make_pipeline(
    coordinator: &Coordinator,
    project: ProjectId,
    sha: String,
    variables: Vec<ProjectVariable>,
    files: &dyn ci_yaml::Files,
) -> Result<PipelineId> {
    let context = PipelineContext {
        project,
        sha,
        ref_name: "main".to_owned(),
        default_branch: "main".to_owned(),
        commit: Commit { message: "test".to_owned(), ..Commit::default() },
        source: "push".to_owned(),
        project_variables: variables,
        ..PipelineContext::default()
    };
    let mut known = coordinator.predefined(&context)?;
    known.extend(context.project_variables.iter().map(|one| (one.key.clone(), one.value.clone())));
    let input = ci_yaml::Input { path: ".gitlab-ci.yml", files, variables: &known, overrides: &[] };
    let compiled = ci_yaml::compile(&input).map_err(|wrong| anyhow::anyhow!("{}", wrong.render(false)))?;
    let new = NewPipeline { context, pipeline: compiled.pipeline, only: Vec::new() };
    coordinator.create_pipeline(new).context("failed to make the pipeline")
}

/// A repository with one commit of the folder's files; its SHA.
fn commit(folder: &Folder, repository: &Path) -> Result<String> {
    std::fs::create_dir_all(repository)?;
    let files = folder.path.join("files");
    if files.exists() {
        copy(&files, repository)?;
    }
    std::fs::copy(folder.path.join(".gitlab-ci.yml"), repository.join(".gitlab-ci.yml"))?;
    commit_all(repository)
}

/// Makes a repository with one commit of what a directory holds; its SHA.
///
/// # Errors
/// When git is not there or fails.
pub fn commit_all(repository: &Path) -> Result<String> {
    git(repository, &["init", "-q", "-b", "main"])?;
    git(repository, &["add", "--all", "--force"])?;
    commit_index(repository)
}

/// Commits the project itself, as it was at a commit before, at `path` as a submodule; the new SHA.
///
/// # Errors
/// The same.
pub fn commit_itself(repository: &Path, path: &str, commit_before: &str) -> Result<String> {
    let name = PROJECT.rsplit('/').next().unwrap_or_default();
    let modules = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = ../{name}.git\n");
    std::fs::write(repository.join(".gitmodules"), modules)?;
    git(repository, &["add", ".gitmodules"])?;
    git(repository, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit_before},{path}")])?;
    commit_index(repository)
}

fn commit_index(repository: &Path) -> Result<String> {
    git(repository, &["-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "--allow-empty", "-m", "test"])?;
    git(repository, &["rev-parse", "HEAD"])
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = command.arg("-C").arg(repository).args(arguments).output().context("failed to start git")?;
    anyhow::ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
