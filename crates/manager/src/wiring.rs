//! What the parts of a manager share, made once from the options.

use crate::authority::Tls;
use crate::calm::Calm;
use crate::clusters::{Cluster, Clusters};
use crate::numbers::Numbers;
use crate::room::Room;
use crate::throttle::Throttle;
use crate::{Connect, Error};
use agent_contract::names;
use gitlab_api::Info;
use gitlab_client::{Client, ClientConfig};
use job::Secret;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commit that this program was made of, when whoever made it said so; else what GitLab Runner says then.
const REVISION: &str = match option_env!("GANTRY_REVISION") {
    Some(revision) => revision,
    None => "HEAD",
};

/// Everything a job's task needs besides the job.
pub struct Manager {
    /// Which manager this is.
    pub system_id: String,
    /// The same as a label's value.
    pub owner: String,
    /// Which process of this manager: another one with the same system id has another.
    pub instance: String,
    /// Helper image where the configuration names none.
    pub helper_image: String,
    /// Version of the manager.
    pub version: String,
    /// How GitLab is reached.
    pub connect: Connect,
    /// What the configuration says now.
    setup: Mutex<Arc<Setup>>,
    /// Room for jobs over all runners (`concurrent`).
    pub room: Arc<Room>,
    /// When to clean up.
    pub calm: Arc<Calm>,
    /// No more jobs are asked for; what runs is left alone.
    pub stop: CancellationToken,
    /// Everything ends at once.
    pub halt: CancellationToken,
    /// Another process with our system id has taken over.
    pub lost: CancellationToken,
    /// All tasks that `stop` waits for.
    pub tasks: TaskTracker,
}

/// What stays the same for as long as a manager runs.
pub struct Identity {
    /// Which manager this is.
    pub system_id: String,
    /// Helper image where the configuration names none.
    pub helper_image: String,
    /// Version of the manager.
    pub version: String,
    /// How GitLab is reached.
    pub connect: Connect,
}

/// A configuration at work, which another may take the place of.
#[derive(Default)]
pub struct Setup {
    /// Where pods go. Those of the configurations before come first: jobs may still be there.
    pub clusters: Vec<Arc<Cluster>>,
    /// One per `[[runners]]` entry.
    pub runners: Vec<Arc<RunnerSide>>,
    /// Most jobs at once (`concurrent`).
    pub concurrent: usize,
    /// Seconds between questions answered at once.
    pub check_interval: u64,
    /// Limits are for all replicas together (`[gantry] shared_limits`).
    pub shared_limits: bool,
}

/// One `[[runners]]` entry at work.
pub struct RunnerSide {
    /// Its configuration.
    pub config: runner_config::Runner,
    /// Its token.
    pub token: Secret,
    /// What it brings to a TLS connection to its GitLab.
    pub tls: Tls,
    /// Most requests for a job at once (`request_concurrency`).
    pub questions: usize,
    /// The cluster of its pods.
    pub cluster: Arc<Cluster>,
    /// What it has in common with the same entry of configurations before.
    pub lane: Arc<Lane>,
    /// Those who ask for its jobs.
    pub asking: Arc<Asking>,
}

/// Those who ask for jobs in one way: with the same token, as many, for the same cluster.
#[derive(Default)]
pub struct Asking {
    /// Cancelled when nobody is to ask in this way any more.
    pub end: CancellationToken,
    begun: AtomicBool,
}

impl Asking {
    /// Whether nobody has begun yet; from now on somebody has.
    pub fn begins(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }
}

/// What outlives a change of an entry.
pub struct Lane {
    /// Room for jobs of this entry (`limit`).
    pub room: Arc<Room>,
    /// Numbers of its jobs.
    pub numbers: Numbers,
    /// Room for requests.
    pub throttle: Throttle,
    /// Its GitLab; jobs that run go on with the newest certificates.
    gitlab: Mutex<Client>,
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

