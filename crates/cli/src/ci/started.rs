//! Node, coordinator and manager of one run, wired together.
//!
//! The manager gets two addresses, as it would on a cluster: the coordinator's over HTTP, where pods reach it too,
//! and the node's Kubernetes API, over pipes in this process.

use super::report::{Ending, JobRow, Report};
use super::snapshot::Snapshot;
use crate::arguments::CiArguments;
use crate::local_node;
use anyhow::{Context, Result};
use coordinator::{Commit, Coordinator, NewPipeline, PipelineContext, PipelineId, User};
use node::Node;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest log of a job, in KiB: here the disk is the user's own, so it is far above GitLab's 4 MiB.
const OUTPUT_LIMIT_KIB: u64 = 1024 * 1024;
/// Jobs at once on a machine of few cores: most jobs wait more than they compute.
const JOBS_AT_ONCE: u32 = 6;
/// How long the manager has to clean up at the end.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// A run under way.
pub struct Started {
    /// Where jobs come from and go to.
    pub coordinator: Coordinator,
    /// The pipeline that runs.
    pub pipeline: PipelineId,
    node: Node,
    sha: String,
    stop: CancellationToken,
    manager: JoinHandle<Result<(), manager::Error>>,
    server: JoinHandle<()>,
}

impl Started {
    /// Makes the pipeline, then starts all parts: what is wrong with it is told before anything runs.
    ///
    /// # Errors
    /// When a named job is not there, or a part cannot start; nothing is left then.
    pub async fn start(arguments: &CiArguments, snapshot: &Snapshot, compiled: ci_yaml::Compiled, work: &Path) -> Result<Self> {
        let coordinator = Coordinator::open(&work.join("coordinator")).context("failed to start the coordinator")?;
        let token = coordinator.register_runner("gantry ci")?;
        let project = coordinator.create_project(&project_path(snapshot), &snapshot.repository)?;
        let pipeline = coordinator.create_pipeline(NewPipeline {
            context: PipelineContext { project, ..context(snapshot, arguments) },
            pipeline: compiled.pipeline,
            only: arguments.jobs.clone(),
        })?;
        let node = Node::start(local_node::options(&arguments.host_paths)?).await.context("failed to start the node")?;
        tell_node(&node);
        let (url, server) = match serve(&coordinator, &node).await {
            Ok(serving) => serving,
            Err(error) => {
                node.shutdown().await;
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        let client = kube::Client::new(kube_server::memory::connect(node.router()), "default");
        let manager = tokio::spawn(manager::run(manager::Options {
            config: config(arguments, &url, &token),
            changes: None,
            clusters: manager::Clusters::one("this machine", client),
            system_id: "s_local".to_owned(),
            helper_image: node::HELPER_IMAGE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connect: manager::Connect::default(),
            stop: stop.clone(),
        }));
        Ok(Self { coordinator, pipeline, node, sha: snapshot.sha.clone(), stop, manager, server })
    }

    /// Whether the manager is still there; without it nothing moves any more.
    pub fn manager_stopped(&self) -> bool {
        self.manager.is_finished()
    }

    /// Stops everything and removes what it made.
    pub async fn stop(&self) {
        let clean = async {
            while self.node.has_pods() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(CLEAN_UP, clean).await.is_err() {
            tracing::warn!("some pods were not cleaned up by the manager in time; the node ends them");
        }
        self.stop.cancel();
        self.node.shutdown().await;
        self.server.abort();
    }

    /// What became of the pipeline.
    ///
    /// # Errors
    /// When the coordinator's state cannot be read.
    pub fn report(&self, status: Ending, took: Duration) -> Result<Report> {
        let state = self.coordinator.pipeline(self.pipeline)?;
        let jobs = state.jobs.into_iter().map(|job| JobRow {
            seconds: job.seconds(),
            name: job.name,
            stage: job.stage,
            status: job.status.as_str().to_owned(),
            failure_reason: job.failure_reason,
            exit_code: job.exit_code,
            allow_failure: job.allow_failure,
        });
        Ok(Report { status, sha: self.sha.clone(), seconds: took.as_secs_f64(), jobs: jobs.collect() })
    }
}

/// Serves the coordinator to this node's pods; answers its address.
async fn serve(coordinator: &Coordinator, node: &Node) -> Result<(String, JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind((node.gateway(), 0)).await.context("failed to listen for pods")?;
    let address = listener.local_addr().context("failed to listen for pods")?;
    node.allow_port(address.port());
    let url = format!("http://{address}");
    coordinator.set_url(&url);
    let router = coordinator.router();
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(error = %error, "the coordinator stopped serving");
        }
    });
    Ok((url, server))
}

