//! TLS in front of the bench's GitLab, whose authority and certificate can be replaced.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub struct Front {
    address: SocketAddr,
    acceptor: watch::Sender<TlsAcceptor>,
}

impl Front {
    /// With a first certificate; and its authority.
    pub async fn start(gitlab: SocketAddr) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (first, authority) = acceptor();
        let (acceptor, watched) = watch::channel(first);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, gitlab, watched.clone()));
            }
        });
        (Self { address, acceptor }, authority)
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Another certificate by another authority, which comes back; connections end.
    pub fn replace(&self) -> String {
        let (next, authority) = acceptor();
        self.acceptor.send_replace(next);
        authority
    }
}

async fn carry(stream: TcpStream, gitlab: SocketAddr, mut acceptor: watch::Receiver<TlsAcceptor>) {
    let current = acceptor.borrow_and_update().clone();
    // Whoever does not trust us leaves.
    let Ok(mut stream) = current.accept(stream).await else { return };
    let mut other = TcpStream::connect(gitlab).await.unwrap();
    tokio::select! { _ = tokio::io::copy_bidirectional(&mut stream, &mut other) => {}, _ = acceptor.changed() => {} }
}

fn acceptor() -> (TlsAcceptor, String) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private).unwrap();
    (TlsAcceptor::from(Arc::new(config)), certificate.pem())
}
