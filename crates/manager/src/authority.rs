//! `tls-ca-file`: the certificates that a runner trusts besides the public ones, for itself and for its jobs.

use crate::Error;
use std::io;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Reads the file of an entry that names one.
pub fn of(runner: &runner_config::Runner) -> Result<Option<String>, Error> {
    let file = &runner.tls_ca_file;
    if file.is_empty() {
        return Ok(None);
    }
    let failed = |source| Error::Authority { runner: runner.name.clone(), file: file.clone(), source };
    let pem = certificates(&std::fs::read_to_string(file).map_err(failed)?);
    if pem.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "there is no PEM certificate in it")));
    }
    Ok(Some(pem))
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
