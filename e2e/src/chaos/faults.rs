//! What can befall one single request: the others pass meanwhile, so a client meets trouble in the middle of a
//! conversation, not at its beginning alone.
//!
//! Where GitLab has an answer for it, the answer is made by the coordinator itself from a request that deserves it, so
//! that its headers are true: a patch that begins too late is sent back by 416, a final update is looked at as a sign
//! of life.

use super::dice::Dice;
use super::line::Cut;
use anyhow::{Context, Result};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// Longest body of a request about a job.
pub const BODY: usize = 64 * 1024 * 1024;
/// Longest time that a slow answer takes.
const SLOW: Duration = Duration::from_secs(5);
/// How far behind its place a patch begins that is to be sent back: behind the end of any trace.
const FAR: u64 = 1 << 40;
/// Half of an answer is on its way before the connection is cut.
const HALF: Duration = Duration::from_millis(50);
/// Longest interval that a GitLab that is still busy with a trace asks for, in seconds.
const INTERVAL: u64 = 3;

/// What a request is about, as far as faults differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// More of a trace.
    Patch,
    /// The end of a job.
    End,
    /// Something else.
    Other,
}

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500.
    Error,
    /// 429 with `Retry-After`.
    Busy,
    /// The answer comes late.
    Slow(Duration),
    /// The connection is closed, and nothing was done.
    Closed,
    /// It was done, and the connection closed without an answer.
    AnswerLost,
    /// It was done, and the connection closed in the middle of the answer.
    HalfAnswer,
    /// 416: the trace goes on elsewhere.
    Elsewhere,
    /// 202: GitLab still works on the trace, and asks for another update after a while.
    StillChecking,
}

impl Fault {
    /// Some fault that fits.
    pub fn any(dice: &mut Dice, asked: Asked) -> Self {
        let slow = Self::Slow(dice.time(SLOW));
        let mut all = vec![Self::Error, Self::Busy, slow, Self::Closed, Self::AnswerLost, Self::HalfAnswer];
        match asked {
            Asked::Patch => all.push(Self::Elsewhere),
            // As often as all others together: a job has one end only.
            Asked::End => all.extend([Self::StillChecking; 6]),
            Asked::Other => {}
        }
        dice.pick(&all).copied().unwrap_or(Self::Error)
    }

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "500",
            Self::Busy => "429",
            Self::Slow(_) => "slow",
            Self::Closed => "closed before",
            Self::AnswerLost => "answer lost",
            Self::HalfAnswer => "half an answer",
            Self::Elsewhere => "416",
            Self::StillChecking => "202",
        }
    }

    /// Answers a request in this way; `carry` is what GitLab does with it.
    ///
    /// # Errors
    /// When the request cannot be read, or as `carry`.
    pub async fn answer(
        self,
        request: Request,
        cut: &Cut,
        carry: impl AsyncFnOnce(Request) -> Result<Response>,
    ) -> Result<Response> {
        Ok(match self {
            Self::Error => (StatusCode::INTERNAL_SERVER_ERROR, "500 on purpose\n").into_response(),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "429 on purpose\n").into_response(),
            Self::Slow(time) => {
                tokio::time::sleep(time).await;
                carry(request).await?
            }
            Self::Closed => {
                cut.now();
                StatusCode::BAD_GATEWAY.into_response()
            }
            Self::AnswerLost => {
                let answer = carry(request).await?;
                cut.now();
                answer
            }
            Self::HalfAnswer => half(carry(request).await?, cut.clone()).await?,
            Self::Elsewhere => carry(later(request)).await?,
            Self::StillChecking => still_checking(carry(alive(request).await?).await?),
        })
    }
}

/// What a request is about, and the request as it was.
///
/// # Errors
/// When its body cannot be read.
pub async fn asked(request: Request) -> Result<(Asked, Request)> {
    let rest = request.uri().path().strip_prefix("/api/v4/jobs/").unwrap_or_default();
    let is_patch = request.method() == Method::PATCH && rest.ends_with("/trace");
    if request.method() != Method::PUT || rest.parse::<u64>().is_err() {
        return Ok((if is_patch { Asked::Patch } else { Asked::Other }, request));
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.context("failed to read an update")?;
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = if told["state"] == "running" { Asked::Other } else { Asked::End };
    Ok((asked, Request::from_parts(parts, Body::from(body))))
}

/// The same patch, far behind where it belongs.
fn later(mut request: Request) -> Request {
    let range = request.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()?.split_once('-'));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    if let Some((start, end)) = range.and_then(|(start, end)| number(start).zip(number(end)))
        && let Ok(moved) = HeaderValue::from_str(&format!("{}-{}", start + FAR, end + FAR))
    {
        request.headers_mut().insert(header::CONTENT_RANGE, moved);
    }
    request
}

/// A sign of life in place of an end.
async fn alive(request: Request) -> Result<Request> {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.context("failed to read an update")?;
    let mut told: serde_json::Value = serde_json::from_slice(&body)?;
    told["state"] = "running".into();
    let body = serde_json::to_vec(&told)?;
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn still_checking(mut answer: Response) -> Response {
    // One whose job is over is refused as it would be.
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::ACCEPTED;
        answer.headers_mut().insert("x-gitlab-trace-update-interval", INTERVAL.into());
    }
    answer
}