fn tell_node(node: &Node) {
    let swept = node.swept();
    if swept.instances > 0 {
        tracing::warn!(?swept, "removed what an earlier run had left");
    }
    for path in node.mounted() {
        tracing::info!(path = %path.display(), "the host image shows this directory read-only");
    }
}

/// What `config.toml` would say.
fn config(arguments: &CiArguments, url: &str, token: &str) -> runner_config::Config {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let kubernetes = runner_config::Kubernetes {
        namespace: "default".to_owned(),
        image: arguments.image_default.clone(),
        pull_policy: vec!["if-not-present".to_owned()],
        allowed_pull_policies: ["always", "if-not-present", "never"].map(str::to_owned).to_vec(),
        // A terminal folds no section away.
        gantry: runner_config::Gantry { resource_report: Some(false), ..runner_config::Gantry::default() },
        ..runner_config::Kubernetes::default()
    };
    let runner = runner_config::Runner {
        name: "gantry ci".to_owned(),
        url: url.to_owned(),
        token: token.to_owned(),
        executor: "kubernetes".to_owned(),
        output_limit: OUTPUT_LIMIT_KIB,
        kubernetes,
        ..runner_config::Runner::default()
    };
    runner_config::Config {
        concurrent: u32::try_from(cores * 2).unwrap_or(JOBS_AT_ONCE).max(JOBS_AT_ONCE),
        check_interval: 1,
        runners: vec![runner],
        ..runner_config::Config::default()
    }
}

/// `CI_PROJECT_PATH`: the directory's name under a namespace of its own.
fn project_path(snapshot: &Snapshot) -> String {
    let name = snapshot.top.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = name.chars().map(|one| if one.is_ascii_alphanumeric() || "-_.".contains(one) { one } else { '-' });
    let plain: String = plain.collect();
    let plain = plain.trim_matches(['-', '.']);
    format!("local/{}", if plain.is_empty() { "project" } else { plain })
}

/// What the pipeline is of.
fn context(snapshot: &Snapshot, arguments: &CiArguments) -> PipelineContext {
    let (name, email) = snapshot.author.trim_end_matches('>').split_once(" <").unwrap_or((&snapshot.author, ""));
    let user = User { id: "1".to_owned(), name: name.to_owned(), email: email.to_owned(), login: "local".to_owned() };
    PipelineContext {
        sha: snapshot.sha.clone(),
        before_sha: snapshot.before_sha.clone(),
        ref_name: snapshot.reference.clone(),
        ref_is_tag: snapshot.is_tag,
        commit: Commit {
            message: snapshot.message.clone(),
            author: snapshot.author.clone(),
            timestamp: snapshot.timestamp.clone(),
        },
        default_branch: snapshot.default_branch.clone(),
        source: "push".to_owned(),
        config_path: arguments.file.clone(),
        user,
        variables: arguments.variables.clone(),
        ..PipelineContext::default()
    }
}

/// The variables that `rules` may ask for.
pub fn predefined(snapshot: &Snapshot, arguments: &CiArguments) -> Vec<(String, String)> {
    coordinator::predefined(&project_path(snapshot), &context(snapshot, arguments))
}
