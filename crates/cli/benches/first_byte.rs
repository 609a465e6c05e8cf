//! How long a job takes from its pod's creation to the first byte of its script at the coordinator, on the `host` image.
//!
//! Prints the median and the spread of both halves: pod created → first byte, and job pending → first byte. Nothing is
//! asserted: the numbers depend on the machine, the goal (median below 300 ms on two cores) stands in the design.
//!
//! `cargo xtask agent`, then as root
//! `GANTRY_AGENT=$PWD/target/agent/gantry-agent cargo bench --package cli --bench first_byte`

use ci_yaml::pipeline::{Pipeline, PipelineJob};
use coordinator::{Coordinator, Event, JobStatus, NewPipeline, PipelineContext};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Jobs, one after the other.
const JOBS: usize = 30;
/// What each script prints first.
const MARK: &[u8] = b"first-byte-of-the-script";

fn main() -> anyhow::Result<()> {
    node::reexec();
    if let Err(error) = node::enter() {
        println!("skipped, because {error}");
        return Ok(());
    }
    cli::ci::install_crypto();
    let directory = tempfile::tempdir()?;
    let sha = repository(directory.path())?;
    tokio::runtime::Runtime::new()?.block_on(measure(directory.path(), sha))
}

fn repository(directory: &Path) -> anyhow::Result<String> {
    let script = "git init --quiet && echo x > file && git add file && \
                  git -c user.name=bench -c user.email=bench@localhost commit --quiet --message=x && git rev-parse HEAD";
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output()?;
    anyhow::ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn measure(directory: &Path, sha: String) -> anyhow::Result<()> {
    let node = node::Node::start(cli::local_node::options(&[])?).await?;
    let coordinator = Coordinator::open(&directory.join("coordinator"))?;
    let listener = tokio::net::TcpListener::bind((node.gateway(), 0)).await?;
    let address = listener.local_addr()?;
    node.allow_port(address.port());
    coordinator.set_url(&format!("http://{address}"));
    let serving = tokio::spawn(axum::serve(listener, coordinator.router()).into_future());
    let client = kube::Client::new(kube_server::memory::connect(node.router()), "default");
    let created = watch_pods(client.clone());
    let stop = tokio_util::sync::CancellationToken::new();
    let token = coordinator.register_runner("bench")?;
    let manager = tokio::spawn(manager::run(manager::Options {
        config: config(&format!("http://{address}"), token),
        changes: None,
        clusters: manager::Clusters::one("bench", client),
        system_id: "s_bench".to_owned(),
        helper_image: node::HELPER_IMAGE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connect: manager::Connect::default(),
        stop: stop.clone(),
    }));
    let mut events = coordinator.events();
    let project = coordinator.create_project("bench/one", directory)?;
    let context = PipelineContext { project, sha, ref_name: "main".to_owned(), ..PipelineContext::default() };
    coordinator.create_pipeline(NewPipeline { context, pipeline: pipeline(), only: Vec::new() })?;
    let mut pending: HashMap<coordinator::JobId, Instant> = HashMap::new();
    let (mut of_pod, mut of_job, mut ended) = (Vec::new(), Vec::new(), 0);
    let mut seen = std::collections::HashSet::new();
    while ended < JOBS {
        match tokio::time::timeout(Duration::from_secs(60), events.recv()).await?? {
            Event::JobStatus { job, status: JobStatus::Pending, .. } => {
                pending.entry(job).or_insert_with(Instant::now);
            }
            Event::JobStatus { status, .. } if status.is_final() => ended += 1,
            Event::Trace { job, .. } if !seen.contains(&job) => {
                let text = coordinator.read_trace(job, 0, 1 << 20)?;
                // The first time is the echoed command's: the script runs from then on.
                if text.windows(MARK.len()).any(|window| window == MARK) {
                    seen.insert(job);
                    of_job.extend(pending.get(&job).map(Instant::elapsed));
                    let made = created.lock().map(|created| created.get(&job.to_string()).map(Instant::elapsed));
                    of_pod.extend(made.ok().flatten());
                }
            }
            _ => {}
        }
    }
    println!("{}", shown("pod created → first byte of the script", of_pod));
    println!("{}", shown("job pending → first byte of the script", of_job));
    stop.cancel();
    manager.await??;
    node.shutdown().await;
    serving.abort();
    Ok(())
}

/// When each job's pod was created, by the number of the job.
fn watch_pods(client: kube::Client) -> Arc<Mutex<HashMap<String, Instant>>> {
    let created = Arc::new(Mutex::new(HashMap::new()));
    let noted = created.clone();
    tokio::spawn(async move {
        let pods: kube::Api<Pod> = kube::Api::all(client);
        let mut changes = std::pin::pin!(watcher(pods, watcher::Config::default()).applied_objects());
        while let Ok(Some(pod)) = changes.try_next().await {
            let job = pod.metadata.labels.and_then(|labels| labels.get("gantry.dev/job-id").cloned());
            if let (Some(job), Ok(mut noted)) = (job, noted.lock()) {
                noted.entry(job).or_insert_with(Instant::now);
            }
        }
    });
    created
}

fn config(url: &str, token: String) -> runner_config::Config {
    let kubernetes = runner_config::Kubernetes { image: "host".to_owned(), ..runner_config::Kubernetes::default() };
    let runner = runner_config::Runner {
        name: "bench".to_owned(),
        url: url.to_owned(),
        token,
        executor: "kubernetes".to_owned(),
        kubernetes,
        ..runner_config::Runner::default()
    };
    runner_config::Config { concurrent: 4, runners: vec![runner], ..runner_config::Config::default() }
}

fn pipeline() -> Pipeline {
    let job = |number: usize| PipelineJob {
        name: format!("job-{number}"),
        stage: format!("stage-{number}"),
        script: vec![format!("echo {}", String::from_utf8_lossy(MARK))],
        ..PipelineJob::default()
    };
    Pipeline {
        stages: (0..JOBS).map(|number| format!("stage-{number}")).collect(),
        jobs: (0..JOBS).map(job).collect(),
        ..Pipeline::default()
    }
}

fn shown(what: &str, mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len().saturating_sub(1)) * part / 100).copied().unwrap_or_default().as_millis();
    format!("{what}: median {} ms, p10 {} ms, p90 {} ms, of {}", at(50), at(10), at(90), times.len())
}
