//! One pool, one retry rule, one way to read an answer.

use crate::{Call, Client, ClientConfig, ClientError, Hints};
use gitlab_api::headers;
use job::{RemoteState, Secret};
use reqwest::{RequestBuilder, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Limit of an ordinary call.
pub const CALL: Duration = Duration::from_secs(60);
/// Limit of a call that the server may hold (row "transport: timeouts": 10 min until the headers).
pub const LONG_CALL: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 5;
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The server may ask for another trace interval, up to this.
const LONGEST_INTERVAL: u64 = 15 * 60;
const LONGEST_MESSAGE: usize = 300;

/// TLS with these trust anchors, and nothing to show of our own.
pub fn tls(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    trusting(roots).with_no_client_auth()
}

fn trusting(roots: rustls::RootCertStore) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    // A second call finds the provider installed, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    rustls::ClientConfig::builder().with_root_certificates(roots)
}

/// TLS in which we show a certificate when the server asks for one.
fn tls_with((certificates, key): &(String, Secret), roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, ClientError> {
    let chain = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| ClientError::Identity(source.into()))?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|source| ClientError::Identity(source.into()))?;
    trusting(roots).with_client_auth_cert(chain, key).map_err(|source| ClientError::Identity(source.into()))
}

pub fn pool(config: &ClientConfig) -> Result<reqwest::Client, ClientError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).user_agent(config.user_agent.clone());
    if let Some(pem) = &config.ca_pem {
        for certificate in reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(ClientError::SetUp)? {
            builder = builder.add_root_certificate(certificate);
        }
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
    }
    // A job token must not follow a redirect to another host.
    let same_host = reqwest::redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().and_then(|url| url.host_str());
        if attempt.previous().len() <= MOST_REDIRECTS && first == attempt.url().host_str() {
            attempt.follow()
        } else {
            attempt.stop()
        }
    });
    let tls = match &config.identity {
        Some(identity) => tls_with(identity, roots)?,
        None => tls(roots),
    };
    builder.redirect(same_host).tls_backend_preconfigured(tls).build().map_err(ClientError::SetUp)
}

impl Client {
    /// Sends what `make` makes, again on short-lived trouble; the body is made anew for each try.
    pub(crate) async fn send(&self, call: &Call, make: impl Fn() -> RequestBuilder) -> Result<Response, ClientError> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let response = self.send_once(call, make()).await?;
            if attempt == TRIES || !is_short_lived(response.status().as_u16()) {
                return Ok(response);
            }
            let pause = retry_after(&response).unwrap_or(wait).min(LONGEST_WAIT);
            let (name, status, pause_ms) = (call.name(), response.status().as_u16(), pause.as_millis());
            tracing::debug!(call = name, status, pause_ms, "GitLab is busy");
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        unreachable!("the loop above ends with its last try")
    }

    /// Sends once: for calls whose caller has to know of every try, because one without an answer may have counted.
    pub(crate) async fn send_once(&self, call: &Call, request: RequestBuilder) -> Result<Response, ClientError> {
        let request_id = uuid::Uuid::new_v4().simple().to_string();
        let request = request.header(headers::REQUEST_ID, request_id);
        match &self.service {
            None => request.send().await.map_err(|source| call.transport(source)),
            Some(service) => service.carry(call, request).await,
        }
    }
}

fn is_short_lived(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504) || status >= 512
}

pub fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// How long the server wants to be left alone (row "transport: retry layer"). A time of day is held against the date of
/// the same answer, because our clock may be another.
pub fn retry_after(response: &Response) -> Option<Duration> {
    let date = |name| header(response, name).and_then(|text| httpdate::parse_http_date(text).ok());
    let now = date("Date").unwrap_or_else(SystemTime::now);
    let reset = date("RateLimit-ResetTime").and_then(|reset| reset.duration_since(now).ok()).filter(|wait| !wait.is_zero());
    reset.or_else(|| header(response, "Retry-After")?.trim().parse().ok().map(Duration::from_secs))
}

