//! What the log of a job says of its services: what they printed (`CI_DEBUG_SERVICES`), and that one died.
//!
//! The kubelet alone knows both, and who may ask it is the manager. So an agent whose job needs a word about services
//! leaves the last line to us: one writer at a time, no stream through us into a running job that a restart would tear,
//! and a manager after this one begins again from the pod. The price is that services' logs come behind the script's
//! and not between its lines; with stamps each line has the time at which it was printed.
//!
//! All of it goes in front of the last line in one patch, which bounds it.

use crate::admit::Tracked;
use crate::cluster::{self, CallError};
use crate::store::{self, FetchError};
use crate::wiring::Manager;
use agent_contract::{Plan, names};
use futures::AsyncReadExt;
use gitlab_api::log::{Stream, section_end, section_start};
use job_log::masker::Masker;
use job_log::patterns::Patterns;
use job_log::{Log, secrets};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of a trace for all services: a patch has 1 MiB, and the last line needs some.
const MOST: usize = 1000 * 1024;
/// Last lines of each service.
const LINES: i64 = 1000;
/// For the bytes of one log, once the kubelet has begun to answer.
const READING: Duration = Duration::from_secs(30);
/// Longest name of a service in front of a line, in characters.
const NAME: usize = 100;
const SECTION: &str = "services";
const GREY: &str = "\x1b[0;90m";
const YELLOW: &str = "\x1b[0;33m";
const RESET: &str = "\x1b[0;m";

/// Everything about services, as it stands in the trace.
pub async fn news(manager: &Manager, job: &Tracked, pod: Option<&Pod>) -> Vec<u8> {
    let mut news = if job.shows_services { logs(manager, job).await } else { Vec::new() };
    let deaths = pod.map(|pod| deaths(&job.services, job.shows_services, pod)).unwrap_or_default();
    news.extend(job.framed(job.masked(&deaths).as_bytes()));
    news
}

/// A line for each service that ended before the agent did. Nobody ends services earlier, unless the whole pod is
/// taken away.
fn deaths(services: &[String], shown: bool, pod: &Pod) -> String {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none());
    let containers = || status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let end = |name: &str| containers().find(|one| one.name == name)?.state.as_ref()?.terminated.as_ref();
    let Some(agent) = end(names::HELPER_CONTAINER).and_then(|end| end.finished_at.as_ref()) else { return String::new() };
    let hint = if shown { "" } else { "; with the variable CI_DEBUG_SERVICES: \"true\" the log shows what it printed" };
    let mut lines = String::new();
    for (index, service) in services.iter().enumerate() {
        let container = names::service_container(index);
        if let Some(end) = end(&container).filter(|end| end.finished_at.as_ref().is_none_or(|at| at <= agent)) {
            let (service, why) = (name(service), why(end));
            lines.push_str(&format!(
                "{YELLOW}WARNING: service {service} (container {container}) ended before the job did: {why}{hint}{RESET}\n"
            ));
        }
    }
    lines
}

fn why(end: &ContainerStateTerminated) -> String {
    let message = end.message.as_deref().unwrap_or_default().trim();
    match end.reason.as_deref() {
        Some("OOMKilled") => "it used more memory than its limit; raise service_memory_limit".to_owned(),
        Some("StartError" | "ContainerCannotRun") => format!("it could not be started: {}", plain(message, 1000)),
        _ => format!("exit code {}", end.exit_code),
    }
}

/// One line: it comes from outside.
fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn name(service: &str) -> String {
    plain(service, NAME)
}

/// What all services printed, in a section of its own.
async fn logs(manager: &Manager, job: &Tracked) -> Vec<u8> {
    let plan = match store::fetch(manager, job).await {
        Ok(plan) => plan,
        Err(FetchError::NotOurs) => return Vec::new(),
        Err(FetchError::Unreadable(error)) => {
            tracing::warn!(job.id = job.id, pod.name = job.pod, error, "no logs of services: the plan could not be read");
            let line = "WARNING: logs of services are not shown, because the plan says what to mask and could not be read";
            return job.framed(format!("{YELLOW}{line}{RESET}\n").as_bytes());
        }
    };
    let mut page = Page::new(&plan);
    page.open();
    let share = MOST / job.services.len().max(1);
    for (index, service) in job.services.iter().enumerate() {
        let service = name(service);
        match read(job, &names::service_container(index), share).await {
            Ok(text) => page.put((index, &service), &text, share),
            Err(error) => {
                let why = match error.code() {
                    Some(403) => {
                        "the manager may not read them, which needs the verb get on pods/log (see `gantry rbac`)".to_owned()
                    }
                    _ => cluster::chain(&error),
                };
                page.warn(&format!("logs of service {service} are not shown: {}", plain(&why, 1000)));
            }
        }
    }
    page.close()
}

