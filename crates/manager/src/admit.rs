//! A payload becomes a job of ours: room is held for it, its plan is made, and what is kept of it while it runs.

use crate::finish::Told;
use crate::hands::Hand;
use crate::note::{self, Note};
use crate::numbers::Number;
use crate::room::Place;
use crate::steps;
use crate::wiring::{Manager, RunnerSide};
use agent_contract::{Coordinator, Plan, Settings, Workspace, names};
use gitlab_api::payload::PayloadError;
use gitlab_api::{Info, JobResponse};
use job::{FailureReason, Flags, Job, JobId, Secret, Variable};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many tries the agent's final update has where none are set (row "job_status_final_update_retry_limit").
const FINAL_UPDATE_TRIES: u32 = 10;
/// GitLab Runner's limit of a log, in KiB, where none is set.
const OUTPUT_LIMIT: u64 = 4096;
const MASKED: &str = "[MASKED]";

/// Room for one job.
#[derive(Default)]
pub struct Slot {
    _of_runner: Option<Place>,
    _of_all: Option<Place>,
    numbers: Option<[Number; 2]>,
}

impl Slot {
    /// Waits for room.
    pub async fn take(manager: &Manager, runner: &RunnerSide) -> Self {
        // The entry's own room first: who waits for it must not keep room from other entries.
        let of_runner = runner.lane.room.take().await;
        Self { _of_runner: Some(of_runner), _of_all: Some(manager.room.take().await), numbers: None }
    }

    /// Takes what room there is, for a job that runs already.
    pub fn take_what_is_left(manager: &Manager, runner: &RunnerSide) -> Self {
        Self { _of_runner: runner.lane.room.try_take(), _of_all: manager.room.try_take(), numbers: None }
    }
}

/// What is kept of a job after its plan has gone into the cluster.
pub struct Tracked {
    /// Its number.
    pub id: JobId,
    /// Its token.
    pub token: Secret,
    /// The entry it came through.
    pub runner: Arc<RunnerSide>,
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its first pod, which the names of its plan begin with.
    pub first: String,
    /// Name of its pod.
    pub pod: String,
    /// Which pod this is, from 1.
    pub attempt: u32,
    /// How many pods before it could not pull an image.
    pub pull_failures: u32,
    /// Its pod has a volume that is an image.
    pub has_image_volume: bool,
    /// Where the manager's own lines end in the trace.
    pub written: AtomicU64,
    /// How many Secrets hold its plan.
    pub parts: usize,
    /// Failure reasons that its GitLab knows.
    pub knows: Vec<String>,
    /// Its time limit.
    pub timeout: Duration,
    /// Where a manager before us began to write its last line.
    pub telling_at: Option<u64>,
    /// What its trace begins with.
    header: String,
    /// Whether lines of its trace get stamps.
    pub stamped: bool,
    /// Its trace shows what the cluster says of its pod.
    pub prints_events: bool,
    /// What logs call its services, in their order.
    pub services: Vec<String>,
    /// Whether its log is to show what they print.
    pub shows_services: bool,
    /// Nobody else in this process has it.
    pub hand: Option<Hand>,
    /// What stands on its plan.
    note: Mutex<Note>,
    /// Values that must not appear in its trace.
    masked: Vec<Secret>,
}

impl Tracked {
    /// What is kept of a job that has no plan.
    pub fn bare(id: JobId, token: Secret, runner: Arc<RunnerSide>) -> Self {
        Self {
            id,
            token,
            runner,
            namespace: String::new(),
            first: String::new(),
            pod: String::new(),
            attempt: 1,
            pull_failures: 0,
            has_image_volume: false,
            written: AtomicU64::new(0),
            parts: 0,
            knows: Vec::new(),
            timeout: Duration::ZERO,
            telling_at: None,
            header: String::new(),
            // What is said of a job without a plan is said as the flag is when nobody sets it.
            stamped: true,
            prints_events: false,
            services: Vec::new(),
            shows_services: false,
            hand: None,
            note: Mutex::new(Note { text: note::STORED.to_owned(), version: None }),
            masked: Vec::new(),
        }
    }

