//! The API on a socket, for kubectl and for a manager in another process.
//!
//! Whoever may use this API may run anything as anybody in any pod of this machine, so nobody gets past the handshake
//! without a certificate of our own authority. The authority is kept in the state directory; certificates are issued
//! anew at every start, so that the only secrets on disk are the authority's key and the kubeconfig.

mod authority;
mod files;
mod kubeconfig;

use authority::Authority;
use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections at the same time; further ones wait in the backlog.
const MAX_CONNECTIONS: usize = 512;
/// How long a peer may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be idle, or take to send a request's head.
const IDLE: Duration = Duration::from_secs(120);
/// How often an HTTP/2 peer is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Pause when the machine has no file descriptor left for another connection.
const BREATH: Duration = Duration::from_millis(200);

/// A listener at work; dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    task: JoinHandle<()>,
    /// Its drop is the end of every connection, also of those that left the HTTP server for an exec.
    _open: watch::Sender<()>,
}

impl Serving {
    /// Where it listens, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `router` over TLS on `listen` to those who have a certificate of the authority kept in the directory `state`
/// (made with mode 0700), and writes a kubeconfig with such a certificate (mode 0600), if asked.
///
/// # Errors
/// An address that cannot be listened on, a state directory that cannot be used, or a kubeconfig that cannot be
/// written or would replace a file that is not gantry's.
pub async fn serve_tls(router: Router, listen: SocketAddr, state: &Path, kubeconfig: Option<&Path>) -> io::Result<Serving> {
    let listener = TcpListener::bind(listen).await.map_err(files::failed(format!("failed to listen on {listen}")))?;
    let address = listener.local_addr()?;
    let (state, kubeconfig) = (state.to_owned(), kubeconfig.map(Path::to_owned));
    let prepared = tokio::task::spawn_blocking(move || prepare(address, &state, kubeconfig));
    let config = prepared.await.map_err(io::Error::other)??;
    let (open, closed) = watch::channel(());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(accept(listener, Shared { acceptor, router, closed }));
    Ok(Serving { address, task, _open: open })
}

fn prepare(address: SocketAddr, state: &Path, kubeconfig: Option<PathBuf>) -> io::Result<ServerConfig> {
    let authority = Authority::open(state)?;
    let config = authority.server_config(&names(address.ip()))?;
    if let Some(path) = kubeconfig {
        let reachable = SocketAddr::new(reachable(address.ip()), address.port());
        kubeconfig::write(&path, reachable, authority.certificate_pem(), &authority.client()?)?;
    }
    Ok(config)
}

/// Names that clients may use for this machine.
fn names(listen: IpAddr) -> Vec<String> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let mut names: Vec<_> = loopback.iter().map(IpAddr::to_string).chain(["localhost".to_owned()]).collect();
    if !listen.is_unspecified() && !loopback.contains(&listen) {
        names.push(listen.to_string());
    }
    names
}

/// The address a client on this machine uses for a listener.
fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    acceptor: TlsAcceptor,
    router: Router,
    closed: watch::Receiver<()>,
}

async fn accept(listener: TcpListener, shared: Shared) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        connections.spawn(serve(stream, slot, shared.clone()));
    }
}

async fn serve(stream: TcpStream, slot: OwnedSemaphorePermit, shared: Shared) {
    let Shared { acceptor, router, mut closed } = shared;
    // Without it, output comes in lumps; it still comes.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%error, "TLS handshake refused"),
        Err(_) => return tracing::info!("TLS handshake took too long"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_ANSWER);
    let service = hyper_util::service::TowerToHyperService::new(router);
    let closed = Some(async move { while closed.changed().await.is_ok() {} }.boxed());
    let io = TokioIo::new(Counted { stream, _slot: slot, closed });
    if let Err(error) = builder.serve_connection_with_upgrades(io, service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// A connection that counts until it is closed and ends with the listener, also after it was upgraded and left the
/// HTTP server.
struct Counted {
    stream: TlsStream<TcpStream>,
    _slot: OwnedSemaphorePermit,
    /// Resolves when the listener is gone; `None` afterwards.
    closed: Option<BoxFuture<'static, ()>>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_closed = self.closed.as_mut().is_none_or(|closed| closed.as_mut().poll(context).is_ready());
        if is_closed {
            self.closed = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
