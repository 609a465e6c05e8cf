//! GitLab's side of the runner API: a queue, jobs on trial until they are confirmed, traces by their offsets.
//!
//! No time passes in here and nothing goes wrong: that is the door's part. Every byte of a trace is kept with the name of
//! its writer.

use crate::schedule::{self, Schedule};
use gitlab_api::{UpdateJob, headers, trace, update_job};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time for a confirmation, GitLab's own.
const TRIAL: Duration = Duration::from_secs(120);
/// What GitLab asks of who updates a trace.
const INTERVAL: &str = "3";

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or nothing.
    pub body: String,
}

impl Answer {
    /// One without headers and body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not handed out, or not any more.
    Pending,
    /// Handed out, not confirmed.
    OnTrial {
        /// Until then.
        until: Duration,
    },
    /// Confirmed.
    Running,
    /// Confirmed, and somebody pressed cancel.
    Canceling,
    /// Over.
    Ended(&'static str),
}

/// One accepted piece of a trace.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Who wrote it.
    pub writer: String,
    /// What.
    pub bytes: Vec<u8>,
}

/// A report of a job's end, accepted or not.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who made it.
    pub who: String,
    /// `success` or `failed`.
    pub state: String,
    /// When it left.
    pub sent: Duration,
    /// When it arrived.
    pub came: Duration,
    /// It was the one that counted.
    pub accepted: bool,
}

/// A job as GitLab sees it.
#[derive(Clone, Debug)]
pub struct There {
    /// What it is.
    pub job: schedule::Job,
    /// Where it is.
    pub state: State,
    /// Who got it, in order.
    pub holders: Vec<String>,
    /// Who confirmed it.
    pub confirmed_by: Vec<String>,
    /// Its trace.
    pub pieces: Vec<Piece>,
    /// All reports of its end.
    pub reports: Vec<Report>,
    /// Whether its end was said at once, by the one who cancelled it.
    pub ended_here: bool,
    renews: bool,
    canceled: bool,
}

/// GitLab.
#[derive(Debug)]
pub struct Gitlab {
    /// Jobs by number.
    pub jobs: BTreeMap<u64, There>,
    /// Reports whose checksum or size was not that of the trace.
    pub mismatches: Vec<String>,
}

impl There {
    /// Bytes of its trace.
    pub fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes.len() as u64).sum()
    }

    /// Its whole trace.
    pub fn text(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    fn token(&self) -> String {
        if self.renews { format!("token-{}-{}", self.job.id, self.holders.len()) } else { format!("token-{}", self.job.id) }
    }

    /// What time does by itself.
    fn pass(&mut self, now: Duration) {
        if let State::OnTrial { until } = self.state
            && now >= until
        {
            self.state = State::Pending;
        }
        let Some((after, at_once)) = self.job.cancel else { return };
        if self.canceled || now < self.job.arrives + after {
            return;
        }
        self.canceled = true;
        match self.state {
            State::Running if !at_once => self.state = State::Canceling,
            State::Ended(_) => {}
            _ => (self.state, self.ended_here) = (State::Ended("canceled"), true),
        }
    }

    fn status(&self) -> &'static str {
        match self.state {
            State::Pending | State::OnTrial { .. } => "pending",
            State::Running => "running",
            State::Canceling => "canceling",
            State::Ended(word) => word,
        }
    }

    fn answer(&self, status: u16) -> Answer {
        let headers =
            vec![(headers::JOB_STATUS, self.status().to_owned()), (headers::TRACE_UPDATE_INTERVAL, INTERVAL.to_owned())];
        Answer { status, headers, body: "{}".to_owned() }
    }
}

impl Gitlab {
    /// With the jobs of a schedule.
    pub fn new(schedule: &Schedule) -> Self {
        let there = |job: &schedule::Job| There {
            job: job.clone(),
            state: State::Pending,
            holders: Vec::new(),
            confirmed_by: Vec::new(),
            pieces: Vec::new(),
            reports: Vec::new(),
            ended_here: false,
            renews: schedule.renews_tokens,
            canceled: false,
        };
        Self { jobs: schedule.jobs.iter().map(|job| (job.id, there(job))).collect(), mismatches: Vec::new() }
    }