    /// What is kept of a plan.
    pub fn new(plan: &Plan, runner: Arc<RunnerSide>, parts: usize) -> Self {
        let job = &plan.job;
        let expanded = job.variables.expanded();
        let values = expanded.iter().chain(job.variables.iter()).filter(|one| one.masked && !one.value.is_empty());
        let mut masked: Vec<_> = values.map(|one| one.value.clone()).collect();
        // Longer ones first: one may be part of another.
        masked.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        masked.dedup();
        Self {
            namespace: plan.settings.namespace.clone(),
            first: plan.settings.pod_name.clone(),
            pod: plan.settings.pod_name.clone(),
            parts,
            knows: job.features.failure_reasons.clone(),
            timeout: job.timeout,
            header: plan.header(),
            stamped: plan.settings.timestamps,
            prints_events: Flags::resolve(&plan.settings.feature_flags, &job.variables).is_on("FF_PRINT_POD_EVENTS"),
            services: job.services.iter().map(|service| service.shown(&expanded)).collect(),
            shows_services: plan.shows_services(),
            masked: masked.into_iter().map(Secret::new).collect(),
            ..Self::bare(job.id, job.token.clone(), runner)
        }
    }

    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What stands on its plan, as far as we know.
    pub fn note(&self) -> Note {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That stands there now.
    pub fn set_note(&self, note: Note) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// Calls to its cluster.
    pub fn client(&self) -> kube::Client {
        self.runner.cluster.client.clone()
    }

    /// What its trace begins with, as it stands there.
    pub fn header(&self) -> Vec<u8> {
        self.framed(self.header.as_bytes())
    }

    /// Lines as they stand in its trace.
    pub fn framed(&self, lines: &[u8]) -> Vec<u8> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        if self.stamped { gitlab_api::log::stamped_lines(lines, micros) } else { lines.to_vec() }
    }

    /// A text of the cluster as it may stand in the trace: an image's name, for one, may hold a masked value.
    pub fn masked(&self, text: &str) -> String {
        let hide = |text: String, value: &Secret| text.replace(value.expose(), MASKED);
        self.masked.iter().fold(text.to_owned(), hide)
    }
}

/// Begins with a job that was handed out.
pub fn start(manager: &Arc<Manager>, runner: &Arc<RunnerSide>, (payload, correlation_id): (JobResponse, String), mut slot: Slot) {
    let (id, token) = (payload.id, Secret::new(payload.token.clone()));
    tracing::info!(job.id = id, runner.name = runner.config.name, "job received");
    let knows = payload.features.failure_reasons.clone();
    match understood(payload, runner) {
        Ok(job) => {
            tell_images(&runner.config, &job);
            let namespace = match pod_spec::namespace(&job, &runner.config) {
                Ok(namespace) => namespace,
                Err(error) => {
                    let refused = Tracked::bare(id, token, runner.clone());
                    let refused = Tracked { knows: job.features.failure_reasons, ..refused };
                    let told = Told::failed(&refused, FailureReason::RunnerConfigurationError, &error.to_string());
                    return refuse(manager, refused, told, slot);
                }
            };
            let numbers = [None, Some(job.project.id)].map(|project| runner.lane.numbers.take(project));
            let mut plan = plan(manager, runner, (job, namespace), &numbers);
            slot.numbers = Some(numbers);
            plan.settings.correlation_id = correlation_id;
            let task = steps::from_the_start(manager.clone(), runner.clone(), plan, slot);
            manager.spawn(task);
        }
        Err(error) if id > 0 && !token.is_empty() => {
            let refused = Tracked { knows, ..Tracked::bare(id, token, runner.clone()) };
            let told = Told::failed(&refused, error.reason(), &error.to_string()).with_exit_code(error.exit_code());
            refuse(manager, refused, told, slot);
        }
        Err(error) => tracing::error!(job.id = id, runner.name = runner.config.name, %error, "a job that cannot even be refused"),
    }
}

/// For the log of the manager, where somebody counts images (`FF_LOG_IMAGES_CONFIGURED_FOR_JOB`).
fn tell_images(config: &runner_config::Runner, job: &Job) {
    if !Flags::resolve(&config.feature_flags, &job.variables).is_on("FF_LOG_IMAGES_CONFIGURED_FOR_JOB") {
        return;
    }
    // As the job has them: what variables hold is no business of our log.
    let image = job.image.as_ref().map_or(config.kubernetes.image.as_str(), |image| image.name.as_str());
    let services: Vec<_> = job.services.iter().map(|service| service.image.name.as_str()).collect();
    tracing::info!(job.id = job.id, runner.name = config.name, image, ?services, "images of the job");
}

/// The job of a payload, its inputs in their places.
fn understood(mut payload: JobResponse, runner: &RunnerSide) -> Result<Job, PayloadError> {
    payload.interpolate(&runner.config.feature_flags)?;
    payload.into_job()
}

fn refuse(manager: &Arc<Manager>, job: Tracked, told: Told, slot: Slot) {
    let manager = manager.clone();
    manager.clone().spawn(async move {
        steps::refuse(&manager, &job, told).await;
        drop(slot);
    });
}

