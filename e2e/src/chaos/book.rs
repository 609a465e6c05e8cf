//! What is known of every job, and what is wrong with it.

use super::host::{Facts, JobView};
use super::journal::Entry;
use super::phase::{AtGitlab, Phase};
use super::report::Report;
use super::script::{self, Task};
use std::collections::{BTreeMap, BTreeSet};

/// Longest list of problems in words.
const PROBLEMS: usize = 40;
/// GitLab's word for a job that fell with its pod.
const OF_THE_POD: &str = "runner_system_failure";

/// GitLab's word for a job that was canceled.
const CANCELED: &str = "canceled";

/// All jobs of a run.
#[derive(Debug, Default)]
pub struct Book {
    jobs: BTreeMap<u64, Job>,
    kills: BTreeMap<Phase, u64>,
    idle_kills: u64,
    /// What came of the run so far.
    pub report: Report,
    told_once: bool,
}

#[derive(Debug, Default)]
struct Job {
    at_gitlab: AtGitlab,
    /// Its agent or its container was killed.
    hurt: bool,
    /// It was canceled at GitLab.
    canceled: bool,
    /// GitLab's word for it.
    status: String,
    checked: bool,
    began: u64,
    ended: Vec<String>,
}

impl Book {
    /// An empty one; `told_once` says that each end may be told once only, because agents, GitLab and the way between
    /// them are left alone.
    pub fn new(told_once: bool) -> Self {
        Self { told_once, ..Self::default() }
    }

