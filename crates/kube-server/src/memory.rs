//! The API without a network: an HTTP client service over in-memory pipes.
//!
//! Real HTTP/1.1 runs over each pipe, so that a client behaves exactly as over a socket, streamed watches included.
//! `kube::Client::new(memory::connect(router), "default")` is all a manager needs.

use axum::Router;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tower::Service;

/// Bytes a pipe holds before its writer waits.
const PIPE: usize = 64 * 1024;

/// A client whose every connection ends at a router in this process. It takes paths as well as whole addresses, of
/// which it looks at the path only.
pub struct MemoryClient<B> {
    client: Client<Connector, B>,
}

impl<B> Clone for MemoryClient<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone() }
    }
}

/// Makes the client.
pub fn connect<B>(router: Router) -> MemoryClient<B>
where
    B: http_body::Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    MemoryClient { client: Client::builder(TokioExecutor::new()).build(Connector { router }) }
}

impl<B> Service<http::Request<B>> for MemoryClient<B>
where
    B: http_body::Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.client, context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let mut parts = request.uri().clone().into_parts();
        // The pool of connections wants to know a host, whatever it is.
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(http::uri::Authority::from_static("in-memory"));
        parts.path_and_query = Some(parts.path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
        if let Ok(whole) = http::Uri::from_parts(parts) {
            *request.uri_mut() = whole;
        }
        Service::call(&mut self.client, request)
    }
}

/// Opens pipes to a router.
#[derive(Clone)]
pub struct Connector {
    router: Router,
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Pipe>;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: http::Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let service = hyper_util::service::TowerToHyperService::new(self.router.clone());
        tokio::spawn(async move {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades().await;
            if let Err(error) = served {
                tracing::debug!(%error, "in-memory connection ended");
            }
        });
        std::future::ready(Ok(TokioIo::new(Pipe(ours))))
    }
}

/// One end of a pipe.
pub struct Pipe(DuplexStream);

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