pub fn hints(response: &Response) -> Hints {
    let seconds = header(response, headers::TRACE_UPDATE_INTERVAL).and_then(|text| text.parse::<u64>().ok());
    let ended = header(response, headers::JOB_STATUS).is_some_and(|state| matches!(state, "success" | "failed" | "canceled"));
    Hints {
        ended,
        remote: header(response, headers::JOB_STATUS).map_or(RemoteState::Running, RemoteState::parse),
        update_interval: seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.min(LONGEST_INTERVAL))),
    }
}

/// The error for a status that the call does not allow, with the server's own words when it has some.
pub async fn unexpected(call: &Call, mut response: Response) -> ClientError {
    let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
    let mut body = Vec::new();
    while body.len() < 16 * 1024 {
        match tokio::time::timeout(Duration::from_secs(5), response.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let message =
        words(&body).map(|text| format!(" ({})", text.chars().take(LONGEST_MESSAGE).collect::<String>())).unwrap_or_default();
    ClientError::Status { call: call.name(), status, message, retry_after }
}

/// What an answer says in words: GitLab's JSON, where the words may belong to fields, or the XML of an object store.
fn words(body: &[u8]) -> Option<String> {
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return Some(match json.get("message")? {
            Value::Object(fields) => {
                let field = |(name, list): (&String, &Value)| {
                    let list = list.as_array().map(|list| list.iter().map(plain).collect::<Vec<_>>().join("; "));
                    format!("{name}: {}", list.unwrap_or_default())
                };
                fields.iter().map(field).collect::<Vec<_>>().join(", ")
            }
            other => plain(other),
        });
    }
    let text = std::str::from_utf8(body).ok().filter(|text| text.contains("<Error>"))?;
    let between = |name: &str| {
        let rest = &text[text.find(&format!("<{name}>"))? + name.len() + 2..];
        Some(&rest[..rest.find("</")?])
    };
    Some(format!("{}: {}", between("Code").unwrap_or_default(), between("Message").unwrap_or_default()))
}

/// Whether the body of an answer says that it is JSON.
pub fn is_json(response: &Response) -> bool {
    header(response, "Content-Type")
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
}

/// Where an answer sends us.
pub fn location(response: &Response) -> Option<reqwest::Url> {
    response.url().join(header(response, "Location")?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

#[cfg(test)]
mod tests {
    use super::{retry_after, words};
    use std::time::Duration;

    #[test]
    fn what_a_server_says_is_read_in_every_form_that_there_is() {
        for (body, expected) in [
            ("{\"message\": \"403 Forbidden\"}", Some("403 Forbidden")),
            (
                "{\"message\": {\"tag_list\": [\"is empty\", \"is odd\"], \"a\": [\"b\"]}}",
                Some("tag_list: is empty; is odd, a: b"),
            ),
            ("{\"error\": 1}", None),
            (
                "<?xml?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
                Some("AccessDenied: Request has expired"),
            ),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(words(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn the_server_says_how_long_it_wants_to_be_left_alone_whatever_our_clock_says() {
        let date = ("Date", "Tue, 01 Jan 2030 00:10:00 GMT");
        for (headers, expected) in [
            (vec![("Retry-After", "7")], Some(7)),
            (vec![date, ("RateLimit-ResetTime", "Tue, 01 Jan 2030 00:10:42 GMT"), ("Retry-After", "7")], Some(42)),
            (vec![date, ("RateLimit-ResetTime", "Tue, 01 Jan 2030 00:09:00 GMT"), ("Retry-After", "7")], Some(7)),
            (vec![("Retry-After", "soon")], None),
            (vec![], None),
        ] {
            let answer =
                headers.iter().fold(http::Response::builder().status(429), |answer, (name, text)| answer.header(*name, *text));
            let answer = reqwest::Response::from(answer.body("").unwrap());
            assert_eq!(retry_after(&answer), expected.map(Duration::from_secs), "{headers:?}");
        }
    }
}
