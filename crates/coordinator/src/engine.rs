//! Every change of state goes through here: one lock, one transaction, then the events.
//!
//! The graphs of unfinished pipelines live in memory beside the database and are read from it again after an error or
//! a restart, so that the two cannot part. Readers and writers share one connection: a pipeline's rows are few.

use crate::pipelines::graph::{Condition, Graph, Node};
use crate::pipelines::{PipelineId, state};
use crate::status::{JobStatus, PipelineStatus};
use crate::store::{self, rows, rows::JobRow};
use crate::traces::Traces;
use crate::{Error, Event, Settings, tokens};
use job::JobId;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, broadcast, watch};

/// Events that a slow reader may lag behind before it has to read the state again.
const EVENTS: usize = 8192;

/// How long to wait for a process that has the state open.
const LOCK: Duration = Duration::from_secs(1);

/// Milliseconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// What all handles of a coordinator share.
pub struct Inner {
    pub directory: PathBuf,
    pub settings: Settings,
    pub traces: Traces,
    pub events: broadcast::Sender<Event>,
    /// Goes up when a job begins to wait for a runner.
    pub queue: watch::Sender<u64>,
    /// Tells the queue versions of this process from those of an earlier one.
    pub epoch: String,
    pub clones: Arc<Semaphore>,
    pub uploads: Arc<Semaphore>,
    url: RwLock<String>,
    state: Mutex<State>,
    /// Released by the system when the process dies, however it dies.
    _lock: File,
}

struct State {
    db: Connection,
    graphs: HashMap<PipelineId, Loaded>,
}

struct Loaded {
    graph: Graph,
    jobs: Vec<(JobId, Arc<str>)>,
    index: HashMap<JobId, usize>,
    status: PipelineStatus,
}

impl Inner {
    pub fn open(directory: &Path, settings: Settings) -> Result<Self, Error> {
        let lock = lock(directory)?;
        crate::archives::prepare(directory)?;
        let traces = Traces::open(directory)?;
        let db = store::open(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            traces,
            events: broadcast::channel(EVENTS).0,
            queue: watch::channel(0).0,
            epoch: uuid::Uuid::new_v4().simple().to_string(),
            clones: Arc::new(Semaphore::new(settings.clones)),
            uploads: Arc::new(Semaphore::new(settings.uploads)),
            settings,
            url: RwLock::default(),
            state: Mutex::new(State { db, graphs: HashMap::new() }),
            _lock: lock,
        })
    }

    pub fn url(&self) -> String {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_url(&self, url: &str) {
        url.trim_end_matches('/').clone_into(&mut self.url.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads.
    pub fn read<T>(&self, look: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        look(&self.lock().db)
    }

    /// Changes: all of it or nothing.
    pub fn write<T>(&self, change: impl FnOnce(&mut Writer<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.lock();
        let State { db, graphs } = &mut *state;
        let step =
            db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::store("begin a change of the state"))?;
        let mut writer = Writer { db: step, graphs, touched: Vec::new(), events: Vec::new(), queued: false };
        let changed = change(&mut writer);
        let Writer { db, graphs, touched, events, queued } = writer;
        let done = changed.and_then(|value| db.commit().map(|()| value).map_err(Error::store("write the state")));
        if done.is_err() {
            // What the graphs were told did not happen.
            touched.iter().for_each(|pipeline| drop(graphs.remove(pipeline)));
            return done;
        }
        graphs.retain(|id, loaded| !touched.contains(id) || !loaded.status.is_over());
        // Sent under the lock, so that they come in the order of the changes.
        for event in events {
            let _ = self.events.send(event);
        }
        if queued {
            self.queue.send_modify(|version| *version += 1);
        }
        done
    }

    /// Goes on with pipelines that an earlier process left unfinished.
    pub fn resume(&self) -> Result<(), Error> {
        let open: Vec<PipelineId> = self.read(|db| {
            let query = || {
                let mut statement = db.prepare("SELECT id FROM pipelines WHERE status IN ('created', 'running')")?;
                statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<_>>>()
            };
            query().map_err(Error::store("read unfinished pipelines"))
        })?;
        for id in open {
            self.write(|writer| writer.begin(id))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the directory for this process; one that is just ending gets a moment for it.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file(&path))?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK => std::thread::sleep(LOCK / 50),
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(directory.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(Error::file(&path)(error)),
        }
    }
}

/// How a job ended, for [`Writer::end`].
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub failure_reason: Option<String>,
    pub exit_code: Option<i32>,
    pub checksum: Option<String>,
    pub bytes: Option<u64>,
}

/// A change in progress.
pub struct Writer<'a> {
    db: Transaction<'a>,
    graphs: &'a mut HashMap<PipelineId, Loaded>,
    touched: Vec<PipelineId>,
    events: Vec<Event>,
    queued: bool,
}