/// The first half of the body, and then nothing more.
async fn half(answer: Response, cut: Cut) -> Result<Response> {
    let (mut parts, body) = answer.into_parts();
    let body = to_bytes(body, BODY).await.context("failed to read an answer")?;
    if body.is_empty() {
        cut.now();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let first = body.slice(..body.len() / 2);
    let rest = async move {
        tokio::time::sleep(HALF).await;
        cut.now();
        Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
    };
    let pieces = futures::StreamExt::chain(futures::stream::iter([Ok(first)]), futures::stream::once(rest));
    Ok(Response::from_parts(parts, Body::from_stream(pieces)))
}

#[cfg(test)]
mod tests {
    use super::{Asked, Fault, INTERVAL, asked};
    use crate::chaos::dice::Dice;
    use crate::chaos::line::{Lines, Peer};
    use axum::body::Body;
    use axum::extract::{ConnectInfo, Request};
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// All that a client reads until the connection ends, and whether the request was carried out.
    async fn meets(fault: Fault) -> (String, bool) {
        let carried = Arc::new(AtomicBool::new(false));
        let shared = carried.clone();
        let app = axum::Router::new().fallback(move |ConnectInfo(peer): ConnectInfo<Peer>, request: Request| {
            let shared = shared.clone();
            async move {
                let carry = async |_| {
                    shared.store(true, Ordering::Relaxed);
                    Ok("0123456789".into_response())
                };
                fault.answer(request, &peer.cut, carry).await.unwrap()
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let service = app.into_make_service_with_connect_info::<Peer>();
        tokio::spawn(async move { axum::serve(Lines(listener), service).await });
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        // A reset is an end, too.
        let read = tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut said)).await;
        assert!(read.is_ok(), "the connection is not closed");
        (String::from_utf8(said).unwrap(), carried.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_client_sees_each_fault_as_its_name_says() {
        let (error, carried) = meets(Fault::Error).await;
        assert!(error.starts_with("HTTP/1.1 500") && !carried, "{error}");
        let (busy, carried) = meets(Fault::Busy).await;
        assert!(busy.starts_with("HTTP/1.1 429") && busy.contains("retry-after: 1") && !carried, "{busy}");
        assert_eq!(meets(Fault::Closed).await, (String::new(), false));
        assert_eq!(meets(Fault::AnswerLost).await, (String::new(), true));
        let (half, carried) = meets(Fault::HalfAnswer).await;
        assert!(half.contains("content-length: 10") && half.ends_with("\r\n\r\n01234") && carried, "{half}");
        let (slow, carried) = meets(Fault::Slow(Duration::from_millis(1))).await;
        assert!(slow.ends_with("0123456789") && carried, "{slow}");
    }

    fn request(method: &str, path: &str, body: &'static str) -> Request {
        let request = Request::builder().method(method).uri(path).header("content-range", "5-6");
        request.body(Body::from(body)).unwrap()
    }

    #[tokio::test]
    async fn what_a_request_is_about_is_seen() {
        for (method, path, body, expected) in [
            ("PATCH", "/api/v4/jobs/3/trace", "xy", Asked::Patch),
            ("PUT", "/api/v4/jobs/3", "{\"state\":\"success\"}", Asked::End),
            ("PUT", "/api/v4/jobs/3", "{\"state\":\"running\"}", Asked::Other),
            ("POST", "/api/v4/jobs/request", "{}", Asked::Other),
            ("POST", "/api/v4/jobs/3/artifacts", "x", Asked::Other),
        ] {
            let (seen, same) = asked(request(method, path, body)).await.unwrap();
            assert_eq!(seen, expected, "{method} {path}");
            assert_eq!(axum::body::to_bytes(same.into_body(), 99).await.unwrap(), body);
        }
    }

    /// The answer, and the range and body that were carried.
    async fn carried(fault: Fault, request: Request) -> (Response, String, String) {
        let (mut range, mut body) = (String::new(), String::new());
        let carry = async |request: Request| {
            range = request.headers()["content-range"].to_str().unwrap().to_owned();
            body = String::from_utf8(axum::body::to_bytes(request.into_body(), 99).await.unwrap().to_vec()).unwrap();
            Ok("200".into_response())
        };
        let answer = fault.answer(request, &crate::chaos::line::Cut::default(), carry).await.unwrap();
        (answer, range, body)
    }

    #[tokio::test]
    async fn gitlab_itself_refuses_a_patch_and_looks_at_an_end_as_a_sign_of_life() {
        let (_, range, _) = carried(Fault::Elsewhere, request("PATCH", "/api/v4/jobs/3/trace", "xy")).await;
        assert_eq!(range, "1099511627781-1099511627782");
        let end = request("PUT", "/api/v4/jobs/3", "{\"state\":\"failed\"}");
        let (answer, _, body) = carried(Fault::StillChecking, end).await;
        assert_eq!((answer.status(), body.as_str()), (StatusCode::ACCEPTED, "{\"state\":\"running\"}"));
        assert_eq!(answer.headers()["x-gitlab-trace-update-interval"], INTERVAL.to_string());
    }

    #[test]
    fn each_fault_comes_where_it_fits_and_nowhere_else() {
        let mut dice = Dice::new(1);
        let mut names = |asked| {
            let mut all: Vec<_> = (0..500).map(|_| Fault::any(&mut dice, asked).name()).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        assert_eq!(names(Asked::Other), ["429", "500", "answer lost", "closed before", "half an answer", "slow"]);
        assert!(names(Asked::Patch).contains(&"416") && !names(Asked::Patch).contains(&"202"));
        assert!(names(Asked::End).contains(&"202") && !names(Asked::End).contains(&"416"));
    }
}
