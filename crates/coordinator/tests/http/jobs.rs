//! The life of a job as a runner sees it.

use crate::server::{Server, client, job, job_request, quick, serve, wait_for};
use coordinator::{Coordinator, Event, JobStatus, PipelineStatus, Settings};
use gitlab_api::update_job::checksum_text;
use gitlab_api::{JobResponse, Output, UpdateJob};
use gitlab_client::{ClientError, Patch, PatchOutcome, UpdateOutcome};
use job::{RemoteState, Secret};
use std::time::{Duration, Instant};

fn facts(trace: &[u8]) -> UpdateJob {
    let checksum = Some(checksum_text(crc32fast::hash(trace)));
    UpdateJob { output: Some(Output { checksum, bytesize: trace.len() as u64 }), ..UpdateJob::default() }
}

#[tokio::test]
async fn a_job_is_handed_out_traced_and_finished() {
    let server = Server::start().await;
    let mut events = server.coordinator.events();
    let pipeline = server.pipeline(&["test"], vec![job("hello", "test")]);
    let taken = server.take().await;
    let job = taken.clone().into_job().unwrap();
    assert_eq!((job.name.as_str(), job.stage.as_str(), job.pipeline_id), ("hello", "test", pipeline));
    assert_eq!(job.project.full_path, "group/sub/project");
    assert_eq!(job.steps[0].script, ["true"]);
    assert_eq!(job.timeout, Duration::from_secs(3600));
    assert_eq!(job.git.refspecs, [format!("+0123456789012345678901234567890123456789:refs/pipelines/{pipeline}")]);
    let (first, second) = (b"hello ".as_slice(), b"world\n".as_slice());
    for (start, bytes) in [(0, first), (6, second)] {
        let patched = server.client.patch_trace(job.id, &job.token, Patch::at(start, bytes)).await.unwrap();
        assert_eq!(patched.0, PatchOutcome::Accepted);
        assert_eq!((patched.1.remote, patched.1.update_interval), (RemoteState::Running, Some(Duration::from_secs(1))));
    }
    let (outcome, _) = server.update(&taken, "success", facts(b"hello world\n")).await;
    assert_eq!(outcome, UpdateOutcome::Accepted);
    let state = server.coordinator.pipeline(pipeline).unwrap();
    assert_eq!((state.status, state.iid, state.jobs[0].status), (PipelineStatus::Success, 1, JobStatus::Success));
    assert!(state.jobs[0].started_at <= state.jobs[0].finished_at && state.jobs[0].started_at.is_some());
    assert_eq!(server.coordinator.read_trace(job.id, 6, 5).unwrap(), b"world");
    let known = server.coordinator.trace_facts(job.id).unwrap();
    assert_eq!((known.bytes, known.reported_bytes), (12, Some(12)));
    assert_eq!(known.reported_checksum, Some(checksum_text(known.crc32)));
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    assert!(seen.contains(&Event::Trace { job: job.id, offset: 12 }));
    assert_eq!(seen.last(), Some(&Event::Pipeline { id: pipeline, status: PipelineStatus::Success }));
}

async fn patch(server: &Server, job: &JobResponse, start: u64, bytes: &'static [u8]) -> (PatchOutcome, RemoteState) {
    let token = Secret::new(job.token.clone());
    let (outcome, hints) = server.client.patch_trace(job.id, &token, Patch::at(start, bytes)).await.unwrap();
    (outcome, hints.remote)
}

#[tokio::test]
async fn an_unknown_runner_is_refused_and_a_known_one_verified() {
    let server = Server::start().await;
    assert!(matches!(server.request_as(&Secret::new("glrt-no")).await, Err(ClientError::Forbidden { .. })));
    let info = job_request("").info;
    assert!(server.client.verify_runner(&server.runner, &info, "s_1").await.unwrap().is_some());
    assert!(server.client.verify_runner(&Secret::new("glrt-no"), &info, "s_1").await.unwrap().is_none());
}

