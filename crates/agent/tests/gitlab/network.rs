//! What lies between the agent and its GitLab: a proxy whose wires can be cut, and which can speak TLS.

use super::Gitlab;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the wires do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wires {
    /// They carry.
    Whole,
    /// Connections are closed as they come, and those that are there break.
    Cut,
    /// Connections are taken, and nothing moves on any.
    Silent,
    /// Requests arrive, and in place of the answer the connection is closed.
    OneWay,
}

/// An authority that signs certificates for GitLab's address.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// A certificate for a client, and its key.
    pub fn identity(&self) -> agent_contract::Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["a-runner".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        agent_contract::Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// `strict` wants a certificate of the same authority to be shown.
    fn acceptor(&self, strict: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = rustls::ServerConfig::builder();
        let builder = if strict {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(self.pem.as_bytes()).flatten());
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

/// What the wires do now, and how often they were cut: what was cut does not grow together.
type Now = (Wires, usize);

/// The proxy.
pub struct Network {
    wires: watch::Sender<Now>,
    acceptor: Arc<Mutex<Option<TlsAcceptor>>>,
}

impl Network {
    /// In front of `gitlab`, whose address is the proxy's from now on.
    pub async fn before(gitlab: &mut Gitlab) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = std::mem::replace(&mut gitlab.address, listener.local_addr().unwrap());
        let (wires, _) = watch::channel((Wires::Whole, 0));
        let network = Self { wires, acceptor: Arc::default() };
        let (wires, acceptor) = (network.wires.clone(), network.acceptor.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.lock().unwrap().clone();
                tokio::spawn(connection(stream, server, wires.clone(), acceptor));
            }
        });
        network
    }

    /// The same with TLS, by a certificate of `authority`, which is in the job's plan.
    pub async fn before_with_tls(gitlab: &mut Gitlab, authority: &Authority) -> Self {
        let network = Self::before(gitlab).await;
        gitlab.authority = Some(authority.pem.clone());
        network.replace_certificate(authority);
        network
    }

    /// The same, and nobody is served who does not show a certificate of `authority`.
    pub async fn before_with_strict_tls(gitlab: &mut Gitlab, authority: &Authority) -> Self {
        let network = Self::before(gitlab).await;
        gitlab.authority = Some(authority.pem.clone());
        *network.acceptor.lock().unwrap() = Some(authority.acceptor(true));
        network
    }

    /// New connections get another certificate; those that are there break.
    pub fn replace_certificate(&self, authority: &Authority) {
        *self.acceptor.lock().unwrap() = Some(authority.acceptor(false));
        self.set(Wires::Cut);
        self.set(Wires::Whole);
    }

    pub fn set(&self, wires: Wires) {
        self.wires.send_modify(|now| *now = (wires, now.1 + usize::from(wires == Wires::Cut)));
    }

    /// For this long, and then whole again.
    pub async fn set_for(&self, wires: Wires, time: Duration) {
        self.set(wires);
        tokio::time::sleep(time).await;
        self.set(Wires::Whole);
    }
}

async fn connection(client: TcpStream, server: SocketAddr, wires: watch::Sender<Now>, acceptor: Option<TlsAcceptor>) {
    let mut changes = wires.subscribe();
    let cuts = changes.borrow().1;
    let cut = async {
        let _ = changes.wait_for(|now| now.0 == Wires::Cut || now.1 != cuts).await;
    };
    let carry = async {
        let Ok(server) = TcpStream::connect(server).await else { return };
        match acceptor {
            None => carry(client, server, wires.subscribe()).await,
            Some(acceptor) => {
                let Ok(client) = acceptor.accept(client).await else { return };
                carry(client, server, wires.subscribe()).await;
            }
        }
    };
    tokio::select! { () = cut => {}, () = carry => {} }
}

async fn carry(client: impl AsyncRead + AsyncWrite, server: TcpStream, wires: watch::Receiver<Now>) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = server.into_split();
    let up = copy(from_client, to_server, wires.clone(), false);
    let down = copy(from_server, to_client, wires, true);
    tokio::select! { () = up => {}, () = down => {} }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut wires: watch::Receiver<Now>,
    is_answer: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if wires.wait_for(|now| now.0 != Wires::Silent).await.is_err() {
            return;
        }
        let lost = is_answer && wires.borrow().0 == Wires::OneWay;
        if lost || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        let _ = to.flush().await;
    }
}
