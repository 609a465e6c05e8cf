//! A GitLab in the tests' own time, away for half an hour in every way there is.

use super::{Final, Owner, Patience, State, Trace};
use crate::spool::{MEMORY, Spool};
use gitlab_api::log::Stream;
use gitlab_api::update_job::checksum_text;
use gitlab_api::{UpdateJob, headers, trace};
use gitlab_client::{Body, Client, ClientConfig, Service};
use job::{JobState, Secret};
use job_log::Log;
use job_log::patterns::Patterns;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How GitLab is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// No connection: refused, no such name, another certificate.
    Unreachable,
    /// The connection is there and nothing comes over it.
    Silent,
    /// Nothing comes back, but what we sent counts.
    Deaf,
    /// The connection is closed in the middle: what we sent counts.
    HalfClosed,
    /// An answer of this status.
    Status(u16),
    /// 429 with or without `Retry-After`, in seconds.
    Busy(Option<u32>),
    /// It works, and takes its time.
    Slow(Duration),
}

#[derive(Default)]
struct Known {
    trace: Vec<u8>,
    updates: Vec<(Duration, UpdateJob)>,
    calls: Vec<Duration>,
    /// The final updates that are refused with 412 first.
    mismatches: usize,
}

#[derive(Clone)]
struct Gitlab {
    known: Arc<Mutex<Known>>,
    begun: Instant,
    away: Range<Duration>,
    how: Away,
    /// How often it wants the trace, in seconds.
    interval: Option<u32>,
}

impl Gitlab {
    fn new(how: Away, away: Range<u64>) -> Self {
        let away = Duration::from_secs(away.start)..Duration::from_secs(away.end);
        Self { known: Arc::default(), begun: Instant::now(), away, how, interval: None }
    }

    fn owner(&self) -> Owner {
        let gitlab = self.clone();
        let service = Service::new(move |request| gitlab.clone().answer(request));
        let config = ClientConfig { url: "http://gitlab".to_owned(), ..ClientConfig::default() };
        Owner {
            client: Client::over(&config, service).unwrap(),
            id: 7,
            token: Secret::new("token"),
            info: gitlab_api::Info::of_kubernetes("1.0"),
            debug_trace: false,
        }
    }

    async fn answer(self, request: http::Request<Body>) -> io::Result<http::Response<Body>> {
        let at = self.begun.elapsed();
        self.known.lock().unwrap().calls.push(at);
        let how = self.away.contains(&at).then_some(self.how);
        let plain = |status: u16| Ok(http::Response::builder().status(status).body(Body::from("{}")).unwrap());
        match how {
            None => Ok(self.serve(&request)),
            Some(Away::Unreachable) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Away::Silent) => std::future::pending().await,
            Some(Away::Deaf) => {
                self.serve(&request);
                std::future::pending().await
            }
            Some(Away::HalfClosed) => {
                self.serve(&request);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Some(Away::Status(status)) => plain(status),
            Some(Away::Busy(None)) => plain(429),
            Some(Away::Busy(Some(seconds))) => {
                let answer = http::Response::builder().status(429).header("Retry-After", seconds);
                Ok(answer.body(Body::from("")).unwrap())
            }
            Some(Away::Slow(latency)) => {
                sleep(latency).await;
                Ok(self.serve(&request))
            }
        }
    }

    /// GitLab's offset rules.
    fn serve(&self, request: &http::Request<Body>) -> http::Response<Body> {
        let mut known = self.known.lock().unwrap();
        let body = request.body().as_bytes().unwrap_or_default();
        let mut answer = http::Response::builder().header(headers::JOB_STATUS, "running");
        if let Some(seconds) = self.interval {
            answer = answer.header(headers::TRACE_UPDATE_INTERVAL, seconds);
        }
        if request.method() == http::Method::PATCH {
            let range = request.headers()[headers::CONTENT_RANGE].to_str().unwrap();
            let (start, end) = trace::parse_content_range(range).unwrap();
            assert_eq!(end - start + 1, body.len() as u64, "the range must fit the body");
            if start != known.trace.len() as u64 {
                return answer
                    .status(416)
                    .header(headers::RANGE, format!("0-{}", known.trace.len()))
                    .body(Body::from(""))
                    .unwrap();
            }
            known.trace.extend_from_slice(body);
            return answer.status(202).body(Body::from("")).unwrap();
        }
        let update: UpdateJob = serde_json::from_slice(body).unwrap();
        let refused = update.state != "running" && known.mismatches > 0;
        known.updates.push((self.begun.elapsed(), update));
        if refused {
            known.mismatches -= 1;
            known.trace.clear();
        }
        answer.status(if refused { 412 } else { 200 }).body(Body::from("")).unwrap()
    }