#[tokio::test]
async fn a_held_request_wakes_when_a_job_comes() {
    let server = Server::start().await;
    let first = server.client.request_job(&server.runner, &job_request("")).await.unwrap();
    assert!(first.job.is_none());
    let version = first.last_update.unwrap();
    let (waiting, runner) = (server.client.clone(), server.runner.clone());
    let held = tokio::spawn(async move { waiting.request_job(&runner, &job_request(&version)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished(), "the request must be held");
    let begin = Instant::now();
    server.pipeline(&["test"], vec![job("a", "test")]);
    let answered = held.await.unwrap().unwrap();
    assert!(answered.job.is_some() && begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_held_request_ends_without_a_job_after_its_time() {
    let server = Server::with(Settings { long_poll: Duration::from_millis(300), ..quick() }).await;
    let first = server.client.request_job(&server.runner, &job_request("")).await.unwrap();
    let version = first.last_update.unwrap();
    let begin = Instant::now();
    let second = server.client.request_job(&server.runner, &job_request(&version)).await.unwrap();
    assert!(second.job.is_none() && second.last_update == Some(version));
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_job_that_is_not_confirmed_goes_to_another_and_the_first_token_is_worth_nothing() {
    let server = Server::with(Settings { confirm_within: Duration::from_millis(200), ..quick() }).await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    let first = server.request().await.unwrap();
    assert_eq!(server.status(pipeline, "a"), JobStatus::Pending);
    assert!(server.request().await.is_none(), "it is on trial with the first");
    let held = server.client.request_job(&server.runner, &job_request("")).await.unwrap();
    let again = server.client.request_job(&server.runner, &job_request(&held.last_update.unwrap_or_default())).await.unwrap();
    let second = *again.job.expect("the held request gets it when it is back");
    assert_eq!(second.id, first.id);
    assert_ne!(second.token, first.token);
    assert_eq!(server.update(&first, "running", UpdateJob::default()).await.0, UpdateOutcome::Gone);
    assert_eq!(server.update(&second, "running", UpdateJob::default()).await.0, UpdateOutcome::Accepted);
    assert_eq!(server.status(pipeline, "a"), JobStatus::Running);
}

#[tokio::test]
async fn a_runner_that_cannot_confirm_gets_the_job_at_once() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    let mut request = job_request("");
    request.info.features.two_phase_job_commit = false;
    assert!(server.client.request_job(&server.runner, &request).await.unwrap().job.is_some());
    assert_eq!(server.status(pipeline, "a"), JobStatus::Running);
}

#[tokio::test]
async fn a_patch_elsewhere_is_told_where_to_go_on() {
    let server = Server::start().await;
    server.pipeline(&["test"], vec![job("a", "test")]);
    let job = server.take().await;
    assert_eq!(patch(&server, &job, 0, b"12345").await.0, PatchOutcome::Accepted);
    assert_eq!(patch(&server, &job, 0, b"12345").await.0, PatchOutcome::Resync(5));
    assert_eq!(patch(&server, &job, 9, b"x").await.0, PatchOutcome::Resync(5));
    assert_eq!(patch(&server, &job, 5, b"6").await.0, PatchOutcome::Accepted);
    assert_eq!(server.coordinator.read_trace(job.id, 0, 100).unwrap(), b"123456");
}

#[tokio::test]
async fn a_trace_that_is_not_the_runners_is_sent_again_from_the_beginning() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    let job = server.take().await;
    patch(&server, &job, 0, b"damaged").await;
    assert_eq!(server.update(&job, "success", facts(b"correct")).await.0, UpdateOutcome::TraceMismatch);
    assert_eq!(server.status(pipeline, "a"), JobStatus::Running);
    assert_eq!(patch(&server, &job, 0, b"correct").await.0, PatchOutcome::Accepted);
    assert_eq!(server.update(&job, "success", facts(b"correct")).await.0, UpdateOutcome::Accepted);
    assert_eq!(server.update(&job, "success", facts(b"correct")).await.0, UpdateOutcome::Accepted, "told twice");
    assert_eq!(server.update(&job, "failed", facts(b"correct")).await.0, UpdateOutcome::Gone, "told otherwise");
    let forbidden = patch(&server, &job, 7, b"x").await;
    assert_eq!(forbidden.0, PatchOutcome::Forbidden);
    assert_eq!(server.status(pipeline, "a"), JobStatus::Success);
}

#[tokio::test]
async fn a_trace_that_is_too_long_fails_its_job() {
    let server = Server::with(Settings { trace_limit: 10, ..quick() }).await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    let job = server.take().await;
    assert_eq!(patch(&server, &job, 0, b"1234567890").await.0, PatchOutcome::Accepted);
    assert_eq!(patch(&server, &job, 10, b"1").await, (PatchOutcome::Forbidden, RemoteState::Failed));
    let state = server.coordinator.pipeline(pipeline).unwrap();
    assert_eq!(state.jobs[0].failure_reason.as_deref(), Some("trace_size_exceeded"));
}

#[tokio::test]
async fn a_cancel_is_seen_in_every_answer_and_ends_with_the_runners_report() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["test", "later"], vec![job("a", "test"), job("b", "test"), job("c", "later")]);
    let taken = server.take().await;
    let on_trial = server.request().await.unwrap();
    server.coordinator.cancel_pipeline(pipeline).unwrap();
    let statuses: Vec<_> = server.statuses(pipeline).into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, [JobStatus::Canceling, JobStatus::Canceled, JobStatus::Canceled]);
    assert_eq!(patch(&server, &taken, 0, b"x").await, (PatchOutcome::Accepted, RemoteState::Canceling));
    assert_eq!(server.update(&taken, "running", UpdateJob::default()).await.1.remote, RemoteState::Canceling);
    let (outcome, hints) = server.update(&on_trial, "running", UpdateJob::default()).await;
    assert_eq!((outcome, hints.remote), (UpdateOutcome::Gone, RemoteState::Canceled));
    assert_eq!(server.coordinator.pipeline(pipeline).unwrap().status, PipelineStatus::Running);
    server.end(&taken, "failed").await;
    assert_eq!(server.status(pipeline, "a"), JobStatus::Canceled);
    assert_eq!(server.coordinator.pipeline(pipeline).unwrap().status, PipelineStatus::Canceled);
}

