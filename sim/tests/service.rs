//! The client over a service in the same process: the very requests, and the same limits, in virtual time.

use futures::stream;
use gitlab_api::{JobRequest, UpdateJob, headers};
use gitlab_client::{Body, Client, ClientConfig, ClientError, Service, UpdateOutcome};
use job::Secret;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn client(service: Service) -> Client {
    let config = ClientConfig { url: "http://gitlab".to_owned(), ..ClientConfig::default() };
    Client::over(&config, service).unwrap()
}

fn answer(status: u16, body: impl Into<Body>) -> std::io::Result<http::Response<Body>> {
    Ok(http::Response::builder().status(status).body(body.into()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_the_very_request_and_is_asked_again_when_it_is_busy() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let service = Service::new(async |request: http::Request<Body>| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("PUT", "/api/v4/jobs/7"));
        assert_eq!(request.headers()[headers::JOB_TOKEN], "token");
        let body = request.body().as_bytes().unwrap();
        assert!(body.windows(9).any(|window| window == b"\"running\""));
        answer(if ASKED.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 }, "")
    });
    let body = UpdateJob { state: "running".to_owned(), ..UpdateJob::default() };
    let (outcome, _) = client(service).update_job(7, &Secret::new("token"), &body).await.unwrap();
    assert_eq!((outcome, ASKED.load(Ordering::Relaxed)), (UpdateOutcome::Accepted, 2));
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_of_a_call_holds_for_its_headers_and_for_its_body() {
    let begun = tokio::time::Instant::now();
    let silent = client(Service::new(|_| std::future::pending()));
    let asked = silent.request_job(&Secret::new("token"), &JobRequest::default()).await;
    assert!(matches!(asked, Err(ClientError::Transport { .. })), "{asked:?}");
    let stuck = client(Service::new(async |_| answer(201, Body::wrap_stream(stream::pending::<std::io::Result<&str>>()))));
    let asked = stuck.request_job(&Secret::new("token"), &JobRequest::default()).await;
    assert!(matches!(asked, Err(ClientError::Unreadable { .. })), "{asked:?}");
    assert_eq!(begun.elapsed().as_secs(), Duration::from_secs(1200).as_secs());
}