    /// Notes what passed through GitLab's door.
    pub fn learn(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match entry {
                Entry::Handed { job } => self.job(job).at_gitlab.handed = true,
                Entry::Running { job } => self.job(job).at_gitlab.running = true,
                Entry::Began { job } => self.job(job).began += 1,
                Entry::Fault { kind } => self.struck(format!("of these, requests: {kind}")),
                Entry::Ended { job, told, .. } => self.job(job).ended.push(told),
            }
        }
    }

    fn job(&mut self, id: u64) -> &mut Job {
        self.jobs.entry(id).or_default()
    }

    /// Notes how a job stands; whether it is over and was not looked at yet.
    pub fn see(&mut self, view: &JobView) -> bool {
        let job = self.job(view.id);
        job.at_gitlab.is_final = view.is_final;
        job.status.clone_from(&view.status);
        // One that was given back is waiting again.
        job.at_gitlab.running = view.status == "running";
        view.is_final && !job.checked
    }

    /// Jobs that are there, and how many of them are not over.
    pub fn counts(&self) -> (u64, u64) {
        (self.jobs.len() as u64, self.jobs.values().filter(|job| !job.at_gitlab.is_final).count() as u64)
    }

    /// Jobs that are confirmed and not over.
    pub fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.at_gitlab.running && !job.at_gitlab.is_final).count()
    }

    /// What GitLab says of jobs that are not over for long.
    pub fn at_gitlab(&self) -> BTreeMap<u64, AtGitlab> {
        self.jobs.iter().map(|(id, job)| (*id, job.at_gitlab)).collect()
    }

    /// Notes that a job may fail from now on.
    pub fn hurt(&mut self, id: u64) {
        self.job(id).hurt = true;
    }

    /// Notes before a cancel that a job may end as canceled, and takes it back when it was over already.
    pub fn cancel(&mut self, id: u64, canceled: bool) {
        self.job(id).canceled = canceled;
    }

    /// Notes what a kill of the manager hit.
    pub fn killed(&mut self, hit: &BTreeMap<u64, Phase>) {
        let phases: BTreeSet<_> = hit.values().copied().collect();
        for (id, _) in hit.iter().filter(|(_, phase)| **phase == Phase::Asked) {
            // It waits for somebody else now: the next kill does not hit it again.
            self.job(*id).at_gitlab.handed = false;
        }
        if phases.is_empty() {
            self.idle_kills += 1;
        }
        for phase in phases {
            *self.kills.entry(phase).or_default() += 1;
        }
    }

    /// The phase of these that was hit least.
    pub fn rarest(&self, of: &[Phase]) -> Option<Phase> {
        of.iter().copied().min_by_key(|phase| self.kills.get(phase).copied().unwrap_or(0))
    }

    /// Notes trouble.
    pub fn struck(&mut self, kind: String) {
        *self.report.strokes.entry(kind).or_default() += 1;
    }

    /// Notes in words what is wrong.
    pub fn problem(&mut self, words: String) {
        if self.report.problems.len() < PROBLEMS {
            eprintln!("WRONG: {words}");
            self.report.problems.push(words);
        }
    }

    /// Looks at a job that is over.
    pub fn check(&mut self, view: &JobView, trace: &[u8], facts: &Facts) {
        let job = self.job(view.id);
        job.checked = true;
        let (hurt, id, began) = (job.hurt, view.id, job.began > 0);
        let is_canceled = job.canceled && view.status == CANCELED;
        let Some(task) = Task::of_name(&view.name) else { return };
        let reason = view.reason.clone().unwrap_or_default();
        *self.report.ends.entry(format!("{} {reason}", view.status).trim().to_owned()).or_default() += 1;
        self.report.log_bytes += facts.bytes;
        let found = script::check(&task, id, trace);
        let as_it_had_to = if is_canceled {
            true
        } else if task.exit_code == 0 {
            view.status == "success"
        } else {
            view.status == "failed" && reason == "script_failure" && view.exit_code == Some(task.exit_code)
        };
        let by_its_pod = hurt && view.status == "failed" && reason == OF_THE_POD;
        if !as_it_had_to && !by_its_pod {
            self.report.lost += 1;
            let (status, code) = (&view.status, view.exit_code);
            self.problem(format!("job {id} is {status} ({reason}, exit code {code:?}), its task is {task:?}"));
        }
        let mut wrong = found.wrong.clone();
        if is_canceled && !hurt {
            wrong.extend(found.wrong_of_canceled(&task, began));
        }
        // With a killed agent goes what it had not sent yet; its verdict may have been written before.
        if as_it_had_to && !is_canceled && !hurt && !found.whole {
            wrong.push(format!("{} of {} lines, or no checksum or end", found.lines, task.lines));
        }
        if facts.told_bytes.is_some_and(|bytes| bytes != facts.bytes) {
            wrong.push(format!("{} bytes where {:?} were told", facts.bytes, facts.told_bytes));
        }
        if facts.told_checksum.as_ref().is_some_and(|told| *told != facts.checksum) {
            wrong.push(format!("{} where {:?} was told", facts.checksum, facts.told_checksum));
        }
        if found.doubled {
            self.report.doubled += 1;
        }
        // What became of a lost one is said already.
        if !wrong.is_empty() && (as_it_had_to || by_its_pod) {
            self.report.trace_mismatches += 1;
            self.problem(format!("the log of job {id}: {}", wrong.join("; ")));
        }
    }

    /// Jobs that will never be over.
    pub fn give_up(&mut self) {
        let open: Vec<_> = self.jobs.iter().filter(|(_, job)| !job.at_gitlab.is_final).map(|(id, _)| *id).collect();
        self.report.lost += open.len() as u64;
        if !open.is_empty() {
            self.problem(format!("{} jobs never ended: {open:?}", open.len()));
        }
    }

    /// The last look at all jobs.
    pub fn close(&mut self) {
        let (mut twice, mut not_canceled) = (Vec::new(), Vec::new());
        for (id, job) in &self.jobs {
            if job.canceled && job.at_gitlab.is_final && job.status != CANCELED {
                not_canceled.push(format!("job {id} was canceled and is {}", job.status));
            }
            let mut kinds = job.ended.clone();
            kinds.sort_unstable();
            kinds.dedup();
            if job.began > 1 {
                twice.push(format!("the script of job {id} began {} times", job.began));
            } else if kinds.len() > 1 || (self.told_once && job.ended.len() > 1) {
                twice.push(format!("the end of job {id} was told as {:?}", job.ended));
            }
        }
        let repeated = self.jobs.values().filter(|job| job.ended.len() > 1).count();
        self.report.figures.insert("jobs whose end was told more than once, the same each time".to_owned(), repeated as f64);
        self.report.doubled += twice.len() as u64;
        self.report.lost += not_canceled.len() as u64;
        twice.into_iter().chain(not_canceled).for_each(|words| self.problem(words));
        let heard = self.jobs.values().filter(|job| job.began > 0).count();
        self.report.figures.insert("scripts heard to begin".to_owned(), heard as f64);
        if heard == 0 && self.jobs.values().any(|job| job.status == "success") {
            self.report.other += 1;
            self.problem("no script was heard to begin, so one that ran twice would not have been seen".to_owned());
        }
        self.report.jobs = self.jobs.len() as u64;
        self.report.kills = self.kills.iter().map(|(phase, count)| (phase.as_str().to_owned(), *count)).collect();
        if self.idle_kills > 0 {
            self.report.kills.insert("idle".to_owned(), self.idle_kills);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Book;
    use crate::chaos::host::{Facts, JobView};
    use crate::chaos::journal::Entry;

    fn view(status: &str, reason: Option<&str>) -> JobView {
        JobView {
            pipeline: 1,
            id: 4,
            name: "job 1: 0 lines, 1 pauses, 0 ms, exit 0, extras 0 0 0 0 0 0 0".to_owned(),
            status: status.to_owned(),
            is_final: true,
            reason: reason.map(str::to_owned),
            exit_code: None,
        }
    }

    /// The log of a job without lines: the checksum of nothing.
    const LOG: &str = "checksum e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nJob succeeded\n";

    #[test]
    fn a_job_that_ended_well_is_good_and_one_that_did_not_is_lost_unless_it_was_hurt() {
        let mut book = Book::default();
        assert!(book.see(&view("success", None)));
        book.check(&view("success", None), LOG.as_bytes(), &Facts::default());
        assert!(!book.see(&view("success", None)) && book.report.is_good(), "{:?}", book.report);
        let fell = view("failed", Some("runner_system_failure"));
        book.check(&fell, b"", &Facts::default());
        assert_eq!(book.report.lost, 1);
        book.hurt(4);
        book.check(&fell, b"", &Facts::default());
        assert_eq!(book.report.lost, 1);
    }

    #[test]
    fn a_log_that_lacks_something_and_other_bytes_than_were_told_are_mismatches() {
        let mut book = Book::default();
        book.check(&view("success", None), b"Job succeeded\n", &Facts::default());
        assert_eq!(book.report.trace_mismatches, 1);
        let facts = Facts { bytes: 1, told_bytes: Some(2), ..Facts::default() };
        book.check(&view("success", None), LOG.as_bytes(), &facts);
        assert_eq!(book.report.trace_mismatches, 2);
    }

    #[test]
    fn a_script_that_began_twice_and_an_end_that_was_told_in_two_ways_are_doubled() {
        let ended = |told: &str| Entry::Ended { job: 5, told: told.to_owned(), from: String::new() };
        let mut book = Book::default();
        book.learn(vec![Entry::Began { job: 4 }, Entry::Began { job: 4 }, ended("success"), ended("success")]);
        book.close();
        assert_eq!(book.report.doubled, 1);
        book.learn(vec![ended("failed")]);
        book.close();
        assert_eq!(book.report.doubled, 1 + 2);
        let mut strict = Book::new(true);
        strict.learn(vec![ended("success"), ended("success")]);
        strict.close();
        assert_eq!(strict.report.doubled, 1);
    }

    #[test]
    fn a_run_in_which_no_script_was_heard_is_not_good() {
        let mut book = Book::default();
        book.see(&view("success", None));
        book.close();
        assert!(!book.report.is_good());
        let mut book = Book::default();
        book.see(&view("success", None));
        book.learn(vec![Entry::Began { job: 4 }]);
        book.close();
        assert!(book.report.is_good(), "{:?}", book.report);
    }

    #[test]
    fn a_job_that_was_canceled_ends_as_that_and_no_other_does() {
        let mut book = Book::default();
        book.check(&view("canceled", None), b"", &Facts::default());
        assert_eq!((book.report.lost, book.report.trace_mismatches), (1, 0));
        let mut book = Book::default();
        book.cancel(4, true);
        book.see(&view("canceled", None));
        book.check(&view("canceled", None), b"", &Facts::default());
        book.close();
        assert!(book.report.is_good(), "{:?}", book.report);
        // Its script began, so it has to say how it ended.
        book.learn(vec![Entry::Began { job: 4 }]);
        book.check(&view("canceled", None), b"", &Facts::default());
        assert_eq!((book.report.lost, book.report.trace_mismatches), (0, 1));
        book.see(&view("success", None));
        book.close();
        assert_eq!(book.report.lost, 1);
    }
}
