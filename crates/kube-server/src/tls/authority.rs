//! Our own certificate authority, and what it issues.

use super::files;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// File of the authority in the state directory: certificate and key in one, so that they cannot part.
const FILE: &str = "authority.json";
/// Days the authority is good for.
const AUTHORITY_DAYS: i64 = 3650;
/// Days a certificate is good for; an authority with less left is replaced.
const CERTIFICATE_DAYS: i64 = 365;
/// Days by which certificates begin in the past, for clients whose clock is behind.
const CLOCK_SLACK_DAYS: i64 = 2;

/// The authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What the state directory holds.
enum Stored {
    Missing,
    Expiring,
    Good(Box<Authority>),
}

/// A certificate and its key, both PEM.
pub struct Client {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// Opens the authority of a state directory, or makes one.
    pub fn open(state: &Path) -> io::Result<Self> {
        files::private_directory(state)?;
        let path = state.join(FILE);
        match Self::find(&path)? {
            Stored::Good(authority) => Ok(*authority),
            Stored::Expiring => Self::make(&path, files::write_private),
            Stored::Missing => match Self::make(&path, files::create_private) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match Self::find(&path)? {
                    // Another process was faster; its authority is as good.
                    Stored::Good(authority) => Ok(*authority),
                    Stored::Missing | Stored::Expiring => Err(error),
                },
                made => made,
            },
        }
    }

    fn find(path: &Path) -> io::Result<Stored> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::Missing),
            Err(error) => return Err(files::failed(format!("failed to read {}", path.display()))(error)),
        };
        match Self::read(&bytes) {
            Ok(known) => Ok(known.map_or(Stored::Expiring, |known| Stored::Good(Box::new(known)))),
            Err(why) => {
                let message = format!("{} is damaged ({why}); delete it to get a new authority", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }

    /// Reads a stored authority; `None` when it is about to expire.
    fn read(bytes: &[u8]) -> Result<Option<Self>, String> {
        let stored: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let text = |field: &str| stored[field].as_str().ok_or(format!("{field} is missing"));
        let expires: jiff::Timestamp = text("expires")?.parse().map_err(|_| "expires is not a time".to_owned())?;
        let left = expires.duration_since(jiff::Timestamp::now());
        if left < jiff::SignedDuration::from_hours(24 * (CERTIFICATE_DAYS + 1)) {
            return Ok(None);
        }
        let key = KeyPair::from_pem(text("key")?).map_err(|error| error.to_string())?;
        let certificate = text("certificate")?.to_owned();
        CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| error.to_string())?;
        let parameters = parameters().map_err(|error| error.to_string())?;
        Ok(Some(Self { certificate, issuer: Issuer::new(parameters, key) }))
    }

    fn make(path: &Path, write: impl FnOnce(&Path, &[u8]) -> io::Result<()>) -> io::Result<Self> {
        let (key, parameters) = (KeyPair::generate().map_err(io::Error::other)?, parameters().map_err(io::Error::other)?);
        let certificate = parameters.self_signed(&key).map_err(io::Error::other)?.pem();
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * (AUTHORITY_DAYS - 1));
        let stored = json!({"certificate": certificate, "key": key.serialize_pem(), "expires": expires.to_string()});
        write(path, stored.to_string().as_bytes())?;
        Ok(Self { certificate, issuer: Issuer::new(parameters, key) })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// What a listener known by `names` needs; it takes only clients of this authority.
    pub fn server_config(&self, names: &[String]) -> io::Result<ServerConfig> {
        let mut parameters = CertificateParams::new(names.to_vec()).map_err(io::Error::other)?;
        parameters.distinguished_name = name("gantry node");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, key) = self.issue(parameters)?;
        let root = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.build().map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A new certificate for a client.
    pub fn client(&self) -> io::Result<Client> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name("gantry");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.issue(parameters)?;
        Ok(Client { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn issue(&self, mut parameters: CertificateParams) -> io::Result<(rcgen::Certificate, KeyPair)> {
        valid_for(&mut parameters, CERTIFICATE_DAYS);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok((certificate, key))
    }
}

/// What is the same in every authority of ours; issuing needs it beside the key.
fn parameters() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = name("gantry node authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut parameters, AUTHORITY_DAYS);
    Ok(parameters)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn valid_for(parameters: &mut CertificateParams, days: i64) {
    let date = |days: i64| {
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        let date = jiff::tz::TimeZone::UTC.to_datetime(then).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (parameters.not_before, parameters.not_after) = (date(-CLOCK_SLACK_DAYS), date(days));
}

#[cfg(test)]
mod tests {
    use super::{Authority, FILE};
    use std::path::Path;

    fn expire(state: &Path, expires: &str) {
        let path = state.join(FILE);
        let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        stored["expires"] = expires.into();
        std::fs::write(path, stored.to_string()).unwrap();
    }

    #[test]
    fn an_authority_is_kept_until_it_is_about_to_expire() {
        let state = tempfile::tempdir().unwrap();
        let open = || Authority::open(state.path()).unwrap().certificate_pem().to_owned();
        let first = open();
        assert_eq!(open(), first);
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 300);
        expire(state.path(), &soon.to_string());
        let second = open();
        assert_ne!(second, first);
        assert_eq!(open(), second);
    }

    #[test]
    fn many_processes_at_once_agree_on_one_authority() {
        let state = tempfile::tempdir().unwrap();
        let open = || Authority::open(state.path()).unwrap().certificate_pem().to_owned();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| *one == all[0]));
    }
}
