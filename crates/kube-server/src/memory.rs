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

/// A client whose every connection ends at a router in this process.
pub type MemoryClient<B> = Client<Connector, B>;

/// Makes the client.
pub fn connect<B>(router: Router) -> MemoryClient<B>
where
    B: http_body::Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Client::builder(TokioExecutor::new()).build(Connector { router })
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
