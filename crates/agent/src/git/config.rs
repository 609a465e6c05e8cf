//! Git's settings for the job: those of our own calls, and the files that stay for the job's scripts.
//!
//! The repository's own configuration names the server without a login and includes a file beside the project. That
//! file answers git's question for a login with the job's token from the script's environment: so `git fetch` and
//! `git push` work in scripts as with GitLab Runner, and no token lies in a file or shows in an address.

use super::remote::Remote;
use anyhow::{Context, Result};
use std::path::Path;

/// Name of the file beside the project.
pub const INCLUDED: &str = ".gitlab-runner.ext.conf";
/// Name of the directory that new repositories are made from.
pub const TEMPLATE: &str = "git-template";

/// What the settings are made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub remote: &'a Remote,
    /// Files of certificates and key, by git's word (`sslCAInfo`, `sslCert`, `sslKey`).
    pub certificates: &'a [(&'static str, String)],
    /// Pairs of an address and what it stands in for.
    pub instead_of: &'a [(String, String)],
    /// For the server's log.
    pub correlation_id: &'a str,
    pub bundle_uri: bool,
    pub proactive_login: bool,
}

impl Parts<'_> {
    /// Settings that hold for our calls and for the job's scripts.
    fn shared(&self) -> Vec<(String, String)> {
        let mut list = Vec::new();
        let base = &self.remote.base;
        if self.bundle_uri {
            list.push(("transfer.bundleURI".to_owned(), "true".to_owned()));
        }
        if base.is_empty() {
            return list;
        }
        if !self.correlation_id.is_empty() {
            list.push((format!("http.{base}.extraHeader"), format!("X-Gitaly-Correlation-ID: {}", self.correlation_id)));
        }
        if self.proactive_login {
            list.push(("http.proactiveAuth".to_owned(), "basic".to_owned()));
        }
        list.extend(self.certificates.iter().map(|(word, path)| (format!("http.{base}.{word}"), path.clone())));
        list.extend(self.instead_of.iter().map(|(address, instead)| (format!("url.{address}.insteadOf"), instead.clone())));
        list
    }

    /// For our calls alone, the login included.
    pub fn of_calls(&self, user_agent: &str) -> Vec<(String, String)> {
        let mut list = self.shared();
        let mut set = |key: &str, value: &str| list.push((key.to_owned(), value.to_owned()));
        // The owner is whatever user an earlier job had; nobody but this job is in the pod.
        set("safe.directory", "*");
        set("init.defaultBranch", "none");
        set("advice.detachedHead", "false");
        set("http.userAgent", user_agent);
        if let Some(header) = &self.remote.header {
            set(&format!("http.{}.extraHeader", self.remote.base), header.expose());
        }
        list
    }

    /// The file that scripts' git includes.
    pub fn included(&self) -> String {
        let mut text: String = self.shared().iter().map(|(key, value)| setting(key, value)).collect();
        if !self.remote.base.is_empty() {
            let key = |word: &str| format!("credential.{}.{word}", self.remote.base.trim_end_matches('/'));
            // An empty helper takes out those of the image, which could ask a person.
            text.push_str(&setting(&key("helper"), ""));
            text.push_str(&setting(&key("helper"), r#"!f() { test "$1" != get || echo "password=$CI_JOB_TOKEN"; }; f"#));
            text.push_str(&setting(&key("username"), &self.remote.user));
        }
        text
    }

    /// The configuration of a new repository.
    pub fn of_repository(&self, included: &Path) -> String {
        [
            ("fetch.recurseSubmodules", "false"),
            ("credential.interactive", "never"),
            ("gc.autoDetach", "false"),
            ("remote.origin.url", &self.remote.url),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
            ("include.path", &included.display().to_string()),
        ]
        .map(|(key, value)| setting(key, value))
        .concat()
    }

    /// Writes both files; git makes new repositories from the directory it answers with.
    ///
    /// # Errors
    /// When there is no room.
    pub fn write(&self, temporary: &Path) -> Result<std::path::PathBuf> {
        let (included, template) = (temporary.join(INCLUDED), temporary.join(TEMPLATE));
        let _ = std::fs::remove_dir_all(&template);
        let on_failure = || format!("failed to write git's settings to {}", temporary.display());
        std::fs::create_dir_all(&template).with_context(on_failure)?;
        std::fs::write(&included, self.included()).with_context(on_failure)?;
        std::fs::write(template.join("config"), self.of_repository(&included)).with_context(on_failure)?;
        Ok(template)
    }
}

/// One setting as a section of a configuration file.
fn setting(key: &str, value: &str) -> String {
    let (section, word) = key.rsplit_once('.').unwrap_or(("", key));
    let head = match section.split_once('.') {
        Some((name, sub)) => format!("[{name} \"{}\"]", escaped(sub)),
        None => format!("[{section}]"),
    };
    format!("{head}\n\t{word} = \"{}\"\n", escaped(value))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Parts, setting};
    use crate::git::remote::Remote;
    use job::Secret;
    use std::process::Command;

    #[test]
    fn flags_become_settings_of_git() {
        let header = Some(Secret::new("Authorization: Basic secret"));
        let remote = Remote { url: "https://h/p".into(), base: "https://h/".into(), user: "u".into(), header };
        let certificates = [("sslCAInfo", "/p.tmp/CA".to_owned())];
        let instead_of = [("https://h/".to_owned(), "git@h:".to_owned())];
        let parts = |on| Parts {
            remote: &remote,
            certificates: &certificates,
            instead_of: &instead_of,
            correlation_id: if on { "id" } else { "" },
            bundle_uri: on,
            proactive_login: on,
        };
        let keys = |on| parts(on).of_calls("agent").into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        for setting in
            ["transfer.bundleURI=true", "http.proactiveAuth=basic", "http.https://h/.extraHeader=X-Gitaly-Correlation-ID: id"]
        {
            assert!(keys(true).contains(&setting.to_owned()) && !keys(false).contains(&setting.to_owned()), "{setting}");
        }
        for setting in ["http.https://h/.sslCAInfo=/p.tmp/CA", "url.https://h/.insteadOf=git@h:", "http.userAgent=agent"] {
            assert!(keys(false).contains(&setting.to_owned()), "{setting}");
        }
        assert!(keys(false).contains(&"http.https://h/.extraHeader=Authorization: Basic secret".to_owned()));
        assert!(!parts(true).included().contains("secret") && parts(true).included().contains("$CI_JOB_TOKEN"));
    }

    #[test]
    fn git_reads_what_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let values = [("a.b", "plain"), ("http.https://h:1/.extraHeader", "X: \"y\" \\ z # ; '"), ("include.x", "two\nlines  ")];
        std::fs::write(file.path(), values.map(|(key, value)| setting(key, value)).concat()).unwrap();
        for (key, value) in values {
            let output = Command::new("git").args(["config", "--null", "--file"]).arg(file.path()).arg(key).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{value}\0"), "{key}");
        }
    }
}
