//! Coordinator, manager and node in this process, wired as `gantry ci` does, with the configuration in our hands.

use crate::gantry::PATIENCE;
use crate::repository::Repository;
use cli::ci::snapshot::Snapshot;
use coordinator::{Coordinator, JobState, NewPipeline, PipelineContext, PipelineId};
use futures::FutureExt;
use node::{Node, NodeOptions};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(20);

/// All parts, running.
pub struct Parts {
    /// GitLab's part.
    pub coordinator: Coordinator,
    /// The Kubernetes API.
    pub client: kube::Client,
    node: Node,
    stop: CancellationToken,
    manager: JoinHandle<Result<(), manager::Error>>,
    server: JoinHandle<()>,
    work: tempfile::TempDir,
}

/// The static agent, where the program finds it too.
pub fn agent() -> std::path::PathBuf {
    let beside = || std::path::Path::new(env!("CARGO_BIN_EXE_gantry")).with_file_name("../agent/gantry-agent");
    std::env::var_os(cli::agent_binary::VARIABLE).map_or_else(beside, Into::into)
}

/// Starts the parts, plays `case` with them and stops them, whatever became of it.
pub fn play(tune: impl FnOnce(&mut runner_config::Runner), case: impl AsyncFnOnce(&Parts)) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let parts = Parts::start(tune).await;
        let outcome = AssertUnwindSafe(case(&parts)).catch_unwind().await;
        let stopped = AssertUnwindSafe(parts.stop(outcome.is_ok())).catch_unwind().await;
        if let Some(panic) = outcome.err().or(stopped.err()) {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Parts {
    /// Starts them; `tune` changes what `config.toml` would say of the runner.
    async fn start(tune: impl FnOnce(&mut runner_config::Runner)) -> Self {
        let work = tempfile::tempdir().unwrap();
        let options = NodeOptions {
            run_dir: crate::leftovers::DIRECTORIES[0].into(),
            data_dir: crate::leftovers::DIRECTORIES[1].into(),
            agent: Some(agent()),
            ..NodeOptions::default()
        };
        let node = Node::start(options).await.unwrap();
        let coordinator = Coordinator::open(&work.path().join("coordinator")).unwrap();
        let listener = tokio::net::TcpListener::bind((node.gateway(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        node.allow_port(address.port());
        let url = format!("http://{address}");
        coordinator.set_url(&url);
        let router = coordinator.router();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut runner = runner_config::Runner {
            name: "test".to_owned(),
            url,
            token: coordinator.register_runner("test").unwrap(),
            executor: "kubernetes".to_owned(),
            output_limit: 1024 * 1024,
            ..runner_config::Runner::default()
        };
        runner.kubernetes.namespace = "default".to_owned();
        runner.kubernetes.image = "host".to_owned();
        tune(&mut runner);
        let config = runner_config::Config { concurrent: 8, check_interval: 1, runners: vec![runner], ..Default::default() };
        let client = kube::Client::new(kube_server::memory::connect(node.router()), "default");
        let stop = CancellationToken::new();
        let manager = tokio::spawn(manager::run(manager::Options {
            config,
            changes: None,
            clusters: manager::Clusters::one("test", client.clone()),
            system_id: "s_test".to_owned(),
            helper_image: node::HELPER_IMAGE.to_owned(),
            version: "test".to_owned(),
            connect: manager::Connect::default(),
            stop: stop.clone(),
        }));
        Self { coordinator, client, node, stop, manager, server, work }
    }

    /// Starts the pipeline of a repository, which has to stay for as long as jobs clone it.
    pub fn run(&self, repository: &Repository) -> PipelineId {
        let into = self.work.path().join(uuid::Uuid::new_v4().simple().to_string());
        std::fs::create_dir(&into).unwrap();
        let snapshot = Snapshot::take(repository.path(), &into).unwrap();
        let files = Files(&snapshot);
        let path = ".gitlab-ci.yml";
        let compiled = ci_yaml::compile(&ci_yaml::Input { path, files: &files, variables: &[], overrides: &[] });
        let project = self.coordinator.create_project("local/test", &snapshot.repository).unwrap();
        let context = PipelineContext {
            project,
            sha: snapshot.sha.clone(),
            ref_name: snapshot.reference.clone(),
            default_branch: "main".to_owned(),
            source: "push".to_owned(),
            ..PipelineContext::default()
        };
        let pipeline = compiled.map_err(|wrong| wrong.render(false)).unwrap().pipeline;
        self.coordinator.create_pipeline(NewPipeline { context, pipeline, only: Vec::new() }).unwrap()
    }

    /// The first job of a pipeline.
    pub fn job(&self, pipeline: PipelineId) -> JobState {
        self.coordinator.pipeline(pipeline).unwrap().jobs.remove(0)
    }

    /// The trace of the first job of a pipeline.
    pub fn trace(&self, pipeline: PipelineId) -> String {
        let bytes = self.coordinator.read_trace(self.job(pipeline).id, 0, 1024 * 1024).unwrap();
        String::from_utf8_lossy(&coordinator::log::without_stamps(&bytes)).into_owned()
    }

    /// Waits until `text` is in the trace of the first job, and answers the trace.
    pub async fn wait_for_trace(&self, pipeline: PipelineId, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let trace = self.trace(pipeline);
            if trace.contains(text) {
                return trace;
            }
            assert!(begun.elapsed() < PATIENCE && !self.job(pipeline).status.is_final(), "{text:?} is not in:\n{trace}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for the end of the first job.
    pub async fn wait_for_end(&self, pipeline: PipelineId) -> JobState {
        let begun = Instant::now();
        loop {
            let job = self.job(pipeline);
            if job.status.is_final() {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "it runs still:\n{}", self.trace(pipeline));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops everything; when all went well, the manager must have deleted all that it made.
    async fn stop(self, went_well: bool) {
        let begun = Instant::now();
        let mut left = self.secrets().await;
        while went_well && (self.node.has_pods() || !left.is_empty()) && begun.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(LOOK).await;
            left = self.secrets().await;
        }
        let pods = self.node.has_pods();
        self.stop.cancel();
        self.node.shutdown().await;
        self.manager.await.unwrap().unwrap();
        self.server.abort();
        assert!(!went_well || (left.is_empty() && !pods), "left in the cluster: pods {pods}, Secrets {left:?}");
    }

    async fn secrets(&self) -> Vec<String> {
        let api: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::all(self.client.clone());
        api.list(&Default::default()).await.unwrap().into_iter().filter_map(|secret| secret.metadata.name).collect()
    }
}

struct Files<'a>(&'a Snapshot);

impl ci_yaml::Files for Files<'_> {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        self.0.read(path).map_err(|error| format!("{error:#}"))
    }
}