    /// Starts a task that ends at the stop, wherever it is.
    pub fn attend(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (halt, stop) = (self.halt.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! { biased; () = halt.cancelled() => {}, () = stop.cancelled() => {}, () = task => {} }
        });
    }

    /// What the configuration says now.
    pub fn setup(&self) -> Arc<Setup> {
        self.lock().clone()
    }

    /// From now on it says this; what it said before comes back.
    pub fn replace(&self, setup: Arc<Setup>) -> Arc<Setup> {
        std::mem::replace(&mut *self.lock(), setup)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Setup>> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where pods go, now or before.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.setup().clusters.clone()
    }

    /// The namespaces of a cluster that the configuration names.
    pub fn namespaces(&self, cluster: &Cluster) -> BTreeSet<String> {
        self.setup().namespaces(cluster)
    }

    /// The namespace of a cluster for what belongs to no job: the first that the configuration names, else the one of
    /// the connection.
    pub fn home(&self, cluster: &Cluster) -> String {
        self.setup().home(cluster)
    }

    /// Gives each room the size that the configuration says; where limits are shared, our part of it.
    pub fn make_room(&self) {
        let setup = self.setup();
        let part = |of_all: usize, cluster: &Arc<Cluster>| {
            if setup.shared_limits { share(of_all, cluster.leases.alive(&self.owner)) } else { of_all }
        };
        self.room.resize(setup.runners.first().map_or(setup.concurrent, |first| part(setup.concurrent, &first.cluster)));
        for runner in &setup.runners {
            runner.lane.room.resize(part(limit(&runner.config, setup.concurrent), &runner.cluster));
        }
    }

    /// The entry as the configuration has it now, or as it was last.
    pub fn newest(&self, runner: &Arc<RunnerSide>) -> Arc<RunnerSide> {
        let setup = self.setup();
        setup.runners.iter().find(|one| Arc::ptr_eq(&one.lane, &runner.lane)).unwrap_or(runner).clone()
    }

    /// This process, as the holder of a Lease.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.system_id, self.instance)
    }

    /// What all objects of this manager have in common.
    pub fn selector(&self) -> String {
        format!("{}={},{}={}", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::LABEL_OWNER, self.owner)
    }

    /// What we say of ourselves to GitLab, with every call the same: the server keeps the features of the last one.
    pub fn info(&self) -> Info {
        info(&self.version)
    }
}

/// What a manager of this version says of itself.
pub fn info(version: &str) -> Info {
    Info { revision: REVISION.to_owned(), ..Info::of_kubernetes(version) }
}

/// Makes the manager, without any entry yet.
pub fn make(identity: Identity, stop: CancellationToken) -> Result<Arc<Manager>, Error> {
    let Identity { system_id, helper_image, version, connect } = identity;
    let owner = pod_spec::label_value(&system_id);
    if owner.is_empty() {
        return Err(Error::SystemId(system_id));
    }
    Ok(Arc::new(Manager {
        system_id,
        owner,
        instance: format!("{:08x}", fastrand::u32(..)),
        helper_image,
        version,
        connect,
        setup: Mutex::default(),
        room: Room::new(0),
        calm: Arc::default(),
        stop,
        halt: CancellationToken::new(),
        lost: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }))
}

/// One replica's part of a limit: who comes first by name gets what is left over.
fn share(of_all: usize, (others, before): (usize, usize)) -> usize {
    let replicas = others + 1;
    of_all / replicas + usize::from(before < of_all % replicas)
}

impl Setup {
    /// What follows from another configuration: entries and clusters that stay are kept.
    pub fn next(&self, config: runner_config::Config, clusters: Clusters, manager: &Manager) -> Result<Self, Error> {
        let concurrent = config.concurrent() as usize;
        let (clusters, of_runners) = clusters.open(&self.clusters, config.runners.len());
        let old = matches(&config.runners, self.runners.clone());
        let entries = config.runners.into_iter().zip(of_runners).zip(old);
        let runners = entries
            .map(|((config, cluster), old)| RunnerSide::next(config, clusters[cluster].clone(), (old, concurrent), manager))
            .collect::<Result<Vec<_>, _>>()?;
        let questions: usize = runners.iter().map(|runner| runner.questions).sum();
        if concurrent < questions {
            let message = "fewer jobs at once than requests for them: these take turns, which can take a minute each";
            tracing::warn!(concurrent, questions, "{message}");
        }
        let shared_limits = config.gantry.shared_limits;
        Ok(Self { clusters, runners, concurrent, check_interval: config.check_interval, shared_limits })
    }

    /// The namespaces of a cluster that the configuration names.
    pub fn namespaces(&self, cluster: &Cluster) -> BTreeSet<String> {
        let mut named: BTreeSet<_> = self.named(cluster).map(str::to_owned).collect();
        named.insert(self.home(cluster));
        named
    }

    /// The namespace of a cluster for what belongs to no job.
    pub fn home(&self, cluster: &Cluster) -> String {
        self.named(cluster).next().unwrap_or_else(|| cluster.client.default_namespace()).to_owned()
    }

    /// Whether an entry puts pods there.
    pub fn is_used(&self, cluster: &Arc<Cluster>) -> bool {
        self.runners.iter().any(|runner| Arc::ptr_eq(&runner.cluster, cluster))
    }

    fn named<'a>(&'a self, cluster: &'a Cluster) -> impl Iterator<Item = &'a str> {
        let here = self.runners.iter().filter(|runner| std::ptr::eq(Arc::as_ptr(&runner.cluster), cluster));
        here.filter_map(|runner| runner.config.kubernetes.fixed_namespace())
    }