impl Writer<'_> {
    /// The transaction, for rows that no graph knows of.
    pub fn db(&self) -> &Connection {
        &self.db
    }

    /// Decides everything that can be decided without a runner.
    pub fn begin(&mut self, pipeline: PipelineId) -> Result<(), Error> {
        let changes = self.graph(pipeline)?.graph.start();
        self.follow(pipeline, &changes)
    }

    /// A waiting job goes to a runner; it counts as waiting until it is confirmed.
    pub fn hand_out(&mut self, job: &JobRow, graceful: bool) -> Result<(), Error> {
        let now = now();
        self.execute(
            "UPDATE jobs SET handed_at = ?2, touched_at = ?2, graceful = ?3 WHERE id = ?1",
            params![job.id, now, graceful],
        )
    }

    /// The runner did not confirm: another one may have it, and the first one's token is worth nothing any more.
    pub fn take_back(&mut self, job: &JobRow) -> Result<(), Error> {
        self.queued = true;
        self.execute(
            "UPDATE jobs SET handed_at = NULL, touched_at = NULL, token = ?2 WHERE id = ?1",
            params![job.id, tokens::job()],
        )
    }

    /// The runner confirmed.
    pub fn run(&mut self, job: &JobRow) -> Result<(), Error> {
        self.execute("UPDATE jobs SET started_at = ?2, touched_at = ?2 WHERE id = ?1", params![job.id, now()])?;
        self.set(job, JobStatus::Running, job.allow_failure)
    }

    /// The runner gave a sign of life.
    pub fn touch(&mut self, job: JobId) -> Result<(), Error> {
        self.execute("UPDATE jobs SET touched_at = ?2 WHERE id = ?1", params![job, now()])
    }

    /// The job is over.
    pub fn end(&mut self, job: &JobRow, status: JobStatus, ended: &Ended) -> Result<(), Error> {
        let allowed = job.allow_failure
            || ended.exit_code.is_some_and(|code| status == JobStatus::Failed && job.schedule.exit_codes.contains(&code));
        let reason = ended.failure_reason.as_deref().filter(|_| status == JobStatus::Failed);
        self.execute(
            "UPDATE jobs SET failure_reason = ?2, exit_code = ?3, reported_checksum = ?4, reported_bytes = ?5, allow_failure = ?6 \
             WHERE id = ?1",
            params![job.id, reason, ended.exit_code, ended.checksum, ended.bytes, allowed],
        )?;
        self.set(job, status, allowed)
    }

    /// Cancels what is not over: at once what does not run, by way of the runner what does.
    pub fn cancel(&mut self, pipeline: PipelineId) -> Result<(), Error> {
        let jobs = rows::jobs_of_pipeline(&self.db, pipeline)?;
        if jobs.is_empty() {
            return Err(Error::NoPipeline(pipeline));
        }
        let mut changes = Vec::new();
        for job in &jobs {
            let Some(status) = when_canceled(job) else { continue };
            let loaded = self.graph(pipeline)?;
            let index = loaded.index[&job.id];
            // Nothing follows from one of them alone: they end together.
            loaded.graph.put(index, status, job.allow_failure);
            changes.push((index, status));
        }
        self.follow(pipeline, &changes)
    }

    /// Cancels one job, if it is not over; what waits for it is decided as after any other end.
    pub fn cancel_job(&mut self, id: JobId) -> Result<(), Error> {
        let job = rows::job(&self.db, id)?.ok_or(Error::NoJob(id))?;
        when_canceled(&job).map_or(Ok(()), |status| self.set(&job, status, job.allow_failure))
    }

    fn set(&mut self, job: &JobRow, status: JobStatus, allowed: bool) -> Result<(), Error> {
        let loaded = self.graph(job.pipeline)?;
        let index = *loaded.index.get(&job.id).ok_or(Error::NoJob(job.id))?;
        let mut changes = vec![(index, status)];
        changes.extend(loaded.graph.set(index, status, allowed));
        self.follow(job.pipeline, &changes)
    }

    /// Writes down what the graph decided.
    fn follow(&mut self, pipeline: PipelineId, changes: &[(usize, JobStatus)]) -> Result<(), Error> {
        let now = now();
        for (index, status) in changes {
            let (job, name) = self.graph(pipeline)?.jobs[*index].clone();
            self.execute(
                "UPDATE jobs SET status = ?2, \
                 queued_at = CASE WHEN ?3 THEN ?5 ELSE queued_at END, finished_at = CASE WHEN ?4 THEN ?5 ELSE finished_at END \
                 WHERE id = ?1",
                params![job, status.as_str(), *status == JobStatus::Pending, status.is_final(), now],
            )?;
            self.queued |= *status == JobStatus::Pending;
            self.events.push(Event::JobStatus { pipeline, job, name, status: *status });
        }
        let loaded = self.graph(pipeline)?;
        let status = loaded.graph.pipeline_status();
        if std::mem::replace(&mut loaded.status, status) != status {
            let finished = status.is_over().then_some(now);
            self.execute(
                "UPDATE pipelines SET status = ?2, finished_at = ?3 WHERE id = ?1",
                params![pipeline, status.as_str(), finished],
            )?;
            self.events.push(Event::Pipeline { id: pipeline, status });
        }
        Ok(())
    }

    fn graph(&mut self, pipeline: PipelineId) -> Result<&mut Loaded, Error> {
        if !self.graphs.contains_key(&pipeline) {
            let loaded = load(&self.db, pipeline)?;
            self.graphs.insert(pipeline, loaded);
        }
        if !self.touched.contains(&pipeline) {
            self.touched.push(pipeline);
        }
        self.graphs.get_mut(&pipeline).ok_or(Error::NoPipeline(pipeline))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), Error> {
        let run = || self.db.prepare_cached(sql)?.execute(values);
        run().map(drop).map_err(Error::store("change a job"))
    }
}

