//! A server in the same process, called without a connection.
//!
//! Requests are made by the HTTP library as for a connection, so that path, headers and body are those that are shipped;
//! only the carrying is another. Answers may break off like any other.

use crate::{Call, ClientError};
use futures::future::BoxFuture;
use futures::stream;
use reqwest::{RequestBuilder, Response};
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

pub use reqwest::Body;

type Answer = BoxFuture<'static, io::Result<http::Response<Body>>>;

/// Answers requests; an error is a connection that broke before the answer.
#[derive(Clone)]
pub struct Service(Arc<dyn Fn(http::Request<Body>) -> Answer + Send + Sync>);

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Service")
    }
}

impl Service {
    /// A service of a function.
    pub fn new<F>(answer: impl Fn(http::Request<Body>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<http::Response<Body>>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(answer(request))))
    }

    /// Carries one request within its own time limit, which covers the body of the answer too.
    pub(crate) async fn carry(&self, call: &Call, request: RequestBuilder) -> Result<Response, ClientError> {
        let request = request.build().map_err(|source| call.transport(source))?;
        let by = request.timeout().map(|limit| Instant::now() + *limit);
        let request = http::Request::try_from(request).map_err(|source| call.transport(source))?;
        let answer = match within(by, (self.0)(request)).await {
            Ok(answer) => answer.map_err(|source| call.lost(source))?,
            Err(late) => return Err(call.lost(late)),
        };
        let (parts, body) = answer.into_parts();
        let body = stream::unfold(Some(Response::from(http::Response::new(body))), move |response| async move {
            let mut response = response?;
            match within(by, response.chunk()).await {
                Ok(Ok(chunk)) => chunk.map(|chunk| (Ok(chunk), Some(response))),
                Ok(Err(broken)) => Some((Err(io::Error::other(broken)), None)),
                Err(late) => Some((Err(late), None)),
            }
        });
        Ok(http::Response::from_parts(parts, Body::wrap_stream(body)).into())
    }
}

async fn within<T>(by: Option<Instant>, future: impl Future<Output = T>) -> io::Result<T> {
    let Some(by) = by else { return Ok(future.await) };
    tokio::time::timeout_at(by, future).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
}

/// What makes requests where nothing is sent: one for the whole process, without trust anchors.
pub(crate) fn builder() -> Result<reqwest::Client, ClientError> {
    static BUILDER: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(builder) = BUILDER.get() {
        return Ok(builder.clone());
    }
    let roots = rustls::RootCertStore::empty();
    let tls = crate::transport::tls(roots);
    let made = reqwest::Client::builder().tls_backend_preconfigured(tls).build().map_err(ClientError::SetUp)?;
    Ok(BUILDER.get_or_init(|| made).clone())
}
