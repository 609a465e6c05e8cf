//! Requests to one registry, with the credentials of one pull.
//!
//! Written out here rather than left to a client library, because whoever names an image chooses the registry: every answer,
//! the errors and tokens among them, is read up to a bound, and credentials go over TLS wherever the registry is asked so.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{RegistryAuth, StoreOptions};

const CONNECT: Duration = Duration::from_secs(15);
/// A registry that says nothing for so long has gone away.
const SILENCE: Duration = Duration::from_secs(60);
/// Tokens and error messages.
const ANSWER_BYTES: u64 = 256 << 10;

/// Why a request gave nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Credentials are missing, wrong, or not enough.
    Unauthorized,
    /// There is no such thing.
    NotFound,
    /// The way there, or the registry itself; may pass.
    Broken(String),
    /// An answer that is none.
    Nonsense(String),
}

/// A registry's address and a client for it.
pub(super) struct Transport {
    client: reqwest::Client,
    base: String,
    auth: Option<RegistryAuth>,
    /// The header that worked last.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, query: Vec<(&'static str, String)> },
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Transport {
    /// Nothing is sent yet. Loopback and the registries named insecure are spoken to without TLS, all others with.
    pub(super) fn new(registry: &str, options: &StoreOptions, auth: Option<&RegistryAuth>) -> Result<Transport, Trouble> {
        // without it there is no TLS at all; somebody else may have chosen one before, which is as good
        drop(rustls::crypto::ring::default_provider().install_default());
        let loopback = is_loopback(registry);
        let insecure = loopback || options.insecure_registries.iter().any(|it| it == registry);
        let mut builder =
            reqwest::Client::builder().user_agent("gantry").connect_timeout(CONNECT).read_timeout(SILENCE).https_only(!insecure);
        if loopback {
            builder = builder.no_proxy();
        }
        if let Some(pem) = &options.ca_pem {
            for certificate in reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(broken)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let scheme = if insecure { "http" } else { "https" };
        let base = format!("{scheme}://{registry}/v2/");
        Ok(Transport { client: builder.build().map_err(broken)?, base, auth: auth.cloned(), authorization: Mutex::default() })
    }

    /// The answer to a GET of `path` below `/v2/`, whose body is still to be read.
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<reqwest::Response, Trouble> {
        let mut used = self.authorization.lock().await.clone();
        let mut response = self.send(path, accept, used.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            used = Some(self.authorize(response.headers(), used.as_ref()).await?);
            response = self.send(path, accept, used.as_ref()).await?;
        }
        check(response).await
    }

    async fn send(&self, path: &str, accept: &str, authorization: Option<&HeaderValue>) -> Result<reqwest::Response, Trouble> {
        let mut request = self.client.get(format!("{}{path}", self.base)).header(ACCEPT, accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(broken)
    }

    /// A header that answers the challenge in `headers`, other than the one that was `refused`.
    async fn authorize(&self, headers: &HeaderMap, refused: Option<&HeaderValue>) -> Result<HeaderValue, Trouble> {
        let mut current = self.authorization.lock().await;
        if let Some(newer) = current.as_ref().filter(|it| Some(*it) != refused) {
            return Ok(newer.clone());
        }
        let mut value = match challenge(headers).ok_or(Trouble::Unauthorized)? {
            Challenge::Basic => {
                let auth = self.auth.as_ref().ok_or(Trouble::Unauthorized)?;
                let request = self.client.get(&self.base).basic_auth(&auth.username, Some(&auth.password)).build();
                request.map_err(broken)?.headers().get(AUTHORIZATION).cloned().ok_or(Trouble::Unauthorized)?
            }
            Challenge::Bearer { realm, query } => {
                let token = self.token(&realm, &query).await?;
                HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| Trouble::Nonsense("a token is no header".to_owned()))?
            }
        };
        value.set_sensitive(true);
        *current = Some(value.clone());
        Ok(value)
    }

    async fn token(&self, realm: &str, query: &[(&str, String)]) -> Result<String, Trouble> {
        let mut request = self.client.get(realm).query(query);
        if let Some(auth) = &self.auth {
            request = request.basic_auth(&auth.username, Some(&auth.password));
        }
        let response = request.send().await.map_err(broken)?;
        if response.status().is_client_error() && response.status() != StatusCode::TOO_MANY_REQUESTS {
            return Err(Trouble::Unauthorized);
        }
        let body = body(check(response).await?, ANSWER_BYTES).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| Trouble::Nonsense("the token cannot be read".to_owned()))?;
        Ok(if token.token.is_empty() { token.access_token } else { token.token })
    }
}

/// The whole body, when it is no longer than `most`.
pub(super) async fn body(mut response: reqwest::Response, most: u64) -> Result<Vec<u8>, Trouble> {
    let mut content = Vec::new();
    while let Some(part) = response.chunk().await.map_err(broken)? {
        content.extend_from_slice(&part);
        if content.len() as u64 > most {
            return Err(Trouble::Nonsense(format!("an answer of the registry is longer than {most} bytes")));
        }
    }
    Ok(content)
}

/// A failed transfer, in words.
pub(super) fn broken(error: reqwest::Error) -> Trouble {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Trouble::Broken(short(&text))
}

async fn check(response: reqwest::Response) -> Result<reqwest::Response, Trouble> {
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Trouble::Unauthorized),
        StatusCode::NOT_FOUND => Err(Trouble::NotFound),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Trouble::Broken(format!("the registry answers with status {status}")))
        }
        status => {
            let message = body(response, ANSWER_BYTES).await.unwrap_or_default();
            let message = short(&String::from_utf8_lossy(&message));
            Err(Trouble::Nonsense(format!("the registry answers with status {status}: {}", message.escape_debug())))
        }
    }
}

