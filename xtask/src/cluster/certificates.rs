//! The cluster's certificates and its kubeconfig, made by openssl once per state.
//!
//! By openssl, as a certificate authority in Rust would be one more dependency for a file that is made once.

use super::paths::{HOST, Paths, fill, write};
use super::process::quietly;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const DAYS: &str = "3650";

/// Makes what is missing. Says whether anything was.
pub fn make(paths: &Paths) -> Result<bool> {
    let done = paths.pki("done");
    if done.exists() && paths.kubeconfig().exists() {
        return Ok(false);
    }
    let names = format!(
        "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:{HOST},IP:10.96.0.1"
    );
    openssl(paths, &format!("req -x509 -newkey rsa:2048 -nodes -days {DAYS} -subj /CN=kube-ca -keyout ca.key -out ca.crt"))?;
    signed(paths, "apiserver", "/CN=kube-apiserver", &names)?;
    signed(paths, "admin", "/CN=admin/O=system:masters", "extendedKeyUsage=clientAuth")?;
    openssl(paths, "genrsa -out sa.key 2048")?;
    openssl(paths, "rsa -in sa.key -pubout -out sa.pub")?;
    kubeconfig(paths)?;
    fs::write(&done, "").with_context(|| format!("failed to write {}", done.display()))?;
    Ok(true)
}

fn signed(paths: &Paths, name: &str, subject: &str, extension: &str) -> Result<()> {
    openssl(paths, &format!("req -newkey rsa:2048 -nodes -subj {subject} -keyout {name}.key -out {name}.csr"))?;
    fs::write(paths.pki("extension"), extension)?;
    openssl(
        paths,
        &format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {DAYS} -extfile extension -out {name}.crt"
        ),
    )
}

fn openssl(paths: &Paths, arguments: &str) -> Result<()> {
    quietly(Command::new("openssl").args(arguments.split(' ')).current_dir(paths.pki(""))).map(|_| ())
}

fn kubeconfig(paths: &Paths) -> Result<()> {
    let encoded = |file: &str| quietly(Command::new("openssl").args(["base64", "-A", "-in", file]).current_dir(paths.pki("")));
    let (ca, certificate, key) = (encoded("ca.crt")?, encoded("admin.crt")?, encoded("admin.key")?);
    let template = include_str!("../../../e2e/cluster/config/kubeconfig.yaml");
    let content = fill(template, &[("host", HOST), ("ca", ca.trim()), ("certificate", certificate.trim()), ("key", key.trim())])?;
    write(&paths.kubeconfig(), &content)?;
    // It may do everything, which is not for every user of the machine.
    fs::set_permissions(paths.kubeconfig(), fs::Permissions::from_mode(0o600))
        .context("failed to hide the kubeconfig from others")
}
