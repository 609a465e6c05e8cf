//! A coordinator over real HTTP on loopback, with the client that manager and agent use.

use ci_yaml::pipeline::{Artifacts, Pipeline, PipelineJob};
use coordinator::{Coordinator, JobStatus, NewPipeline, PipelineContext, PipelineId, Settings};
use gitlab_api::{Features, Info, JobRequest, JobResponse, UpdateJob};
use gitlab_client::{Client, ClientConfig, Hints, UpdateOutcome};
use job::Secret;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A coordinator, its address, a runner and a project.
pub struct Server {
    pub coordinator: Coordinator,
    pub client: Client,
    pub url: String,
    pub runner: Secret,
    pub project: u64,
    pub repository: PathBuf,
    pub directory: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Short times, so that tests do not wait.
pub fn quick() -> Settings {
    Settings { long_poll: Duration::from_secs(5), confirm_within: Duration::from_secs(60), ..Settings::default() }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(quick()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::open_with(&directory.path().join("state"), settings).unwrap();
        let repository = directory.path().join("repository");
        git(directory.path(), &["init", "-q", "-b", "main", "repository"]);
        let runner = Secret::new(coordinator.register_runner("test runner").unwrap());
        let project = coordinator.create_project("group/sub/project", &repository).unwrap();
        let (url, serving) = serve(&coordinator).await;
        let client = client(&url);
        Self { coordinator, client, url, runner, project, repository, directory, serving }
    }

    /// Makes a pipeline of these jobs.
    pub fn pipeline(&self, stages: &[&str], jobs: Vec<PipelineJob>) -> PipelineId {
        self.coordinator.create_pipeline(self.new_pipeline(stages, jobs)).unwrap()
    }

    pub fn new_pipeline(&self, stages: &[&str], jobs: Vec<PipelineJob>) -> NewPipeline {
        NewPipeline {
            context: PipelineContext {
                project: self.project,
                sha: "0123456789012345678901234567890123456789".into(),
                ref_name: "main".into(),
                default_branch: "main".into(),
                source: "push".into(),
                ..PipelineContext::default()
            },
            pipeline: Pipeline { stages: stages.iter().map(|one| (*one).to_owned()).collect(), jobs, ..Pipeline::default() },
            only: Vec::new(),
        }
    }

    /// The next job, `None` when there is none at once.
    pub async fn request(&self) -> Option<JobResponse> {
        self.request_as(&self.runner).await.unwrap().map(|job| *job)
    }

    pub async fn request_as(&self, runner: &Secret) -> Result<Option<Box<JobResponse>>, gitlab_client::ClientError> {
        self.client.request_job(runner, &job_request("")).await.map(|requested| requested.job)
    }

    /// The next job, confirmed.
    pub async fn take(&self) -> JobResponse {
        let job = self.request().await.expect("a job waits");
        let (outcome, _) = self.update(&job, "running", UpdateJob::default()).await;
        assert_eq!(outcome, UpdateOutcome::Accepted);
        job
    }

    pub async fn update(&self, job: &JobResponse, state: &str, more: UpdateJob) -> (UpdateOutcome, Hints) {
        let body = UpdateJob { state: state.into(), token: job.token.clone(), ..more };
        self.client.update_job(job.id, &Secret::new(job.token.clone()), &body).await.unwrap()
    }

    pub async fn end(&self, job: &JobResponse, state: &str) {
        assert_eq!(self.update(job, state, UpdateJob::default()).await.0, UpdateOutcome::Accepted);
    }

    pub fn statuses(&self, pipeline: PipelineId) -> Vec<(String, JobStatus)> {
        self.coordinator.pipeline(pipeline).unwrap().jobs.into_iter().map(|job| (job.name, job.status)).collect()
    }

    pub fn status(&self, pipeline: PipelineId, name: &str) -> JobStatus {
        self.statuses(pipeline).into_iter().find(|(job, _)| job == name).unwrap().1
    }
}

pub async fn serve(coordinator: &Coordinator) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    coordinator.set_url(&url);
    let router = coordinator.router();
    (url, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

pub fn client(url: &str) -> Client {
    Client::new(&ClientConfig { url: url.to_owned(), user_agent: "test".into(), ..ClientConfig::default() }).unwrap()
}

pub fn job_request(last_update: &str) -> JobRequest {
    let features = Features { two_phase_job_commit: true, cancel_gracefully: true, ..Features::default() };
    JobRequest { info: Info { features, ..Info::default() }, last_update: last_update.into(), ..JobRequest::default() }
}

/// A job with a script.
pub fn job(name: &str, stage: &str) -> PipelineJob {
    PipelineJob { name: name.into(), stage: stage.into(), script: vec!["true".into()], ..PipelineJob::default() }
}

pub fn leaves(job: PipelineJob, path: &str) -> PipelineJob {
    let artifacts = Artifacts { paths: vec![path.into()], expire_in: "1 week".into(), ..Artifacts::default() };
    PipelineJob { artifacts: Some(artifacts), ..job }
}

pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = git_output(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn git_output(directory: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new("git");
    command.current_dir(directory).args(["-c", "user.name=T", "-c", "user.email=t@example.com"]).args(arguments);
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", directory);
    command.output().unwrap()
}

pub async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
