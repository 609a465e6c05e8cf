//! The files that every container of a pod shares: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use crate::{Error, IdRange, PodOptions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Resolver of systemd behind the stub at 127.0.0.53.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Makes a directory that root of the pods passes through, and nobody else of this machine: while it starts, the
/// runtime goes to the mounts that are made for a container. Later nobody in a pod needs the way.
pub(crate) fn make_passable(directory: &Path, ids: IdRange) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::path("make", directory))?;
    chown(directory, Some(0), Some(ids.base)).map_err(Error::path("hand over", directory))?;
    let passable = std::fs::Permissions::from_mode(0o710);
    std::fs::set_permissions(directory, passable).map_err(Error::path("set the mode of", directory))
}

/// Writes the files into `directory`; answers each with its place in a container.
pub(crate) fn write(
    directory: &Path,
    options: &PodOptions,
    address: Option<IpAddr>,
    ids: IdRange,
) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    std::fs::create_dir_all(directory).map_err(Error::path("make", directory))?;
    let files = [
        ("hosts", hosts(options, address)),
        ("hostname", format!("{}\n", options.hostname)),
        ("resolv.conf", resolv_conf(options.host_network)),
    ];
    let mut written = Vec::new();
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(Error::path("write", &path))?;
        chown(&path, Some(ids.base), Some(ids.base)).map_err(Error::path("hand over", &path))?;
        written.push((path, Path::new("/etc").join(name)));
    }
    Ok(written)
}

fn hosts(options: &PodOptions, address: Option<IpAddr>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    if let Some(address) = address {
        text.push_str(&format!("{address}\t{}\n", options.hostname));
    } else {
        text.push_str(&format!("127.0.0.1\t{}\n", options.hostname));
    }
    for (address, names) in &options.host_aliases {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    text
}

/// The machine's resolvers. One that listens on loopback cannot be reached from a pod; that of systemd has a list of the
/// real ones.
fn resolv_conf(host_network: bool) -> String {
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if host_network || !has_only_loopback(&own) {
        return own;
    }
    std::fs::read_to_string(BEHIND_THE_STUB).unwrap_or_else(|_| {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                hint = "name a server that is not on loopback in /etc/resolv.conf",
                "pods resolve no names: the name server of this machine listens on loopback only"
            );
        });
        own
    })
}

fn has_only_loopback(text: &str) -> bool {
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).peekable();
    servers.peek().is_some() && servers.all(|server| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::{has_only_loopback, hosts};
    use crate::PodOptions;

    #[test]
    fn aliases_stand_in_hosts() {
        let options = PodOptions {
            id: "a".into(),
            hostname: "pod".into(),
            host_aliases: vec![("127.0.0.1".parse().unwrap(), vec!["db".into(), "postgres".into()])],
            host_network: false,
            run_dir: "/x".into(),
        };
        let text = hosts(&options, Some("10.88.0.2".parse().unwrap()));
        assert!(text.contains("10.88.0.2\tpod\n") && text.ends_with("127.0.0.1\tdb postgres\n"), "{text}");
    }

    #[test]
    fn a_stub_resolver_is_known() {
        assert!(has_only_loopback("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!has_only_loopback("nameserver 127.0.0.1\nnameserver 10.0.0.1\n"));
        assert!(!has_only_loopback("search x\n"));
    }
}