/// Everything the agent needs.
fn plan(manager: &Manager, runner: &RunnerSide, (mut job, namespace): (Job, String), numbers: &[Number; 2]) -> Plan {
    let config = &runner.config;
    // What the runner sets stands in front: a job's own variables win.
    let mut variables: job::Variables = runner_variables(runner, numbers).into_iter().collect();
    variables.extend(job.variables.iter().cloned());
    variables.extend(about_the_runner(manager));
    job.variables = variables;
    let flags = Flags::resolve(&config.feature_flags, &job.variables);
    let builds_dir = match job.variables.expand(&config.builds_dir) {
        empty if empty.is_empty() => names::BUILDS_DIR.to_owned(),
        configured => configured,
    };
    let project_dir = format!("{}/{}", builds_dir.trim_end_matches('/'), project_path(&job));
    let image = job.image.as_ref().map_or(config.kubernetes.image.as_str(), |image| image.name.as_str());
    Plan {
        coordinator: Coordinator {
            url: config.url.clone(),
            clone_url: (!config.clone_url.is_empty()).then(|| config.clone_url.clone()),
            ca_pem: runner.tls.ca_pem.clone(),
            identity: runner.tls.identity.clone(),
        },
        workspace: Workspace { builds_dir, project_dir },
        settings: Settings {
            version: manager.version.clone(),
            runner_name: config.name.clone(),
            runner_short_token: config.short_token().to_owned(),
            system_id: manager.system_id.clone(),
            namespace,
            pod_name: pod_spec::pod_name(&job, config, 1),
            image: job.variables.expanded().expand(image),
            output_limit: if config.output_limit == 0 { OUTPUT_LIMIT } else { config.output_limit } * 1024,
            pre_build_script: config.pre_build_script.clone(),
            post_build_script: config.post_build_script.clone(),
            shell: config.shell.clone(),
            pre_get_sources_script: config.pre_get_sources_script.clone(),
            post_get_sources_script: config.post_get_sources_script.clone(),
            clean_git_config: config.clean_git_config,
            custom_build_dir: config.custom_build_dir.enabled,
            feature_flags: config.feature_flags.clone(),
            cancel_grace_seconds: 0,
            get_sources_timeout: config.get_sources_timeout.clone(),
            final_update_tries: match config.job_status_final_update_retry_limit {
                0 => FINAL_UPDATE_TRIES,
                tries => tries,
            },
            timestamps: flags.is_on("FF_TIMESTAMPS"),
            mask_all_tokens: flags.is_on("FF_MASK_ALL_DEFAULT_TOKENS"),
            only_plain_values: config.kubernetes.gantry.mask_encodings == Some(false),
            debug_trace_disabled: config.debug_trace_disabled,
            notes: [pod_spec::notes(&job, config, runner.cluster.features()), pod_spec::pull_notes(&job, config)].concat(),
            warnings: pod_spec::warnings(&job, config),
            has_header: true,
            resources: match config.kubernetes.gantry.resource_report {
                Some(false) => Vec::new(),
                _ => pod_spec::resources_asked(&job, config),
            },
            ..Settings::default()
        },
        job,
    }
}

/// What a job cannot change.
fn about_the_runner(manager: &Manager) -> [Variable; 3] {
    let Info { revision, platform, architecture, .. } = manager.info();
    [
        ("CI_RUNNER_VERSION", manager.version.clone()),
        ("CI_RUNNER_REVISION", revision),
        ("CI_RUNNER_EXECUTABLE_ARCH", format!("{platform}/{architecture}")),
    ]
    .map(|(key, value)| Variable { raw: true, ..Variable::public(key, value) })
}

fn runner_variables(runner: &RunnerSide, numbers: &[Number; 2]) -> Vec<Variable> {
    let raw = |key: &str, value: &str| Variable { raw: true, ..Variable::public(key, value) };
    let mut list = vec![
        raw("CI_RUNNER_SHORT_TOKEN", runner.config.short_token()),
        raw("CI_CONCURRENT_ID", &numbers[0].value().to_string()),
        raw("CI_CONCURRENT_PROJECT_ID", &numbers[1].value().to_string()),
    ];
    let own = runner.tls.identity.as_ref();
    let files = [
        ("CI_SERVER_TLS_CA_FILE", runner.tls.ca_pem.as_deref()),
        ("CI_SERVER_TLS_CERT_FILE", own.map(|own| own.certificate_pem.as_str())),
        ("CI_SERVER_TLS_KEY_FILE", own.map(|own| own.key_pem.as_str())),
    ];
    let file = |(key, pem): (&str, Option<&str>)| Some(Variable { file: true, raw: true, ..Variable::internal(key, pem?) });
    list.extend(files.into_iter().filter_map(file));
    let configured = runner.config.environment.iter().filter_map(|pair| pair.split_once('='));
    // Not public, as in GitLab Runner: they reach scripts, not the pod's spec.
    list.extend(configured.map(|(key, value)| Variable { public: false, ..Variable::public(key, value) }));
    list
}

/// Where the project lies below the builds directory; a path from outside cannot lead out of it.
fn project_path(job: &Job) -> String {
    let given = match job.project.full_path.as_str() {
        "" => job.variables.get("CI_PROJECT_PATH").unwrap_or_default(),
        path => path,
    };
    let parts: Vec<_> = given.split('/').filter(|part| !["", ".", ".."].contains(part)).collect();
    if parts.is_empty() { format!("project-{}", job.project.id) } else { parts.join("/") }
}