/// The last lines of a container, each behind its time.
async fn read(job: &Tracked, container: &str, most: usize) -> Result<Vec<u8>, CallError> {
    let what = "read the log of a service";
    let pods: Api<Pod> = Api::namespaced(job.client(), job.namespace());
    let parameters = LogParams {
        container: Some(container.to_owned()),
        limit_bytes: i64::try_from(most).ok(),
        tail_lines: Some(LINES),
        timestamps: true,
        ..LogParams::default()
    };
    let stream = cluster::call(what, pods.log_stream(&job.pod, &parameters)).await?;
    let mut text = Vec::new();
    // Servers may answer with more than they are asked for.
    let mut bounded = std::pin::pin!(stream.take(most as u64));
    let read = tokio::time::timeout(READING, bounded.read_to_end(&mut text)).await;
    // A stream that breaks off has shown what it has shown.
    if read.is_err() && text.is_empty() { Err(CallError::TimedOut(what)) } else { Ok(text) }
}

/// Lines on their way into a trace, masked and stamped.
struct Page {
    patterns: Arc<Patterns>,
    log: Log,
    sections: bool,
    out: Vec<u8>,
}

impl Page {
    fn new(plan: &Plan) -> Self {
        let patterns = Arc::new(secrets::of_plan(plan));
        let log = Log::new(patterns.clone(), plan.settings.timestamps);
        Self { patterns, log, sections: plan.job.features.trace_sections, out: Vec::new() }
    }

    fn say(&mut self, text: &str) {
        let text = self.log.push(Stream::RUNNER, text.as_bytes(), micros(Timestamp::now()));
        self.out.extend(text);
    }

    fn open(&mut self) {
        if self.sections {
            self.say(&section_start(seconds(), SECTION, "[collapsed=true]"));
        }
        self.say(&format!("\x1b[0K\x1b[36;1mLogs of services{RESET}\n"));
    }

    fn warn(&mut self, text: &str) {
        self.say(&format!("{YELLOW}WARNING: {text}{RESET}\n"));
    }

    /// A service's lines as GitLab Runner shows them. What is secret is taken out of the whole text first, because it
    /// may have several lines.
    fn put(&mut self, (index, service): (usize, &str), text: &[u8], most: usize) {
        let stream = Stream::service(u8::try_from(index).unwrap_or(u8::MAX));
        let (mut masker, mut masked) = (Masker::new(self.patterns.clone()), Vec::new());
        let (mut time, end, mut lines) = (micros(Timestamp::now()), self.out.len() + most, 0);
        let mut room = true;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let (at, line) = timed(line);
            (time, lines) = (at.unwrap_or(time), lines + 1);
            masker.push(line, &mut masked);
            room = self.put_whole_lines((stream, service), &mut masked, (time, end));
            if !room {
                break;
            }
        }
        masker.finish(&mut masked);
        if !masked.is_empty() && !masked.ends_with(b"\n") {
            masked.push(b'\n');
        }
        room = room && self.put_whole_lines((stream, service), &mut masked, (time, end));
        if !room || text.len() >= most {
            self.warn(&format!("more than {} KiB of service {service}: the rest is left out", most / 1024));
        } else if lines >= LINES {
            self.warn(&format!("these are the last {LINES} lines of service {service}"));
        }
    }

    /// Whether there is room for more.
    fn put_whole_lines(&mut self, (stream, service): (Stream, &str), masked: &mut Vec<u8>, (time, end): (u64, usize)) -> bool {
        let whole = masked.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = masked.drain(..whole).collect();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = [format!("{GREY}[service:{service}] ").as_bytes(), line, RESET.as_bytes(), b"\n"].concat();
            let line = self.log.push(stream, &line, time);
            if self.out.len() + line.len() > end {
                return false;
            }
            self.out.extend(line);
        }
        true
    }

    fn close(mut self) -> Vec<u8> {
        if self.sections {
            self.say(&section_end(seconds(), SECTION));
        }
        let rest = self.log.finish(micros(Timestamp::now()));
        self.out.extend(rest);
        self.out
    }
}

/// A line of a container's log and the time in front of it.
fn timed(line: &[u8]) -> (Option<u64>, &[u8]) {
    let found = line.iter().position(|byte| *byte == b' ').and_then(|blank| {
        let time: Timestamp = std::str::from_utf8(&line[..blank]).ok()?.parse().ok()?;
        Some((Some(micros(time)), &line[blank + 1..]))
    });
    found.unwrap_or((None, line))
}

fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or_default()
}

fn seconds() -> u64 {
    micros(Timestamp::now()) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::{LINES, Page, deaths};
    use agent_contract::{Plan, Settings};
    use gitlab_api::log::without_stamps;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn page(timestamps: bool) -> Page {
        let payload = json!({"id": 1, "token": "token-of-the-job", "variables": [
            {"key": "KEY", "value": "first-line\nsecond-line", "masked": true}, {"key": "WORD", "value": "hunter22", "masked": true}]});
        let job = serde_json::from_value::<gitlab_api::JobResponse>(payload).unwrap().into_job().unwrap();
        let settings = Settings { timestamps, ..Settings::default() };
        Page::new(&Plan { job, coordinator: Default::default(), workspace: Default::default(), settings })
    }

    fn shown(text: &str, most: usize) -> String {
        let mut page = page(false);
        page.put((0, "db-main"), text.as_bytes(), most);
        String::from_utf8(page.close()).unwrap()
    }

    #[test]
    fn lines_are_grey_masked_and_behind_the_name_of_their_service() {
        let text = "2026-01-01T00:00:00.000000001Z ready: hunter22\n2026-01-01T02:00:01.5+02:00 first-line\n\
                    2026-01-01T00:00:02.000000000Z second-line is one secret\nno time";
        let line = |text: &str| format!("\x1b[0;90m[service:db-main] {text}\x1b[0;m\n");
        let expected = [line("ready: [MASKED]"), line("[MASKED] is one secret"), line("no time")].concat();
        assert_eq!(shown(text, 10_000), expected);
    }

    #[test]
    fn each_line_is_stamped_with_its_own_time_and_the_stream_of_its_service() {
        let mut page = page(true);
        page.put((1, "db"), b"2026-01-01T02:00:01.5+02:00 one\n2026-01-01T00:00:02Z two\n", 10_000);
        let text = String::from_utf8(page.close()).unwrap();
        let stamps: Vec<_> = text.lines().map(|line| &line[..31]).collect();
        assert_eq!(stamps, ["2026-01-01T00:00:01.500000Z 10O", "2026-01-01T00:00:02.000000Z 10O"]);
        assert!(without_stamps(text.as_bytes()).ends_with(b"[service:db] two\x1b[0;m\n"));
    }

    #[test]
    fn a_service_that_prints_much_has_its_share_and_no_more() {
        let long = format!("2026-01-01T00:00:00Z {}\n", "x".repeat(50)).repeat(100);
        let text = shown(&long, 2000);
        assert!(
            text.len() < 2200 && text.ends_with("more than 1 KiB of service db-main: the rest is left out\x1b[0;m\n"),
            "{text}"
        );
        let many = "2026-01-01T00:00:00Z x\n".repeat(usize::try_from(LINES).unwrap());
        assert!(shown(&many, 1 << 20).ends_with("these are the last 1000 lines of service db-main\x1b[0;m\n"));
    }

    fn pod(containers: &[Value]) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": containers}})).unwrap()
    }

    fn ended(name: &str, second: u32, reason: &str) -> Value {
        let end =
            json!({"exitCode": 7, "reason": reason, "finishedAt": format!("2026-01-01T00:00:{second:02}Z"), "message": "a\nb"});
        json!({"name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": end}})
    }

    #[test]
    fn a_service_that_ended_before_the_agent_is_told_and_one_that_was_ended_with_the_pod_is_not() {
        let services = ["db-main".to_owned(), "web".to_owned(), "cache".to_owned()];
        let all = [
            ended("helper", 9, "Completed"),
            ended("svc-0", 9, "Error"),
            ended("svc-1", 3, "OOMKilled"),
            ended("svc-2", 10, "Error"),
        ];
        let text = deaths(&services, true, &pod(&all));
        let expected = "\x1b[0;33mWARNING: service db-main (container svc-0) ended before the job did: exit code 7\x1b[0;m\n\
            \x1b[0;33mWARNING: service web (container svc-1) ended before the job did: it used more memory than its limit; raise \
            service_memory_limit\x1b[0;m\n";
        assert_eq!(text, expected);
        let unstarted = [ended("helper", 9, "Completed"), ended("svc-0", 1, "StartError")];
        assert!(
            deaths(&services, false, &pod(&unstarted))
                .contains("it could not be started: a b; with the variable CI_DEBUG_SERVICES")
        );
        let mut deleted = pod(&all);
        deleted.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:08Z")).unwrap());
        assert_eq!(deaths(&services, true, &deleted), "");
    }
}