#[tokio::test]
async fn one_job_is_canceled_without_the_others() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["test", "later"], vec![job("a", "test"), job("b", "test"), job("c", "later")]);
    let [runs, goes_on] = [server.take().await, server.take().await];
    let cancel = |id| server.coordinator.cancel_job(id);
    cancel(runs.id).unwrap();
    assert_eq!(patch(&server, &runs, 0, b"x").await, (PatchOutcome::Accepted, RemoteState::Canceling));
    assert_eq!(patch(&server, &goes_on, 0, b"x").await, (PatchOutcome::Accepted, RemoteState::Running));
    server.end(&runs, "success").await;
    server.end(&goes_on, "success").await;
    // One that is over stays as it is.
    cancel(goes_on.id).unwrap();
    let statuses: Vec<_> = server.statuses(pipeline).into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, [JobStatus::Canceled, JobStatus::Success, JobStatus::Skipped]);
    let waits = server.coordinator.pipeline(server.pipeline(&["test"], vec![job("d", "test")])).unwrap().jobs[0].id;
    cancel(waits).unwrap();
    assert!(server.request().await.is_none() && cancel(u64::MAX >> 1).is_err());
}

#[tokio::test]
async fn a_job_whose_runner_is_silent_fails_as_stuck() {
    let server = Server::with(Settings { silence: Duration::from_millis(200), ..quick() }).await;
    let mut short = job("a", "test");
    short.timeout_seconds = Some(1);
    let pipeline = server.pipeline(&["test"], vec![short]);
    let taken = server.take().await;
    wait_for("the job to be given up", || server.status(pipeline, "a") == JobStatus::Failed).await;
    let state = server.coordinator.pipeline(pipeline).unwrap();
    assert_eq!(state.jobs[0].failure_reason.as_deref(), Some("stuck_or_timeout_failure"));
    let (outcome, hints) = server.update(&taken, "running", UpdateJob::default()).await;
    assert_eq!((outcome, hints.remote), (UpdateOutcome::Gone, RemoteState::Failed));
}