/// What a cancel makes of a job; `None` where it changes nothing.
fn when_canceled(job: &JobRow) -> Option<JobStatus> {
    match job.status {
        JobStatus::Canceling => None,
        status if status.is_final() => None,
        JobStatus::Running if job.graceful => Some(JobStatus::Canceling),
        _ => Some(JobStatus::Canceled),
    }
}

fn load(db: &Connection, pipeline: PipelineId) -> Result<Loaded, Error> {
    let jobs = rows::jobs_of_pipeline(db, pipeline)?;
    let by_name: HashMap<&str, usize> = jobs.iter().enumerate().map(|(index, job)| (job.name.as_str(), index)).collect();
    let node = |job: &JobRow| Node {
        stage: job.stage_index,
        status: job.status,
        allow_failure: job.allow_failure,
        when: Condition::parse(&job.schedule.when),
        needs: job
            .schedule
            .needs
            .as_ref()
            .map(|needs| needs.iter().filter_map(|need| by_name.get(need.job.as_str()).copied()).collect()),
    };
    Ok(Loaded {
        graph: Graph::new(jobs.iter().map(node).collect()),
        jobs: jobs.iter().map(|job| (job.id, job.name.as_str().into())).collect(),
        index: jobs.iter().enumerate().map(|(index, job)| (job.id, index)).collect(),
        status: state(db, pipeline)?.status,
    })
}