/// What the registry asks for; a token rather than a password when it takes both.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let mut realm = None;
            let mut query = Vec::new();
            for (name, value) in parameters(rest) {
                match name {
                    "realm" => realm = Some(value.to_owned()),
                    "service" => query.push(("service", value.to_owned())),
                    "scope" => query.push(("scope", value.to_owned())),
                    _ => {}
                }
            }
            return Some(Challenge::Bearer { realm: realm?, query });
        }
    }
    basic
}

/// `name="value",name=value`; a quoted value may hold commas.
fn parameters(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name.trim_matches([' ', ',']), value.trim()));
        rest = after;
    }
    found
}

/// Whether a registry is on this machine, so that nobody listens in between.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Bounded, and without the queries of addresses: registries sign those they redirect to.
fn short(text: &str) -> String {
    let mut in_query = false;
    let keep = |it: &char| {
        in_query = (in_query || *it == '?') && !matches!(it, ')' | ' ' | '"');
        !in_query
    };
    text.chars().filter(keep).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_redirects_are_not_told() {
        let text = "error sending request for url (https://bucket/blob?X-Signature=abc&y=1): connection reset";
        assert_eq!(short(text), "error sending request for url (https://bucket/blob): connection reset");
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear_unasked() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "127.9.9.9"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["example.org", "localhost.example.org:5000", "10.0.0.1:5000", "[fd00::1]:5000"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }

    #[test]
    fn a_challenge_is_read_with_its_commas() {
        let mut headers = HeaderMap::new();
        assert_eq!(challenge(&headers), None);
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"registry\""));
        assert_eq!(challenge(&headers), Some(Challenge::Basic));
        let bearer = "Bearer realm=\"https://auth/token\", service=reg,scope=\"repository:a/b:pull,push\"";
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
        let query = vec![("service", "reg".to_owned()), ("scope", "repository:a/b:pull,push".to_owned())];
        assert_eq!(challenge(&headers), Some(Challenge::Bearer { realm: "https://auth/token".to_owned(), query }));
    }
}
