//! One run: jobs come in, trouble is made, every log is read, and at the end nothing may be left.

use super::arguments::{On, Plan, Trouble};
use super::book::Book;
use super::cluster::Cluster;
use super::dice::Dice;
use super::figures::Samples;
use super::gitlab::GitLab;
use super::host::{BEGAN, JobView, Wanted};
use super::journal::Reader;
use super::processes;
use super::proxy::Proxy;
use super::report::Report;
use super::script::{self, Task};
use crate::manager::Manager;
use crate::objects;
use crate::target::{Target, TestImages, program, tail};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs of one pipeline.
const TOGETHER: u64 = 10;
const LOOK: Duration = Duration::from_millis(200);
const SAMPLE: Duration = Duration::from_secs(2);
/// After this time without the end of any job, besides the longest job and the longest outage, those that are left are lost.
const STUCK: Duration = Duration::from_secs(240);
/// How long the last pod and Secret may take to go.
const CLEANING: Duration = Duration::from_secs(60);
/// A manager that is gone for good may leave a pod whose plan it has deleted. The others' janitor finds it: it looks every
/// five minutes for what is older than four.
const JANITOR: Duration = Duration::from_secs(660);
/// How long the suite's own questions may fail in a row, besides an outage.
const UNANSWERED: Duration = Duration::from_secs(60);

/// The managers of a run.
pub struct Managers {
    /// The one that is there now.
    pub now: Manager,
    /// How many were started beside one another.
    pub started: u64,
}

