//! The kubeconfig that lets kubectl, and a manager in another process, in.

use super::authority::Client;
use super::files;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// First line, by which a file of ours is known.
const HEADER: &str = "# Written by gantry at every start of the node. Whoever can read it can run anything on this machine.\n";

/// Writes it, unless another program's file is in the way: people keep their clusters in such files.
pub fn write(path: &Path, server: SocketAddr, authority: &str, client: &Client) -> io::Result<()> {
    match std::fs::read(path) {
        Ok(found) if !found.is_empty() && !found.starts_with(HEADER.as_bytes()) => {
            let message = format!("{} was not written by gantry and is left as it is; name another file", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files::failed(format!("failed to read {}", path.display()))(error));
        }
        _ => {}
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(files::failed(format!("failed to make the directory {}", directory.display())))?;
    }
    files::write_private(path, content(server, authority, client).as_bytes())
}

fn content(server: SocketAddr, authority: &str, client: &Client) -> String {
    let [authority, certificate, key] = [authority, &client.certificate, &client.key].map(|pem| STANDARD.encode(pem));
    format!(
        "{HEADER}apiVersion: v1
kind: Config
current-context: gantry
clusters:
- name: gantry
  cluster:
    server: \"https://{server}\"
    certificate-authority-data: {authority}
users:
- name: gantry
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: gantry
  context:
    cluster: gantry
    user: gantry
    namespace: default
"
    )
}