#[tokio::test]
async fn a_cancel_that_no_runner_answers_ends_without_it() {
    let server = Server::with(Settings { silence: Duration::from_millis(200), ..quick() }).await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    server.take().await;
    server.coordinator.cancel_pipeline(pipeline).unwrap();
    assert_eq!(server.status(pipeline, "a"), JobStatus::Canceling);
    wait_for("the job to be given up", || server.status(pipeline, "a") == JobStatus::Canceled).await;
}

#[tokio::test]
async fn wrong_inputs_are_refused_and_change_nothing() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["test"], vec![job("a", "test")]);
    let taken = server.take().await;
    let http = reqwest::Client::new();
    let (trace, update) = (format!("jobs/{}/trace", taken.id), format!("jobs/{}", taken.id));
    let big = vec![b'x'; 5 * 1024 * 1024];
    for (method, path, token, range, body, expected) in [
        ("PATCH", trace.as_str(), taken.token.as_str(), "0-4", b"12345".as_slice(), 202),
        ("PATCH", &trace, &taken.token, "5-5", b"12", 400),
        ("PATCH", &trace, &taken.token, "bytes 5-6", b"12", 400),
        ("PATCH", &trace, &taken.token, "0-18446744073709551615", b"", 400),
        ("PATCH", &trace, &taken.token, "", b"12", 400),
        ("PATCH", &trace, &taken.token, "5-5242884", &big, 413),
        ("PATCH", &trace, "wrong", "5-6", b"12", 403),
        ("PATCH", &trace, "", "5-6", b"12", 403),
        ("PATCH", "jobs/999/trace", &taken.token, "0-1", b"12", 404),
        ("PATCH", "jobs/abc/trace", &taken.token, "0-1", b"12", 400),
        ("PUT", &update, &taken.token, "", b"{", 400),
        ("PUT", &update, &taken.token, "", br#"{"state":"sleeping"}"#, 400),
        ("PUT", &update, "wrong", "", br#"{"state":"failed"}"#, 403),
        ("PUT", "jobs/999", &taken.token, "", br#"{"state":"failed"}"#, 404),
        ("PUT", &update, &taken.token, "", &big, 413),
        ("POST", "jobs/request", "", "", b"null", 400),
        ("POST", "jobs/request", "", "", br#"{"token":"' OR 1=1"}"#, 403),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = http.request(method, format!("{}/api/v4/{path}", server.url)).header("JOB-TOKEN", token);
        let request = if range.is_empty() { request } else { request.header("Content-Range", range) };
        let answer = request.body(body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path} {range} {}", body.len());
    }
    assert_eq!(server.coordinator.read_trace(taken.id, 0, 100).unwrap(), b"12345");
    assert_eq!(server.status(pipeline, "a"), JobStatus::Running);
}

#[tokio::test]
async fn a_coordinator_that_is_opened_again_goes_on() {
    let server = Server::start().await;
    let pipeline = server.pipeline(&["one", "two"], vec![job("a", "one"), job("b", "one"), job("c", "two")]);
    let a = server.take().await;
    let b = server.take().await;
    patch(&server, &a, 0, b"before ").await;
    server.end(&b, "success").await;
    let state = server.directory.path().join("state");
    // As if the process had been killed: nothing is closed in order, the files are what they are.
    let copy = server.directory.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-r").args([&state, &copy]).status().unwrap().success());
    let again = Coordinator::open(&copy).unwrap();
    let (url, serving) = serve(&again).await;
    let client = client(&url);
    let token = Secret::new(a.token.clone());
    assert_eq!(client.patch_trace(a.id, &token, Patch::at(0, b"x".as_slice())).await.unwrap().0, PatchOutcome::Resync(7));
    assert_eq!(client.patch_trace(a.id, &token, Patch::at(7, b"after".as_slice())).await.unwrap().0, PatchOutcome::Accepted);
    let body = UpdateJob { state: "success".into(), ..facts(b"before after") };
    assert_eq!(client.update_job(a.id, &token, &body).await.unwrap().0, UpdateOutcome::Accepted);
    let next = client.request_job(&server.runner, &job_request("")).await.unwrap().job.expect("the next stage has begun");
    assert_eq!((next.job_info.name.as_str(), next.job_info.pipeline_id), ("c", pipeline));
    serving.abort();
}

#[tokio::test]
async fn a_state_has_one_process() {
    let server = Server::start().await;
    let second = Coordinator::open(&server.directory.path().join("state"));
    assert!(matches!(second.err(), Some(coordinator::Error::InUse(_))));
}

#[tokio::test]
async fn a_hundred_megabytes_of_trace_arrive_byte_for_byte() {
    let server = Server::start().await;
    server.pipeline(&["test"], vec![job("a", "test")]);
    let job = server.take().await;
    let token = Secret::new(job.token.clone());
    let (mut checksum, mut length) = (crc32fast::Hasher::new(), 0);
    for number in 0..100_u8 {
        let piece: Vec<u8> = (0..1_048_576_u32).map(|at| (at as u8).wrapping_mul(7).wrapping_add(number)).collect();
        checksum.update(&piece);
        let (outcome, _) = server.client.patch_trace(job.id, &token, Patch::at(length, piece)).await.unwrap();
        assert_eq!(outcome, PatchOutcome::Accepted);
        length += 1_048_576;
    }
    let output = Output { checksum: Some(checksum_text(checksum.clone().finalize())), bytesize: length };
    let body = UpdateJob { output: Some(output), ..UpdateJob::default() };
    assert_eq!(server.update(&job, "success", body).await.0, UpdateOutcome::Accepted);
    let known = server.coordinator.trace_facts(job.id).unwrap();
    assert_eq!((known.bytes, known.crc32), (length, checksum.finalize()));
}

#[tokio::test]
async fn a_client_that_stands_still_in_its_body_is_let_go() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::with(Settings { idle: Duration::from_millis(300), ..quick() }).await;
    server.pipeline(&["test"], vec![job("a", "test")]);
    let job = server.take().await;
    let form = "Content-Type: multipart/form-data; boundary=B\r\n";
    for (call, more, begun) in [
        (format!("PATCH /api/v4/jobs/{}/trace", job.id), "Content-Range: 0-99\r\n", "half"),
        (format!("PUT /api/v4/jobs/{}", job.id), "", "{\"sta"),
        (format!("POST /api/v4/jobs/{}/artifacts", job.id), form, "--B\r\n"),
    ] {
        let mut peer = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
        let head = format!("{call} HTTP/1.1\r\nHost: x\r\nJOB-TOKEN: {}\r\n{more}Content-Length: 100\r\n\r\n{begun}", job.token);
        peer.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let length = tokio::time::timeout(Duration::from_secs(10), peer.read(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 408"), "{call}");
    }
}

#[tokio::test]
async fn many_runners_never_get_the_same_job() {
    let server = Server::start().await;
    server.pipeline(&["test"], (0..60).map(|index| job(&format!("job {index}"), "test")).collect());
    let asking = (0..16).map(|_| {
        let (client, runner) = (server.client.clone(), server.runner.clone());
        tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(job) = client.request_job(&runner, &job_request("")).await.unwrap().job {
                got.push(job.id);
            }
            got
        })
    });
    let mut all: Vec<u64> = futures::future::join_all(asking).await.into_iter().flat_map(Result::unwrap).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((count, all.len()), (60, 60));
}
