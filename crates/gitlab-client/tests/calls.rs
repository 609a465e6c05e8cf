//! Each call against a server in the test's process that keeps what it was asked, in virtual time.

use gitlab_api::runners::Registration;
use gitlab_api::{Info, JobRequest, UpdateJob, artifacts::UploadQuery};
use gitlab_client::{ArtifactError, Body, Client, ClientConfig, ClientError, Patch, PatchOutcome, Service, UpdateOutcome};
use job::{RemoteState, Secret};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A call as it came.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    at: Instant,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer to come.
struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn then(self, status: u16, headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.answers.lock().unwrap().push_back(Answer(status, headers, body.into()));
        self
    }

    fn then_json(self, status: u16, body: Value) -> Self {
        self.then(status, &[("Content-Type", "application/json")], body.to_string())
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = Service::new(move |request| server.clone().answer(request));
        let config =
            ClientConfig { url: "https://gitlab.example.com/ci/".into(), user_agent: "test".into(), ..ClientConfig::default() };
        Client::over(&config, service).unwrap()
    }

    async fn answer(self, request: http::Request<Body>) -> std::io::Result<http::Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = reqwest::Response::from(http::Response::new(body)).bytes().await.unwrap().to_vec();
        let headers = parts.headers.iter().map(|(key, value)| (key.to_string(), value.to_str().unwrap().to_owned())).collect();
        let asked = Asked { method: parts.method.to_string(), url: parts.uri.to_string(), headers, body, at: Instant::now() };
        self.asked.lock().unwrap().push(asked);
        let Answer(status, headers, body) = self.answers.lock().unwrap().pop_front().expect("an answer for this call");
        let response =
            headers.iter().fold(http::Response::builder().status(status), |made, (key, value)| made.header(*key, value));
        Ok(response.body(Body::from(body)).unwrap())
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The one call that there was.
    fn only(&self) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.into_iter().next().unwrap()
    }
}

fn token() -> Secret {
    Secret::new("glrt-token")
}