    fn trace(&self) -> String {
        String::from_utf8(self.known.lock().unwrap().trace.clone()).unwrap()
    }

    fn last(&self) -> Option<(Duration, UpdateJob)> {
        self.known.lock().unwrap().updates.iter().rfind(|(_, update)| update.state != "running").cloned()
    }
}

fn plain() -> Log {
    Log::new(Patterns::new([], []), false)
}

fn success() -> Final {
    Final { state: JobState::Success, failure_reason: None, exit_code: None }
}

fn until(begun: Instant, seconds: u64) -> Patience {
    Patience { tries: 10, deadline: begun + Duration::from_secs(seconds) }
}

fn sending(trace: &Trace, gitlab: &Gitlab) -> tokio::task::JoinHandle<()> {
    let (trace, owner) = (trace.clone(), gitlab.owner());
    tokio::spawn(async move { trace.send(&owner).await })
}

/// One line a second.
async fn print(trace: &Trace, seconds: u64) -> String {
    let mut all = String::new();
    for second in 0..seconds {
        let line = format!("line {second}\n");
        trace.write(line.as_bytes()).await;
        all += &line;
        sleep(Duration::from_secs(1)).await;
    }
    all
}

fn on_a_full_disk() -> Spool {
    Spool::over(Some(std::fs::File::options().read(true).write(true).open("/dev/full").unwrap()), u64::MAX)
}

const EVERY_WAY: [Away; 10] = [
    Away::Unreachable,
    Away::Silent,
    Away::Deaf,
    Away::HalfClosed,
    Away::Status(500),
    Away::Status(502),
    Away::Status(503),
    Away::Busy(None),
    Away::Busy(Some(120)),
    Away::Slow(Duration::from_secs(10)),
];