/// A run under way.
pub struct Run {
    pub plan: Plan,
    pub target: Target,
    pub gitlab: GitLab,
    pub cluster: Cluster,
    pub proxy: Proxy,
    pub managers: tokio::sync::Mutex<Managers>,
    pub directory: PathBuf,
    /// Half of the longest pause between two kills.
    pub pace: Duration,
    namespace: String,
    dice: Mutex<Dice>,
    book: Mutex<Book>,
    journal: Mutex<Reader>,
    turns: Mutex<BTreeMap<&'static str, usize>>,
    begun: Instant,
    /// The first pipeline that is not over.
    from: AtomicU64,
    made: AtomicU64,
    struck: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what a plan says; whether nothing was wrong.
///
/// # Errors
/// When it cannot be done.
pub async fn run(plan: Plan) -> Result<Report> {
    let seed = plan.seed.unwrap_or_else(|| (u64::from(std::process::id()) << 16) | u64::from(jitter()));
    eprintln!("seed {seed}");
    let work = tempfile::Builder::new().prefix("gantry-chaos-").tempdir()?;
    let images = TestImages::make().await?;
    let target = match plan.target {
        On::Node => Target::node(&program()?, &images, work.path()).await?,
        On::Cluster => Target::cluster(&images).await?,
    };
    let run = Run::start(plan, seed, target, work.path()).await?;
    let ended = tokio::select! {
        ended = run.whole() => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let report = run.end(ended, seed).await;
    if !report.as_ref().is_ok_and(Report::is_good) {
        eprintln!("logs of the run: {}", work.keep().display());
    }
    report
}

/// Tells two runs of one process id apart.
fn jitter() -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u16::try_from(now.subsec_micros() & 0xffff).unwrap_or_default()
}

impl Run {
    async fn start(plan: Plan, seed: u64, mut target: Target, directory: &Path) -> Result<Self> {
        let namespace = format!("chaos-{:x}", std::process::id());
        objects::make_namespace(&target.client, &namespace, &BTreeMap::new()).await?;
        if plan.target == On::Cluster {
            objects::await_account(&target.client, &namespace).await?;
        }
        let proxy = Proxy::before(&mut target.kubeconfig).await?;
        target.kubeconfig_file = directory.join("through-the-door.kubeconfig");
        // YAML reads JSON.
        std::fs::write(&target.kubeconfig_file, serde_json::to_vec(&target.kubeconfig)?)?;
        let gitlab = GitLab::start(&target, directory).await?;
        let config = configuration(&plan, &target, &namespace, (&gitlab.url, &gitlab.token()?))?;
        let cluster = Cluster::watch(target.client.clone(), &namespace);
        let of_manager = directory.join("manager-1");
        std::fs::create_dir(&of_manager)?;
        let namespaces = [namespace.clone()];
        let now = Manager::start(&program()?, &target, &namespaces, &config, &of_manager).await?;
        let harmless = [Trouble::ManagerKill, Trouble::ManagerTerm, Trouble::ReplicaKill, Trouble::ApiAway, Trouble::Cancel];
        let told_once = plan.kinds().iter().all(|kind| harmless.contains(kind));
        Ok(Self {
            pace: Duration::from_millis(if plan.target == On::Cluster { 4000 } else { 1200 }),
            journal: Mutex::new(Reader::new(&gitlab.journal)),
            managers: tokio::sync::Mutex::new(Managers { now, started: 1 }),
            book: Mutex::new(Book::new(told_once)),
            dice: Mutex::new(Dice::new(seed)),
            directory: directory.to_owned(),
            begun: Instant::now(),
            turns: Mutex::default(),
            from: AtomicU64::new(1),
            made: AtomicU64::new(0),
            struck: AtomicBool::new(false),
            plan,
            target,
            gitlab,
            cluster,
            proxy,
            namespace,
        })
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Asks chance.
    pub fn chance<T>(&self, ask: impl FnOnce(&mut Dice) -> T) -> T {
        ask(&mut lock(&self.dice))
    }

    /// Goes through `of` ways in turn, so that a few strokes try them all; chance says with which to begin.
    pub fn turn(&self, what: &'static str, of: usize) -> usize {
        let first = self.chance(|dice| dice.between(0, of as u64 - 1));
        let mut turns = lock(&self.turns);
        let turn = turns.entry(what).or_insert(usize::try_from(first).unwrap_or_default());
        let now = *turn % of;
        *turn += 1;
        now
    }

    /// Keeps the largest value of a figure.
    pub fn most(&self, name: &str, value: f64) {
        let mut book = self.book();
        let known = book.report.figures.entry(name.to_owned()).or_insert(value);
        *known = known.max(value);
    }

    async fn whole(&self) -> Result<()> {
        let samples = Mutex::default();
        tokio::select! {
            done = async { tokio::try_join!(self.feed(), self.strike()) } => drop(done?),
            () = self.sample(&samples) => {}
        }
        let samples: BTreeMap<&str, Samples> = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (name, samples) in samples {
            self.book().report.figures.extend(samples.figures(name));
        }
        Ok(())
    }

    /// Strokes until there were enough, of everything.
    async fn strike(&self) -> Result<()> {
        let kinds = self.plan.kinds();
        let mut done = 0;
        while !kinds.is_empty() && (done < self.plan.kills() || self.book().counts().0 < self.plan.jobs() || !self.is_late()) {
            let Some(kind) = self.chance(|dice| dice.pick(&kinds).copied()) else { break };
            let running = self.book().running();
            self.most("jobs under way at a stroke, at most", running as f64);
            if self.stroke(kind).await.with_context(|| format!("stroke {}, {}", done + 1, kind.name()))? {
                self.book().struck(kind.name());
                done += 1;
                if done % 10 == 0 {
                    self.say(done);
                }
            }
        }
        self.struck.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn say(&self, strokes: u64) {
        let book = self.book();
        let (jobs, open) = book.counts();
        let wrong = book.report.problems.len();
        let seconds = self.begun.elapsed().as_secs();
        eprintln!("{seconds} s: {strokes} strokes, {jobs} jobs of which {open} are open, {wrong} problems");
    }

    /// Whether it went on for as long as it had to.
    fn is_late(&self) -> bool {
        self.begun.elapsed().as_secs_f64() >= self.plan.minutes.unwrap_or(0.0) * 60.0
    }

    /// What passed through GitLab's door, and how each job stands there: the jobs that are over and were not looked at.
    /// `None` when GitLab does not say.
    pub async fn learn(&self) -> Option<Vec<JobView>> {
        let from = self.from.load(Ordering::Relaxed);
        let views = self.gitlab.jobs(from).await.ok()?;
        match lock(&self.journal).news() {
            Ok(news) => self.book().learn(news),
            Err(error) => self.book().problem(format!("{error:#}")),
        }
        let over = views.iter().take_while(|view| view.is_final).last().map(|view| view.pipeline);
        let open = views.iter().find(|view| !view.is_final).map(|view| view.pipeline);
        let mut book = self.book();
        let news: Vec<_> = views.into_iter().filter(|view| book.see(view)).collect();
        // One before the first that is open: all its jobs were seen to be over.
        if let (true, Some(next)) = (news.is_empty(), open.or(over)) {
            self.from.fetch_max(next, Ordering::Relaxed);
        }
        Some(news)
    }

    /// Jobs that wait or run, as GitLab has them now.
    pub async fn open_jobs(&self) -> Result<Vec<JobView>> {
        let views = self.gitlab.jobs(self.from.load(Ordering::Relaxed)).await?;
        Ok(views.into_iter().filter(|view| !view.is_final && view.status != "canceling").collect())
    }

    /// Keeps enough jobs waiting, and looks at each that is over, until all have been.
    async fn feed(&self) -> Result<()> {
        let longest = Duration::from_secs_f64(self.plan.sleep) + Duration::from_secs(self.plan.outage * 2);
        let (mut progress, mut answered, mut said) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            let news = self.learn().await;
            let is_known = news.is_some();
            for view in news.into_iter().flatten() {
                let looked = async { Ok((self.gitlab.trace(view.id).await?, self.gitlab.facts(view.id).await?)) };
                let looked: Result<_> = looked.await;
                // One that could not be looked at is looked at again.
                if let Ok((trace, facts)) = looked {
                    self.book().check(&view, &trace, &facts);
                    progress = Instant::now();
                }
            }
            let (jobs, open) = self.book().counts();
            let enough = self.struck.load(Ordering::Relaxed) && jobs >= self.plan.jobs() && self.is_late();
            if enough && is_known && open == 0 && self.is_all_checked() {
                return Ok(());
            }
            if !enough && open < self.plan.running + TOGETHER {
                match self.make_pipeline().await {
                    Ok(()) => answered = Instant::now(),
                    Err(error) if answered.elapsed() > UNANSWERED + longest => return Err(error),
                    // The coordinator is away on purpose.
                    Err(_) => {}
                }
            }
            if open > 0 && progress.elapsed() > STUCK + longest {
                self.book().give_up();
                bail!("nothing ended for {} s", progress.elapsed().as_secs());
            }
            if self.plan.kinds().is_empty() && said.elapsed() > UNANSWERED {
                self.say(0);
                said = Instant::now();
            }
            self.has_a_manager().await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_all_checked(&self) -> bool {
        let book = self.book();
        book.report.ends.values().sum::<u64>() == book.counts().0
    }

    async fn make_pipeline(&self) -> Result<()> {
        let longest = Duration::from_secs_f64(self.plan.sleep);
        let away = [Trouble::CoordinatorKill, Trouble::GitlabAway, Trouble::GitlabFaults, Trouble::Partition];
        let stays = !self.plan.kinds().iter().any(|kind| away.contains(kind));
        let any = |dice: &mut Dice| {
            let task = Task::any(dice, longest);
            Task { extras: if stays { task.extras } else { task.extras.without_gitlab() }, ..task }
        };
        let tasks: Vec<_> = (0..TOGETHER).map(|_| self.chance(any)).collect();
        let first = self.made.fetch_add(TOGETHER, Ordering::Relaxed) + 1;
        let yaml = script::pipeline(&tasks, first, &format!("{}{BEGAN}", self.gitlab.url));
        let busybox = self.target.images.get("BUSYBOX").cloned().unwrap_or_default();
        let wanted = Wanted { yaml, variables: vec![("BUSYBOX".to_owned(), busybox)] };
        self.gitlab.make(&wanted).await.map(drop)
    }

    /// A manager that ends by itself is a failure of its own; one that is being replaced is not looked at.
    async fn has_a_manager(&self) -> Result<()> {
        let Ok(mut managers) = self.managers.try_lock() else { return Ok(()) };
        if managers.now.has_ended() {
            bail!("the manager ended by itself: {}", tail(&managers.now.log()));
        }
        Ok(())
    }

    /// Looks at what the processes use; never comes back.
    async fn sample(&self, samples: &Mutex<BTreeMap<&'static str, Samples>>) {
        loop {
            let manager = match self.managers.try_lock() {
                Ok(managers) => managers.now.pid(),
                Err(_) => None,
            };
            let all = [("manager", manager), ("coordinator", self.gitlab.pid().await), ("node", self.target.node_pid())];
            for (name, pid) in all {
                if let Some(usage) = pid.and_then(processes::usage) {
                    lock(samples).entry(name).or_default().add(self.begun.elapsed(), usage);
                }
            }
            tokio::time::sleep(SAMPLE).await;
        }
    }

    /// Reads what a manager said, when it has ended.
    pub fn read_log(&self, log: &str) {
        if log.contains("panicked") {
            let mut book = self.book();
            book.report.other += 1;
            book.problem(format!("a manager panicked: {}", tail(log)));
        }
    }

    /// Looks for what is left, ends everything, and sums up.
    async fn end(self, ended: Result<()>, seed: u64) -> Result<Report> {
        self.end_trouble().await;
        let left = if ended.is_ok() || !self.book().report.is_good() {
            let gone = [Trouble::ManagerTerm, Trouble::ReplicaKill];
            let within = if self.plan.kinds().iter().any(|kind| gone.contains(kind)) { JANITOR } else { CLEANING };
            let left = objects::leftovers_after(&self.target.client, std::slice::from_ref(&self.namespace), within).await;
            left.unwrap_or_else(|error| vec![format!("what is left could not be seen: {error:#}")])
        } else {
            Vec::new()
        };
        let mut managers = self.managers.into_inner();
        let ended_well = managers.now.stop().await;
        let log = managers.now.log();
        objects::remove_namespace(&self.target.client, &self.namespace).await;
        let target = self.target.name;
        // The node goes before the coordinator: agents that report would be left without.
        self.target.stop().await;
        self.gitlab.kill().await?;
        let mut book = self.book.into_inner().unwrap_or_else(PoisonError::into_inner);
        let news = self.journal.into_inner().unwrap_or_else(PoisonError::into_inner).news()?;
        book.learn(news);
        book.close();
        if log.contains("panicked") || !ended_well {
            book.report.other += 1;
            book.problem(format!("the last manager did not end well: {}", tail(&log)));
        }
        if !left.is_empty() {
            book.report.leaked = left.len() as u64;
            book.problem(format!("left behind: {}", left.join(", ")));
        }
        let (plan, kinds) = (&self.plan, self.plan.kinds());
        let with_outage = [Trouble::GitlabAway, Trouble::GitlabFaults, Trouble::ApiAway, Trouble::Partition];
        let report = Report {
            command: command(seed, std::env::args().skip(1)),
            target: target.to_owned(),
            seed,
            trouble: kinds.iter().map(|kind| kind.name()).collect(),
            minutes: self.begun.elapsed().as_secs_f64() / 60.0,
            running: plan.running,
            outage: kinds.iter().any(|kind| with_outage.contains(kind)).then_some(plan.outage),
            ..book.report
        };
        match ended {
            Err(error) if report.is_good() => Err(error),
            _ => Ok(report),
        }
    }
}

/// The words that were said, with the seed and without the place of the result.
fn command(seed: u64, words: impl Iterator<Item = String>) -> String {
    let (mut said, mut skip) = (vec!["cargo xtask chaos".to_owned()], false);
    for word in words {
        let has_value = ["--json", "--seed"].contains(&word.as_str());
        if !skip && !has_value && !word.starts_with("--json=") && !word.starts_with("--seed=") {
            said.push(word);
        }
        skip = has_value;
    }
    said.push(format!("--seed {seed}"));
    said.join(" ")
}

/// The configuration of the managers.
fn configuration(plan: &Plan, target: &Target, namespace: &str, (url, token): (&str, &str)) -> Result<String> {
    let image = |name: &str| target.images.get(name).cloned().with_context(|| format!("the image {name} is not there"));
    let kubernetes = toml::Table::from_iter([
        ("namespace".to_owned(), namespace.into()),
        ("image".to_owned(), image("BUSYBOX")?.into()),
        ("helper_image".to_owned(), image("HELPER")?.into()),
        ("pull_policy".to_owned(), "if-not-present".into()),
    ]);
    let runner = toml::Table::from_iter([
        ("name".to_owned(), "chaos".into()),
        ("executor".to_owned(), "kubernetes".into()),
        ("url".to_owned(), url.into()),
        ("token".to_owned(), token.into()),
        ("kubernetes".to_owned(), toml::Value::Table(kubernetes)),
    ]);
    let config = toml::Table::from_iter([
        ("concurrent".to_owned(), toml::Value::Integer(i64::try_from(plan.running)?)),
        ("check_interval".to_owned(), 1.into()),
        ("runners".to_owned(), toml::Value::Array(vec![toml::Value::Table(runner)])),
    ]);
    Ok(toml::to_string(&config)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_command_is_said_again_with_its_seed() {
        let words = "--kills 3 --json x --seed 9 --jobs 4".split(' ').map(str::to_owned);
        assert_eq!(super::command(7, words), "cargo xtask chaos --kills 3 --jobs 4 --seed 7");
    }
}