fn request() -> JobRequest {
    JobRequest { info: Info::of_kubernetes("1.0"), token: "glrt-token".into(), system_id: "s_1".into(), last_update: "v7".into() }
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_job_says_who_asks_and_brings_the_job_and_the_version_of_the_queue() {
    let headers = [("Content-Type", "application/json"), ("X-GitLab-Last-Update", "v8"), ("X-Request-Id", "theirs")];
    let server = Server::default().then(201, &headers, json!({"id": 3, "token": "t", "unknown": {}}).to_string());
    let answer = server.client().request_job(&token(), &request()).await.unwrap();
    assert_eq!(
        (answer.job.unwrap().id, answer.last_update.as_deref(), answer.correlation_id.as_str()),
        (3, Some("v8"), "theirs")
    );
    let asked = server.only();
    assert_eq!((asked.method.as_str(), asked.url.as_str()), ("POST", "https://gitlab.example.com/api/v4/jobs/request"));
    assert_eq!((asked.header("RUNNER-TOKEN"), asked.header("Content-Type")), (Some("glrt-token"), Some("application/json")));
    assert_eq!(asked.header("Accept"), Some("application/json"));
    let id = asked.header("X-Request-Id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let body = asked.json();
    assert_eq!((&body["token"], &body["system_id"], &body["last_update"]), (&json!("glrt-token"), &json!("s_1"), &json!("v7")));
    assert_eq!((&body["info"]["features"]["two_phase_job_commit"], &body["info"]["config"]["gpus"]), (&json!(true), &json!("")));
}

#[tokio::test(start_paused = true)]
async fn statuses_of_a_request_for_a_job_are_told_apart() {
    let server = Server::default().then(204, &[("X-GitLab-Last-Update", "v9")], "").then(403, &[], "").then(501, &[], "").then(
        201,
        &[("Content-Type", "text/html")],
        "<html>",
    );
    let client = server.client();
    let empty = client.request_job(&token(), &request()).await.unwrap();
    assert_eq!((empty.job.is_none(), empty.last_update.as_deref()), (true, Some("v9")));
    assert!(matches!(client.request_job(&token(), &request()).await, Err(ClientError::Forbidden { .. })));
    assert!(matches!(client.request_job(&token(), &request()).await, Err(ClientError::Status { status: 501, .. })));
    assert!(matches!(client.request_job(&token(), &request()).await, Err(ClientError::Unreadable { .. })));
}

#[tokio::test(start_paused = true)]
async fn short_lived_trouble_is_tried_five_times_and_the_server_says_when() {
    let server = [503, 429, 408, 599].into_iter().fold(Server::default(), |server, status| server.then(status, &[], ""));
    let server = server.then(500, &[], "");
    assert!(matches!(server.client().request_job(&token(), &request()).await, Err(ClientError::Status { status: 500, .. })));
    let at: Vec<_> = server.asked().iter().map(|asked| asked.at).collect();
    assert_eq!(at.len(), 5);
    let ids: std::collections::HashSet<_> =
        server.asked().iter().map(|asked| asked.header("X-Request-Id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5, "every call has a number of its own");
    for status in [501, 505, 511] {
        let server = Server::default().then(status, &[], "");
        assert!(server.client().request_job(&token(), &request()).await.is_err());
        server.only();
    }
    let server = Server::default().then(429, &[("Retry-After", "7")], "").then(204, &[], "");
    let begun = Instant::now();
    server.client().request_job(&token(), &request()).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn an_update_says_how_the_job_ended_and_its_answers_are_told_apart() {
    let hints = [("Job-Status", "canceling"), ("X-GitLab-Trace-Update-Interval", "30")];
    let server = Server::default().then(200, &hints, "200");
    let output = gitlab_api::Output { checksum: Some("crc32:0000002a".into()), bytesize: 5 };
    let body = UpdateJob {
        info: Info::of_kubernetes("1.0"),
        token: "job".into(),
        state: "failed".into(),
        failure_reason: Some("script_failure".into()),
        checksum: output.checksum.clone(),
        output: Some(output),
        exit_code: Some(42),
    };
    let (outcome, told) = server.client().update_job(9, &Secret::new("job"), &body).await.unwrap();
    assert_eq!(
        (outcome, told.remote, told.update_interval),
        (UpdateOutcome::Accepted, RemoteState::Canceling, Some(Duration::from_secs(30)))
    );
    let asked = server.only();
    assert_eq!((asked.method.as_str(), asked.url.as_str()), ("PUT", "https://gitlab.example.com/api/v4/jobs/9"));
    assert_eq!(asked.header("JOB-TOKEN"), Some("job"));
    let sent = asked.json();
    assert_eq!(
        (&sent["state"], &sent["failure_reason"], &sent["exit_code"]),
        (&json!("failed"), &json!("script_failure"), &json!(42))
    );
    assert_eq!(
        (&sent["output"], &sent["checksum"]),
        (&json!({"checksum": "crc32:0000002a", "bytesize": 5}), &json!("crc32:0000002a"))
    );
    assert_eq!(sent["info"]["features"]["cancel_gracefully"], true);
    for (status, expected) in [
        (202, UpdateOutcome::StillChecking),
        (412, UpdateOutcome::TraceMismatch),
        (403, UpdateOutcome::Gone),
        (404, UpdateOutcome::Gone),
    ] {
        let server = Server::default().then(status, &[], "");
        let running = UpdateJob { state: "running".into(), ..UpdateJob::default() };
        assert_eq!(server.client().update_job(9, &Secret::new("job"), &running).await.unwrap().0, expected);
        let sent = server.only().json();
        assert!(["failure_reason", "exit_code", "output", "checksum"].iter().all(|name| sent.get(name).is_none()), "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_is_tried_again_while_gitlab_is_busy_and_one_that_is_to_be_sent_once_is_not() {
    let report = UpdateJob { state: "success".into(), ..UpdateJob::default() };
    let server = Server::default().then(503, &[], "").then(200, &[], "");
    assert_eq!(server.client().update_job(9, &Secret::new("job"), &report).await.unwrap().0, UpdateOutcome::Accepted);
    let server = Server::default().then(503, &[("Retry-After", "7")], "");
    let error = server.client().update_job_once(9, &Secret::new("job"), &report).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    server.only();
}

#[tokio::test(start_paused = true)]
async fn a_piece_of_a_trace_says_where_it_belongs_and_its_answers_are_told_apart() {
    for (status, headers, expected) in [
        (202, &[][..], PatchOutcome::Accepted),
        (416, &[("Range", "0-77")][..], PatchOutcome::Resync(77)),
        (404, &[][..], PatchOutcome::Gone),
        (403, &[][..], PatchOutcome::Forbidden),
    ] {
        let server = Server::default().then(status, headers, "");
        let patch = Patch { debug_trace: status == 202, ..Patch::at(10, &b"hello"[..]) };
        assert_eq!(server.client().patch_trace(9, &Secret::new("job"), patch).await.unwrap().0, expected);
        let asked = server.only();
        let url = format!("https://gitlab.example.com/api/v4/jobs/9/trace?debug_trace={}", status == 202);
        assert_eq!((asked.method.as_str(), &asked.url, &asked.body[..]), ("PATCH", &url, &b"hello"[..]));
        assert_eq!((asked.header("Content-Range"), asked.header("Content-Type")), (Some("10-14"), Some("text/plain")));
        assert_eq!(asked.header("JOB-TOKEN"), Some("job"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_interval_of_a_trace_is_a_number_of_seconds_within_bounds() {
    for (text, expected) in [("60", Some(60)), ("0", None), ("-3", None), ("soon", None), ("99999", Some(900))] {
        let server = Server::default().then(202, &[("X-GitLab-Trace-Update-Interval", text)], "");
        let (_, hints) = server.client().patch_trace(9, &Secret::new("job"), Patch::at(0, &b"x"[..])).await.unwrap();
        assert_eq!(hints.update_interval.map(|interval| interval.as_secs()), expected, "{text}");
    }
    for (text, expected) in [
        ("running", RemoteState::Running),
        ("canceling", RemoteState::Canceling),
        ("canceled", RemoteState::Canceled),
        ("failed", RemoteState::Failed),
    ] {
        let server = Server::default().then(202, &[("Job-Status", text)], "");
        let (_, hints) = server.client().patch_trace(9, &Secret::new("job"), Patch::at(0, &b"x"[..])).await.unwrap();
        assert_eq!(hints.remote, expected);
    }
}

fn archive(directory: &std::path::Path) -> std::path::PathBuf {
    let path = directory.join("archive");
    std::fs::write(&path, "content of the archive").unwrap();
    path
}

async fn upload(server: &Server) -> Result<(), ArtifactError> {
    let directory = tempfile::tempdir().unwrap();
    let query = UploadQuery { artifact_format: "zip".into(), artifact_type: "archive".into(), expire_in: "1 week".into() };
    server.client().upload_artifact((9, &Secret::new("job")), &query, "artifacts.zip", &archive(directory.path())).await
}

#[tokio::test(start_paused = true)]
async fn an_archive_goes_up_as_a_form_and_follows_the_server_to_another_host() {
    let place = "https://other.example.com/api/v4/jobs/9/artifacts";
    let server = Server::default().then(307, &[("Location", place)], "").then(201, &[], "");
    upload(&server).await.unwrap();
    let asked = server.asked();
    let query = "?artifact_format=zip&artifact_type=archive&expire_in=1+week";
    assert_eq!(asked[0].url, format!("https://gitlab.example.com/api/v4/jobs/9/artifacts{query}"));
    assert_eq!(asked[1].url, format!("{place}{query}"));
    for one in asked {
        assert_eq!((one.method.as_str(), one.header("JOB-TOKEN")), ("POST", Some("job")));
        assert!(one.header("Content-Type").unwrap().starts_with("multipart/form-data; boundary="));
        let body = String::from_utf8(one.body).unwrap();
        assert!(body.contains("name=\"file\"; filename=\"artifacts.zip\""), "{body}");
        assert!(body.contains("application/octet-stream") && body.contains("content of the archive"), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_tried_as_often_as_its_answer_makes_sense() {
    let many = |status: u16, times: usize| (0..times).fold(Server::default(), |server, _| server.then(status, &[], ""));
    for (status, tries) in [(503, 6), (500, 3), (403, 1), (413, 1)] {
        let server = many(status, tries);
        let error = upload(&server).await.unwrap_err();
        assert_eq!(server.asked().len(), tries, "{status}: {error}");
    }
    let circle = (0..10).fold(Server::default(), |server, _| server.then(307, &[("Location", "https://a.example.com/x")], ""));
    assert!(matches!(upload(&circle).await, Err(ArtifactError::Refused { status: 307, .. })));
}

async fn download(server: &Server, direct: bool) -> Result<String, ArtifactError> {
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("into");
    server.client().download_artifact((8, &Secret::new("of-dependency")), direct, &into).await?;
    Ok(std::fs::read_to_string(into).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_download_may_be_sent_to_where_the_archive_lies_and_takes_no_token_there() {
    let place = "https://storage.example.com/bucket/key?signature=x";
    let server = Server::default().then(302, &[("Location", place)], "").then(200, &[], "archive");
    assert_eq!(download(&server, true).await.unwrap(), "archive");
    let asked = server.asked();
    assert_eq!(asked[0].url, "https://gitlab.example.com/api/v4/jobs/8/artifacts?direct_download=true");
    assert_eq!((asked[0].header("JOB-TOKEN"), asked[1].header("JOB-TOKEN")), (Some("of-dependency"), None));
    assert_eq!((asked[1].method.as_str(), asked[1].url.as_str()), ("GET", place));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_try_of_a_download_is_direct_and_a_refusal_is_final_with_its_words() {
    let server = Server::default().then(500, &[], "").then(500, &[], "").then(200, &[], "archive");
    let begun = Instant::now();
    assert_eq!(download(&server, true).await.unwrap(), "archive");
    assert_eq!(begun.elapsed().as_secs(), 2);
    let direct: Vec<_> = server.asked().iter().map(|asked| asked.url.ends_with("?direct_download=true")).collect();
    assert_eq!(direct, [true, false, false]);
    let xml = "<Error><Code>AccessDenied</Code><Message>expired</Message></Error>";
    let place = [("Location", "https://storage.example.com/x")];
    for (server, words) in [
        (Server::default().then_json(403, json!({"message": "403 Forbidden"})), "(403 Forbidden)"),
        (Server::default().then(302, &place, "").then(403, &[], xml), "(AccessDenied: expired)"),
        (Server::default().then(401, &[], ""), "(status 401)"),
    ] {
        let error = download(&server, true).await.unwrap_err();
        assert!(error.is_final() && error.to_string().contains(words), "{error}");
    }
    assert!(matches!(download(&Server::default().then(404, &[], ""), true).await, Err(ArtifactError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_registered_with_what_was_said_of_it() {
    let server = Server::default().then_json(201, json!({"id": 5, "token": "glrt-new", "token_expires_at": null}));
    let registration =
        Registration { token: "reg".into(), tag_list: "a,b".into(), run_untagged: true, ..Registration::default() };
    let registered = server.client().register_runner(&registration).await.unwrap();
    assert_eq!((registered.id, registered.token.as_str(), registered.token_expires_at), (5, "glrt-new", None));
    let asked = server.only();
    assert_eq!((asked.method.as_str(), asked.url.as_str()), ("POST", "https://gitlab.example.com/api/v4/runners"));
    assert_eq!(asked.header("RUNNER-TOKEN"), Some("reg"));
    let sent = asked.json();
    assert_eq!(
        (&sent["tag_list"], &sent["run_untagged"], &sent["locked"], &sent["paused"]),
        (&json!("a,b"), &json!(true), &json!(false), &json!(false))
    );
    assert!(["description", "maintenance_note", "access_level", "maximum_timeout"].iter().all(|name| sent.get(name).is_none()));
    let refused = Server::default().then(403, &[], "");
    assert!(matches!(refused.client().register_runner(&registration).await, Err(ClientError::Forbidden { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_verified_by_any_200_and_unknown_by_403_only() {
    let info = Info::of_kubernetes("1.0");
    let server = Server::default()
        .then_json(200, json!({"id": 5, "token": "glrt-token", "token_expires_at": "2030-01-01T00:00:00Z"}))
        .then(200, &[("Content-Type", "text/plain")], "200")
        .then(403, &[], "")
        .then(501, &[], "");
    let client = server.client();
    let known = client.verify_runner(&token(), &info, "s_1").await.unwrap().unwrap();
    assert_eq!((known.id, known.token_expires_at.as_deref()), (5, Some("2030-01-01T00:00:00Z")));
    assert_eq!(client.verify_runner(&token(), &info, "s_1").await.unwrap().unwrap().id, 0);
    assert!(client.verify_runner(&token(), &info, "s_1").await.unwrap().is_none());
    assert!(client.verify_runner(&token(), &info, "s_1").await.is_err());
    let sent = server.asked()[0].json();
    assert_eq!((&sent["token"], &sent["system_id"]), (&json!("glrt-token"), &json!("s_1")));
    assert_eq!(sent["info"]["features"]["cancel_gracefully"], true);
}

#[tokio::test(start_paused = true)]
async fn a_runner_or_one_of_its_managers_is_taken_away() {
    let server = Server::default().then(204, &[], "").then(204, &[], "").then(403, &[], "");
    let client = server.client();
    client.unregister_runner(&token()).await.unwrap();
    client.unregister_manager(&token(), "s_1").await.unwrap();
    assert!(matches!(client.unregister_runner(&token()).await, Err(ClientError::Forbidden { .. })));
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].url.as_str()), ("DELETE", "https://gitlab.example.com/api/v4/runners"));
    assert_eq!((asked[0].header("RUNNER-TOKEN"), asked[0].json()), (Some("glrt-token"), json!({"token": "glrt-token"})));
    assert_eq!(asked[1].url, "https://gitlab.example.com/api/v4/runners/managers");
    assert_eq!(asked[1].json(), json!({"token": "glrt-token", "system_id": "s_1"}));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_by_its_runner_or_by_a_person() {
    let answer = || json!({"token": "glrt-next", "token_expires_at": "2030-01-01T00:00:00Z"});
    let server = Server::default().then_json(201, answer()).then_json(201, answer()).then(403, &[], "");
    let client = server.client();
    assert_eq!(client.reset_token(&token()).await.unwrap().token, "glrt-next");
    assert_eq!(client.reset_token_as(7, &Secret::new("glpat-x")).await.unwrap().token, "glrt-next");
    assert!(matches!(client.reset_token_as(7, &Secret::new("glpat-y")).await, Err(ClientError::Forbidden { .. })));
    let asked = server.asked();
    assert_eq!(asked[0].url, "https://gitlab.example.com/api/v4/runners/reset_authentication_token");
    assert_eq!((asked[0].header("RUNNER-TOKEN"), asked[0].json()), (None, json!({"token": "glrt-token"})));
    assert_eq!(asked[1].url, "https://gitlab.example.com/api/v4/runners/7/reset_authentication_token");
    assert_eq!((asked[1].header("PRIVATE-TOKEN"), asked[1].body.is_empty()), (Some("glpat-x"), true));
}

#[test]
fn an_address_is_taken_without_its_ends_and_only_for_http() {
    for (url, good) in
        [("https://a.example.com/", true), ("http://a/gitlab/ci", true), ("ftp://a", false), ("a.example.com", false)]
    {
        let config = ClientConfig { url: url.into(), ..ClientConfig::default() };
        assert_eq!(Client::new(&config).is_ok(), good, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = Service::new(|_| std::future::pending());
    let config = ClientConfig { url: "https://gitlab.example.com".into(), ..ClientConfig::default() };
    let client = Client::over(&config, silent).unwrap();
    let begun = Instant::now();
    let lost = |error: ClientError| matches!(error, ClientError::Transport { .. });
    assert!(lost(client.update_job(9, &Secret::new("job"), &UpdateJob::default()).await.unwrap_err()));
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert!(lost(client.request_job(&token(), &request()).await.unwrap_err()));
    assert_eq!(begun.elapsed().as_secs(), 60 + 600);
}