#[tokio::test(start_paused = true)]
async fn half_an_hour_without_gitlab_in_the_middle_of_a_job_costs_no_byte() {
    for how in EVERY_WAY {
        let gitlab = Gitlab::new(how, 60..60 + 1800);
        let trace = Trace::new(u64::MAX, plain());
        let sender = sending(&trace, &gitlab);
        let all = print(&trace, 2100).await;
        assert_eq!(gitlab.trace(), all[..gitlab.trace().len()], "{how:?}");
        assert!(gitlab.trace().contains("line 1900\n"), "{how:?}: most of it is there two minutes after the return");
        sender.abort();
        assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await, "{how:?}");
        assert_eq!(gitlab.trace(), all, "{how:?}");
        let output = gitlab.last().unwrap().1.output.unwrap();
        assert_eq!(output.checksum, Some(checksum_text(crc32fast::hash(all.as_bytes()))), "{how:?}");
        let calls = gitlab.known.lock().unwrap().calls.iter().filter(|at| gitlab.away.contains(*at)).count();
        assert!(calls < 200, "{how:?}: {calls} calls to a server that is away");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_while_gitlab_is_away_is_told_when_it_is_back() {
    for how in EVERY_WAY {
        // Away from the first byte on.
        let gitlab = Gitlab::new(how, 0..1800);
        let trace = Trace::new(u64::MAX, plain());
        let sender = sending(&trace, &gitlab);
        let all = print(&trace, 30).await;
        sender.abort();
        assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await, "{how:?}");
        let (at, update) = gitlab.last().unwrap();
        assert_eq!((gitlab.trace(), update.state.as_str()), (all, "success"), "{how:?}");
        assert!(at < Duration::from_secs(1800 + 400), "{how:?}: told after {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_be_left_alone_is() {
    let gitlab = Gitlab::new(Away::Busy(Some(120)), 0..100);
    let trace = Trace::new(u64::MAX, plain());
    let sender = sending(&trace, &gitlab);
    print(&trace, 130).await;
    sender.abort();
    let calls = gitlab.known.lock().unwrap().calls.clone();
    assert!(calls[0] < Duration::from_secs(1) && calls[1] >= Duration::from_secs(120), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_partition_of_a_minute_costs_no_byte_and_no_two_minutes() {
    for how in [Away::Unreachable, Away::Silent, Away::Deaf] {
        for begin in [0, 1, 30, 31, 32, 33] {
            let gitlab = Gitlab::new(how, begin..begin + 60);
            let trace = Trace::new(u64::MAX, plain());
            let sender = sending(&trace, &gitlab);
            let all = print(&trace, begin + 180).await;
            assert!(gitlab.trace().contains(&format!("line {}\n", begin + 60)), "{how:?} from {begin} s on");
            sender.abort();
            assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await);
            assert_eq!(gitlab.trace(), all, "{how:?} from {begin} s on");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_jobs_time_is_over_the_tries_still_count_and_have_an_end() {
    for how in [Away::Unreachable, Away::Silent, Away::Status(500), Away::Busy(Some(3600))] {
        let gitlab = Gitlab::new(how, 0..1_000_000);
        let trace = Trace::new(u64::MAX, plain());
        assert!(!trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 0)).await, "{how:?}");
        let (took, calls) = (gitlab.begun.elapsed(), gitlab.known.lock().unwrap().calls.len());
        assert!(took <= Duration::from_secs(400), "{how:?}: {took:?}");
        assert!(calls >= 3, "{how:?}: {calls} calls");
    }
    let gitlab = Gitlab::new(Away::Unreachable, 0..1_000_000);
    let trace = Trace::new(u64::MAX, plain());
    assert!(!trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 0)).await);
    assert_eq!(gitlab.known.lock().unwrap().calls.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_and_does_not_accept_is_not_asked_for_ever() {
    let gitlab = Gitlab::new(Away::Unreachable, 0..0);
    gitlab.known.lock().unwrap().mismatches = usize::MAX;
    let trace = Trace::new(u64::MAX, plain());
    trace.write(b"log\n").await;
    assert!(!trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 100_000)).await);
    assert_eq!(gitlab.known.lock().unwrap().updates.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_silent_job_of_three_days_is_heard_of_all_the_time() {
    let gitlab = Gitlab::new(Away::Status(503), 100_000..100_600);
    let trace = Trace::new(u64::MAX, plain());
    let sender = sending(&trace, &gitlab);
    sleep(Duration::from_secs(3 * 86_400)).await;
    sender.abort();
    let mut calls = gitlab.known.lock().unwrap().calls.clone();
    calls.push(gitlab.begun.elapsed());
    let silence = calls.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(silence <= Duration::from_secs(61), "{silence:?}");
    assert!(gitlab.known.lock().unwrap().updates.iter().all(|(_, update)| update.state == "running"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_job_is_told_of_less_often_where_it_wants_that() {
    for (rarely, interval, silence) in [(false, 60, 30), (true, 3, 30), (true, 60, 240), (true, 900, 1800)] {
        let gitlab = Gitlab { interval: Some(interval), ..Gitlab::new(Away::Silent, 0..0) };
        let trace = Trace::new(u64::MAX, plain());
        if rarely {
            trace.touch_rarely();
        }
        let sender = sending(&trace, &gitlab);
        sleep(Duration::from_secs(3 * 3600)).await;
        sender.abort();
        let calls = gitlab.known.lock().unwrap().calls.clone();
        let longest = calls.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap().as_secs();
        // A call waits for the interval after the one before.
        assert_eq!(longest, silence.max(u64::from(interval)), "{rarely} {interval}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_waits_only_when_the_buffer_is_full_and_the_log_says_so() {
    let gitlab = Gitlab::new(Away::Unreachable, 0..600);
    let trace = Trace::over(State { backlog: 1000, ..State::new(Spool::new(u64::MAX), plain()) });
    let _sender = sending(&trace, &gitlab);
    let piece = [b'x'; 99];
    for _ in 0..11 {
        trace.write(&piece).await;
    }
    assert!(gitlab.begun.elapsed() < Duration::from_secs(1), "there was room");
    trace.write(b"\n").await;
    let held = gitlab.begun.elapsed();
    assert!(held >= Duration::from_secs(600), "held for {held:?}");
    trace.line("our own lines never wait").await;
    let told = format!("WARNING: the script had to wait {} s until GitLab took enough of its log", held.as_secs());
    sleep(Duration::from_secs(10)).await;
    assert!(gitlab.trace().contains(&told), "{}", gitlab.trace());
    assert_eq!(gitlab.trace().matches('x').count(), 99 * 11);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_no_byte_of_the_log_while_gitlab_takes_it() {
    let gitlab = Gitlab::new(Away::Unreachable, 0..0);
    let trace = Trace::over(State::new(on_a_full_disk(), plain()));
    let sender = sending(&trace, &gitlab);
    let piece = "0123456789abcdef".repeat(4096);
    for _ in 0..500 {
        trace.write(piece.as_bytes()).await;
        assert!(trace.lock().spool.in_memory() < MEMORY + piece.len());
    }
    sender.abort();
    assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await);
    assert!(gitlab.trace() == piece.repeat(500), "the trace is another");
    assert!(gitlab.last().unwrap().1.output.unwrap().checksum.is_some());
}

#[tokio::test(start_paused = true)]
async fn with_a_full_disk_and_without_gitlab_the_loss_is_said_and_the_state_is_not_lost() {
    let gitlab = Gitlab::new(Away::Unreachable, 0..600);
    gitlab.known.lock().unwrap().mismatches = 1;
    let trace = Trace::over(State::new(on_a_full_disk(), plain()));
    let sender = sending(&trace, &gitlab);
    let piece = [b'x'; 64 * 1024];
    // As the output of a script that is told to end, which is not waited for.
    for _ in 0..100 {
        trace.put(Stream::WORK, &piece);
    }
    trace.line("our own lines have room").await;
    sleep(Duration::from_secs(700)).await;
    trace.put(Stream::WORK, b"later\n");
    sender.abort();
    assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await);
    let kept = MEMORY / piece.len();
    let lost = (100 - kept) * piece.len();
    assert_eq!(trace.lock().lost, 0);
    let update = gitlab.last().unwrap().1;
    assert_eq!((update.state.as_str(), update.output), ("success", None), "what cannot be sent again is let stand");
    let told = format!("WARNING: {lost} bytes of the log are missing here");
    let spooled = trace.length();
    assert!(spooled as usize > kept * piece.len() + told.len(), "{spooled}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_behind_whose_trace_a_manager_has_told_the_end_says_nothing_more() {
    let gitlab = Gitlab::new(Away::Silent, 0..0);
    let trace = Trace::new(u64::MAX, plain());
    let sender = sending(&trace, &gitlab);
    let all = print(&trace, 10).await;
    sleep(Duration::from_secs(60)).await;
    sender.abort();
    assert_eq!(gitlab.trace(), all);
    let whole = all + "ERROR: Job failed (system failure): the node was lost\n";
    gitlab.known.lock().unwrap().trace = whole.clone().into_bytes();
    trace.write(b"Job succeeded\n").await;
    assert!(!trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await);
    assert_eq!((gitlab.trace(), gitlab.last().map(|(_, update)| update.state)), (whole, None));
}

const HEADER: &[u8] = b"Running with gantry 1.0\n";
const WAITING: &str = "Waiting for pod ns/pod to be running on the node unknown, status is Pending\n";

#[tokio::test(start_paused = true)]
async fn a_managers_lines_that_end_where_an_unanswered_first_patch_does_are_not_taken_for_it() {
    for header in [b"".as_slice(), HEADER] {
        for how in [Away::Unreachable, Away::Silent, Away::Status(500)] {
            let gitlab = Gitlab::new(how, 0..100);
            let of_manager = [header, WAITING.as_bytes()].concat();
            gitlab.known.lock().unwrap().trace.clone_from(&of_manager);
            let trace = Trace::new(u64::MAX, plain());
            trace.own(Stream::RUNNER, header);
            trace.end_header();
            let said = "x".repeat(WAITING.len());
            trace.write(said.as_bytes()).await;
            let sender = sending(&trace, &gitlab);
            sleep(Duration::from_secs(200)).await;
            sender.abort();
            assert!(trace.finish(&gitlab.owner(), Some(&success()), until(gitlab.begun, 3600)).await, "{how:?}");
            assert_eq!(gitlab.trace(), String::from_utf8(of_manager).unwrap() + &said, "{how:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_header_is_sent_when_gitlab_says_that_nothing_stands_there() {
    let gitlab = Gitlab::new(Away::Silent, 0..0);
    gitlab.known.lock().unwrap().trace = WAITING.as_bytes().to_vec();
    let trace = Trace::new(u64::MAX, plain());
    trace.own(Stream::RUNNER, HEADER);
    trace.end_header();
    trace.write(b"said\n").await;
    let sender = sending(&trace, &gitlab);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((trace.lock().base, gitlab.trace().as_str()), (WAITING.len() as u64, WAITING));
    gitlab.known.lock().unwrap().trace.clear();
    sleep(Duration::from_secs(60)).await;
    sender.abort();
    assert_eq!(gitlab.trace().as_bytes(), [HEADER, b"said\n"].concat());
}
