//! Which files of this machine hold credentials.
//!
//! A toolchain directory is shown to jobs as a whole, and tools like to keep the token for their registry beside the
//! programs. What is found here gets an empty file or directory mounted over it. The search goes a few levels deep and looks
//! at names (and, for keys, at the first bytes): credentials lie near the top of such a tree, and below lie hundreds of
//! thousands of files of third parties, among them test keys that builds need.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How many directories below the root are looked into.
const DEPTH: usize = 4;
/// How many entries are looked at; breadth first, so that the top is always seen.
const ENTRIES: usize = 50_000;
/// How much of a file is read to see whether it is a key.
const HEAD: u64 = 4096;

/// Files, by name: registry tokens (cargo, npm, yarn, pip, RubyGems, Composer, NuGet, Maven, Gradle, Terraform), logins
/// (netrc, git, curl, databases), keys and tokens.
const FILES: &[&str] = &[
    "credentials",
    "credentials.toml",
    "credentials.json",
    "credentials.tfrc.json",
    ".credentials",
    ".credentials.json",
    "application_default_credentials.json",
    ".npmrc",
    ".yarnrc.yml",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".s3cfg",
    ".boto",
    ".htpasswd",
    ".vault-token",
    ".terraformrc",
    ".dockercfg",
    ".env",
    ".envrc",
    "auth.json",
    "settings-security.xml",
    "secring.gpg",
    "authorized_keys",
    "token",
    ".token",
    "access_token",
    ".bash_history",
    ".zsh_history",
    ".python_history",
    ".node_repl_history",
];

/// Directories, by name: clients of clouds, clusters and key rings keep nothing else there.
const DIRECTORIES: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".gcloud",
    "gcloud",
    ".password-store",
    ".mozilla",
    ".thunderbird",
    "keyrings",
    ".vault",
    ".terraform.d",
    ".oci",
    ".config",
];

/// Directories not looked into: packages as their authors published them.
const THIRD_PARTY: &[&str] =
    &["registry", "checkouts", "node_modules", "site-packages", "dist-packages", "toolchains", "gems", ".git"];

/// One thing to hide below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    /// Path relative to the root that was searched.
    pub path: PathBuf,
    /// A directory, hidden with all that is in it.
    pub directory: bool,
}

/// What of `root` holds credentials. Symbolic links are not followed: their target lies outside and is not shown, or inside
/// and found there.
pub(super) fn find(root: &Path) -> Vec<Credential> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut queue = VecDeque::from([(PathBuf::new(), 0)]);
    while let Some((relative, depth)) = queue.pop_front() {
        let Ok(entries) = fs::read_dir(root.join(&relative)) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > ENTRIES {
                tracing::warn!(root = %root.display(), "too many files to look through all of them for credentials");
                return found;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let path = relative.join(&name);
            let name = name.to_string_lossy();
            if kind.is_dir() {
                if DIRECTORIES.contains(&name.as_ref()) {
                    found.push(Credential { path, directory: true });
                } else if depth + 1 < DEPTH && !THIRD_PARTY.contains(&name.as_ref()) {
                    queue.push_back((path, depth + 1));
                }
            } else if kind.is_file() && is_credential(&root.join(&path)) {
                found.push(Credential { path, directory: false });
            }
        }
    }
    found
}

/// Whether this regular file holds credentials, by its name or, for keys and cargo's configuration, by its first bytes.
pub(super) fn is_credential(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let name = name.to_string_lossy().to_lowercase();
    if FILES.contains(&name.as_str()) || name.ends_with("_token") || name.ends_with(".token") {
        return true;
    }
    if name.starts_with("id_") && !name.contains('.') {
        return true;
    }
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    let within = |directory: &str| path.parent().is_some_and(|parent| parent.ends_with(directory));
    match name.as_str() {
        // the same names are harmless, and needed, where the tool itself is installed
        "settings.xml" => return within(".m2"),
        "gradle.properties" => return within(".gradle"),
        "hosts.yml" => return within("gh"),
        "npmrc" | ".yarnrc" => return head_contains(path, &["_auth", "_password", "authToken"]),
        "nuget.config" => return head_contains(path, &["Password"]),
        "pip.conf" => return head_contains(path, &["@"]),
        _ => {}
    }
    match suffix {
        "pem" | "key" | "ppk" | "p8" | "asc" => head_contains(path, &["PRIVATE KEY", "PuTTY-User-Key-File"]),
        "p12" | "pfx" | "jks" | "keytab" | "kdbx" => true,
        "toml" if name == "config.toml" => head_contains(path, &["token =", "token=", "secret-key"]),
        "" if name == "config" => head_contains(path, &["token =", "token=", "token:", "password"]),
        _ => false,
    }
}

fn head_contains(path: &Path, words: &[&str]) -> bool {
    let mut head = Vec::new();
    if File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).is_err() {
        return true;
    }
    let head = String::from_utf8_lossy(&head);
    words.iter().any(|word| head.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_is_shown_without_its_tokens() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("its parent");
            fs::write(path, text).expect("a file");
        };
        write("credentials.toml", "[registry]\ntoken = \"x\"");
        write("config.toml", "[registries.own]\ntoken = \"x\"");
        write("plain/config.toml", "[build]\njobs = 2");
        write("bin/cargo", "");
        write(".npmrc", "");
        write("lib/.netrc", "");
        write("lib/id_ed25519", "");
        write("lib/id_ed25519.pub", "");
        write("lib/server.pem", "-----BEGIN RSA PRIVATE KEY-----");
        write("lib/cacert.pem", "-----BEGIN CERTIFICATE-----");
        write("registry/src/x/tests/server.key", "-----BEGIN PRIVATE KEY-----");
        write("home/.ssh/known_hosts", "");
        let mut found: Vec<_> = find(root.path()).into_iter().map(|one| one.path.to_string_lossy().into_owned()).collect();
        found.sort();
        assert_eq!(
            found,
            [".npmrc", "config.toml", "credentials.toml", "home/.ssh", "lib/.netrc", "lib/id_ed25519", "lib/server.pem"]
        );
    }
}
