//! What the parts of a manager share, made once from the options.

use crate::calm::Calm;
use crate::clusters::Cluster;
use crate::{Connect, Error, Options, authority};
use agent_contract::names;
use gitlab_api::{Features, Info};
use gitlab_client::{Client, ClientConfig};
use job::Secret;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Everything a job's task needs besides the job.
pub struct Manager {
    /// Where pods go.
    pub clusters: Vec<Arc<Cluster>>,
    /// Which manager this is.
    pub system_id: String,
    /// The same as a label's value.
    pub owner: String,
    /// Helper image where the configuration names none.
    pub helper_image: String,
    /// Version of the manager.
    pub version: String,
    /// How GitLab is reached.
    pub connect: Connect,
    /// One per `[[runners]]` entry.
    pub runners: Vec<Arc<RunnerSide>>,
    /// Room for jobs over all runners (`concurrent`).
    pub room: Arc<Semaphore>,
    /// Seconds between questions answered at once.
    pub check_interval: u64,
    /// When to clean up.
    pub calm: Arc<Calm>,
    /// No more jobs are asked for; what runs is left alone.
    pub stop: CancellationToken,
    /// Everything ends at once.
    pub halt: CancellationToken,
    /// All tasks that `stop` waits for.
    pub tasks: TaskTracker,
}

/// One `[[runners]]` entry at work.
pub struct RunnerSide {
    /// Its configuration.
    pub config: runner_config::Runner,
    /// Its GitLab.
    pub gitlab: Client,
    /// Its token.
    pub token: Secret,
    /// Certificates (PEM) to trust at its GitLab besides the public ones.
    pub ca_pem: Option<String>,
    /// Most requests for a job at once (`request_concurrency`).
    pub questions: usize,
    /// The cluster of its pods.
    pub cluster: Arc<Cluster>,
    /// Room for jobs of this entry (`limit`).
    pub room: Arc<Semaphore>,
}

impl Manager {
    /// Starts a task that ends with the manager.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed, because the wrapper would hold its place twice.
        let (halt, task) = (self.halt.clone(), Box::pin(task));
        self.tasks.spawn(async move {
            tokio::select! { biased; () = halt.cancelled() => {}, () = task => {} }
        });
    }

    /// The namespaces of a cluster that the configuration names.
    pub fn namespaces<'a>(&'a self, cluster: &'a Arc<Cluster>) -> BTreeSet<&'a str> {
        let here = self.runners.iter().filter(|runner| Arc::ptr_eq(&runner.cluster, cluster));
        let mut named: BTreeSet<_> = here.filter_map(|runner| runner.config.kubernetes.fixed_namespace()).collect();
        named.insert(self.home(cluster));
        named
    }

    /// The namespace of a cluster for what belongs to no job: the first that the configuration names, else the one of
    /// the connection.
    pub fn home<'a>(&'a self, cluster: &'a Cluster) -> &'a str {
        let here = self.runners.iter().filter(|runner| std::ptr::eq(Arc::as_ptr(&runner.cluster), cluster));
        let named = here.filter_map(|runner| runner.config.kubernetes.fixed_namespace()).next();
        named.unwrap_or_else(|| cluster.client.default_namespace())
    }

    /// What all objects of this manager have in common.
    pub fn selector(&self) -> String {
        format!("{}={},{}={}", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::LABEL_OWNER, self.owner)
    }

    /// What we say of ourselves to GitLab, with every call the same: the server keeps the features of the last one.
    pub fn info(&self) -> Info {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Info {
            name: "gitlab-runner".to_owned(),
            version: self.version.clone(),
            revision: String::new(),
            platform: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            executor: "kubernetes".to_owned(),
            shell: "bash".to_owned(),
            features: features(),
            config: gitlab_api::runner::InfoConfig::default(),
        }
    }
}

/// What the agent can do, no more: GitLab hands out jobs by it.
fn features() -> Features {
    Features {
        variables: true,
        image: true,
        services: true,
        artifacts: true,
        upload_multiple_artifacts: true,
        upload_raw_artifacts: true,
        refspecs: true,
        masking: true,
        raw_variables: true,
        artifacts_exclude: true,
        multi_build_steps: true,
        trace_reset: true,
        trace_checksum: true,
        trace_size: true,
        cancelable: true,
        return_exit_code: true,
        service_variables: true,
        service_multiple_aliases: true,
        image_executor_opts: true,
        cancel_gracefully: true,
        two_phase_job_commit: true,
        ..Features::default()
    }
}

/// Makes the manager; nothing is sent yet.
pub fn connect(options: Options) -> Result<Arc<Manager>, Error> {
    let owner = pod_spec::label_value(&options.system_id);
    if owner.is_empty() {
        return Err(Error::SystemId(options.system_id));
    }
    let concurrent = options.config.concurrent() as usize;
    let (clusters, of_runners) = options.clusters.open(options.config.runners.len());
    let runners = options
        .config
        .runners
        .into_iter()
        .zip(of_runners)
        .map(|(config, cluster)| {
            let ca_pem = authority::of(&config)?;
            let client = gitlab(&options.connect, &config, ca_pem.clone(), &options.version)?;
            Ok(Arc::new(RunnerSide::new(config, clusters[cluster].clone(), (client, ca_pem), concurrent)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let questions: usize = runners.iter().map(|runner| runner.questions).sum();
    if concurrent < questions {
        let message = "fewer jobs at once than requests for them: these take turns, which can take a minute each";
        tracing::warn!(concurrent, questions, "{message}");
    }
    Ok(Arc::new(Manager {
        clusters,
        system_id: options.system_id,
        owner,
        helper_image: options.helper_image,
        version: options.version,
        connect: options.connect,
        runners,
        room: Arc::new(Semaphore::new(concurrent)),
        check_interval: options.config.check_interval,
        calm: Arc::default(),
        stop: options.stop,
        halt: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }))
}

/// The GitLab of an entry.
pub fn gitlab(connect: &Connect, config: &runner_config::Runner, ca_pem: Option<String>, version: &str) -> Result<Client, Error> {
    let client = ClientConfig {
        url: config.url.clone(),
        ca_pem,
        user_agent: format!("gitlab-runner {version} (gantry; {}/{})", std::env::consts::OS, std::env::consts::ARCH),
    };
    (connect.0)(&client).map_err(|source| Error::Gitlab { runner: config.name.clone(), source })
}

impl RunnerSide {
    /// An entry with its connections; certificates stand beside the GitLab that they are for.
    pub fn new(
        config: runner_config::Runner,
        cluster: Arc<Cluster>,
        (gitlab, ca_pem): (Client, Option<String>),
        concurrent: usize,
    ) -> Self {
        let limit = if config.limit == 0 { concurrent } else { config.limit as usize };
        Self {
            gitlab,
            cluster,
            token: Secret::new(config.token.clone()),
            ca_pem,
            // A request holds room for its job: more of them than there is room would only wait for each other.
            questions: (config.request_concurrency as usize).min(limit).min(concurrent).max(1),
            room: Arc::new(Semaphore::new(limit)),
            config,
        }
    }
}