    /// What time does by itself.
    pub fn pass(&mut self, now: Duration) {
        self.jobs.values_mut().for_each(|job| job.pass(now));
    }

    /// When the next job may be there to be handed out; `None` when there will be none.
    pub fn next_job(&mut self, now: Duration) -> Option<Duration> {
        self.pass(now);
        let at = |job: &There| match job.state {
            State::Pending => Some(job.job.arrives),
            State::OnTrial { until } => Some(until),
            _ => None,
        };
        self.jobs.values().filter_map(at).min()
    }

    /// Hands out a job.
    pub fn hand_out(&mut self, now: Duration, who: &str) -> Option<Answer> {
        self.pass(now);
        let job = self.jobs.values_mut().find(|job| job.state == State::Pending && job.job.arrives <= now)?;
        job.state = State::OnTrial { until: now + TRIAL };
        job.holders.push(who.to_owned());
        let payload = json!({"id": job.job.id, "token": job.token(),
            "job_info": {"name": "unit", "stage": "test", "project_id": 5, "project_full_path": "group/project"},
            "git_info": {"ref": "main", "sha": "abc"}, "runner_info": {"timeout": job.job.timeout.as_secs()},
            "steps": [{"name": "script", "script": ["true"], "when": "on_success"}],
            "features": {"trace_sections": true, "failure_reasons": ["image_pull_failure", "runner_configuration_error"]}});
        Some(Answer { status: 201, headers: vec![(headers::LAST_UPDATE, "v1".to_owned())], body: payload.to_string() })
    }

    /// `PUT /jobs/:id`, with the times when it left and when it arrives.
    pub fn update(&mut self, (sent, now): (Duration, Duration), who: &str, id: u64, update: &UpdateJob) -> Answer {
        self.pass(now);
        let Some(job) = self.jobs.get_mut(&id) else { return Answer::status(404) };
        let is_report = update.state != "running";
        let is_ours =
            update.token == job.token() && matches!(job.state, State::OnTrial { .. } | State::Running | State::Canceling);
        let is_checked = is_report && is_ours && job.job.checks > 0;
        if is_report {
            let (who, state, accepted) = (who.to_owned(), update.state.clone(), is_ours && !is_checked);
            job.reports.push(Report { who, state, sent, came: now, accepted });
        }
        if !is_ours {
            return Answer { body: String::new(), ..job.answer(403) };
        }
        if let State::OnTrial { .. } = job.state {
            job.confirmed_by.push(who.to_owned());
            job.state = State::Running;
        }
        if is_checked {
            job.job.checks -= 1;
            return job.answer(202);
        }
        if is_report {
            let (length, crc) = (job.length(), update_job::checksum_text(crc32fast::hash(&job.text())));
            if let Some(output) = &update.output {
                let wrong = output.checksum.as_ref().is_some_and(|checksum| *checksum != crc);
                if wrong || output.bytesize != length {
                    let text = format!("job {id}: {who} reports {output:?}, the trace has {length} bytes and {crc}");
                    self.mismatches.push(text);
                }
            }
            let word = match (&job.state, update.state.as_str()) {
                (State::Canceling, _) => "canceled",
                (_, "success") => "success",
                _ => "failed",
            };
            let before = job.answer(200);
            job.state = State::Ended(word);
            return before;
        }
        job.answer(200)
    }

    /// `PATCH /jobs/:id/trace`.
    pub fn append(&mut self, now: Duration, who: &str, id: u64, (token, start, bytes): (&str, u64, &[u8])) -> Answer {
        self.pass(now);
        let Some(job) = self.jobs.get_mut(&id) else { return Answer::status(404) };
        if token != job.token() || !matches!(job.state, State::Running | State::Canceling) {
            return Answer { body: String::new(), ..job.answer(403) };
        }
        let length = job.length();
        if start != length {
            let mut answer = job.answer(416);
            answer.headers.push((headers::RANGE, format!("0-{length}")));
            return answer;
        }
        job.pieces.push(Piece { writer: who.to_owned(), bytes: bytes.to_vec() });
        job.answer(202)
    }
}

/// First byte of a patch, by its header.
pub fn start_of(range: &str) -> Option<u64> {
    trace::parse_content_range(range).map(|(start, _)| start)
}