    /// Each namespace that the configuration names, with its cluster.
    pub fn places(&self) -> Vec<(Arc<Cluster>, String)> {
        let mut places = Vec::new();
        for cluster in self.clusters.iter().filter(|cluster| self.is_used(cluster)) {
            places.extend(self.namespaces(cluster).into_iter().map(|namespace| (cluster.clone(), namespace)));
        }
        places
    }
}

/// What makes an entry the same one as before, at one GitLab, beginning with the surest.
const LIKENESSES: [fn(&runner_config::Runner, &runner_config::Runner) -> bool; 4] = [
    |one, other| one.token == other.token && one.name == other.name,
    |one, other| one.token == other.token,
    |one, other| one.id == other.id && one.id != 0,
    |one, other| one.name == other.name && !one.name.is_empty(),
];

/// For each entry the one that it takes the place of.
fn matches(entries: &[runner_config::Runner], mut before: Vec<Arc<RunnerSide>>) -> Vec<Option<Arc<RunnerSide>>> {
    let mut found = vec![None; entries.len()];
    for alike in LIKENESSES {
        for (entry, found) in entries.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            let same = before.iter().position(|one| one.config.url == entry.url && alike(&one.config, entry));
            *found = same.map(|index| before.swap_remove(index));
        }
    }
    found
}

impl RunnerSide {
    /// An entry with its connections; what TLS needs stands beside the GitLab that it is for.
    pub fn new(config: runner_config::Runner, cluster: Arc<Cluster>, (gitlab, tls): (Client, Tls), concurrent: usize) -> Self {
        let limit = limit(&config, concurrent);
        Self {
            cluster,
            token: Secret::new(config.token.clone()),
            tls,
            // A request holds room for its job: more of them than there is room would only wait for each other.
            questions: (config.request_concurrency as usize).min(limit).min(concurrent).max(1),
            lane: Arc::new(Lane {
                room: Room::new(limit),
                numbers: Numbers::default(),
                throttle: Throttle::default(),
                gitlab: Mutex::new(gitlab),
            }),
            asking: Arc::default(),
            config,
        }
    }

    /// An entry, perhaps in the place of an old one.
    fn next(
        config: runner_config::Runner,
        cluster: Arc<Cluster>,
        (old, concurrent): (Option<Arc<Self>>, usize),
        manager: &Manager,
    ) -> Result<Arc<Self>, Error> {
        let tls = Tls::of(&config)?;
        let client = gitlab(&manager.connect, &config, &tls, &manager.version)?;
        let new = Self::new(config, cluster, (client, tls), concurrent);
        let Some(old) = old else { return Ok(Arc::new(new)) };
        let asks_alike = old.token == new.token
            && old.tls == new.tls
            && old.questions == new.questions
            && Arc::ptr_eq(&old.cluster, &new.cluster);
        if asks_alike && old.config == new.config {
            return Ok(old);
        }
        let asking = if asks_alike { old.asking.clone() } else { new.asking.clone() };
        Ok(Arc::new(Self { asking, lane: old.lane.clone(), ..new }))
    }

    /// Its GitLab.
    pub fn gitlab(&self) -> Client {
        self.lane.gitlab.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on its connections trust the certificates of this version of it, also for jobs that run.
    pub fn connect_anew(&self, manager: &Manager) -> Result<(), Error> {
        let client = gitlab(&manager.connect, &self.config, &self.tls, &manager.version)?;
        *self.lane.gitlab.lock().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }
}

/// The GitLab of an entry.
pub fn gitlab(connect: &Connect, config: &runner_config::Runner, tls: &Tls, version: &str) -> Result<Client, Error> {
    let client = ClientConfig {
        url: config.url.clone(),
        ca_pem: tls.ca_pem.clone(),
        identity: tls.identity.as_ref().map(|own| (own.certificate_pem.clone(), Secret::new(own.key_pem.clone()))),
        user_agent: format!("gitlab-runner {version} (gantry; {}/{})", std::env::consts::OS, std::env::consts::ARCH),
    };
    (connect.0)(&client).map_err(|source| Error::Gitlab { runner: config.name.clone(), source })
}

/// Most jobs of an entry at once.
fn limit(config: &runner_config::Runner, concurrent: usize) -> usize {
    if config.limit == 0 { concurrent } else { config.limit as usize }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_parts_of_all_replicas_are_the_whole() {
        for of_all in [0, 1, 2, 7, 100] {
            for replicas in 1..=8 {
                let parts: Vec<_> = (0..replicas).map(|before| share(of_all, (replicas - 1, before))).collect();
                assert_eq!(parts.iter().sum::<usize>(), of_all);
                assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
            }
        }
    }
}
