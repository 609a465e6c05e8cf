//! `tls-ca-file`, `tls-cert-file`, `tls-key-file`: the certificates that a runner trusts besides the public ones and
//! the one that it shows, for itself and for its jobs.

use crate::Error;
use agent_contract::Identity;
use std::io;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What a runner brings to a TLS connection to its GitLab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates (PEM) to trust besides the public ones.
    pub ca_pem: Option<String>,
    /// What it shows to a GitLab that asks for it.
    pub identity: Option<Identity>,
}

impl Tls {
    /// Reads the files that an entry names.
    pub fn of(runner: &runner_config::Runner) -> Result<Self, Error> {
        let read = |key: &'static str, file: &String| {
            let failed = |source| Error::Certificates { runner: runner.name.clone(), key, file: file.clone(), source };
            std::fs::read_to_string(file).map_err(failed)
        };
        let chain = |key: &'static str, file: &String| {
            let pem = certificates(&read(key, file)?);
            let none = || io::Error::new(io::ErrorKind::InvalidData, "there is no PEM certificate in it");
            let failed = || Error::Certificates { runner: runner.name.clone(), key, file: file.clone(), source: none() };
            if pem.is_empty() { Err(failed()) } else { Ok(pem) }
        };
        let (ca, certificate, key) = (&runner.tls_ca_file, &runner.tls_cert_file, &runner.tls_key_file);
        let ca_pem = (!ca.is_empty()).then(|| chain("tls-ca-file", ca)).transpose()?;
        let identity = || -> Result<_, Error> {
            Ok(Identity { certificate_pem: chain("tls-cert-file", certificate)?, key_pem: read("tls-key-file", key)? })
        };
        let identity = (!certificate.is_empty() && !key.is_empty()).then(identity).transpose()?;
        Ok(Self { ca_pem, identity })
    }
}

/// The certificates of a PEM file and nothing else: jobs get them, and a key may stand beside them.
fn certificates(text: &str) -> String {
    let (mut pem, mut inside) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        inside |= line == BEGIN;
        if inside {
            pem.push_str(line);
            pem.push('\n');
        }
        inside &= line != END;
    }
    pem
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_a_pem_file_only_certificates_are_taken() {
        let one = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n";
        let text = format!("subject: one\r\n{one}-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n{one}");
        assert_eq!(super::certificates(&text.replace('\n', "\r\n")), [one, one].concat());
        assert_eq!(super::certificates("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"), "");
    }
}
