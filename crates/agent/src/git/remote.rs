//! Where the source comes from, with the login apart from the address.

use anyhow::{Context, Result};
use base64::Engine;
use job::{Job, Secret};
use url::Url;

/// Where from.
#[derive(Debug)]
pub struct Remote {
    /// Address without a login.
    pub url: String,
    /// Scheme, host and port of it with a `/` behind: what settings of git hold for. Empty for a path.
    pub base: String,
    /// User of the login.
    pub user: String,
    /// Header that logs in.
    pub header: Option<Secret>,
}

impl Remote {
    /// The job's, at the address that the configuration replaces it by (`clone_url`).
    ///
    /// # Errors
    /// When the address cannot be read; it may hold the token, so the error does not show it.
    pub fn of(job: &Job, clone_url: Option<&str>) -> Result<Self> {
        let mut url = Url::parse(job.git.repo_url.expose()).ok().context("the repository's address cannot be read")?;
        let (user, password) = (url.username().to_owned(), decoded(url.password().unwrap_or_default()));
        if let Some(base) = clone_url {
            let base = Url::parse(base).ok().context("the runner's clone_url cannot be read")?;
            // GitLab's own path below its host is part of the replaced address.
            let path = job.variables.value("CI_PROJECT_PATH").filter(|path| !path.is_empty());
            let path = path.map(|path| format!("{}/{path}.git", base.path().trim_end_matches('/')));
            url = Url::parse(&base.origin().ascii_serialization()).unwrap_or(base).join(path.as_deref().unwrap_or(url.path()))?;
        }
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let base = if url.has_host() { format!("{}/", url.origin().ascii_serialization()) } else { String::new() };
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", decoded(&user)));
        let header = (!password.is_empty() && !base.is_empty()).then(|| Secret::new(format!("Authorization: Basic {login}")));
        Ok(Self { url: url.to_string(), base, user: decoded(&user), header })
    }

    /// Every address of GitLab's host that ssh would be used for, and what to use instead (`GIT_SUBMODULE_FORCE_HTTPS`).
    pub fn instead_of_ssh(&self, job: &Job) -> Vec<(String, String)> {
        let value = |name: &str| job.variables.value(name).filter(|text| !text.is_empty());
        let own = Url::parse(&self.base).ok().and_then(|url| url.host_str().map(str::to_owned));
        let Some(host) = value("CI_SERVER_SHELL_SSH_HOST").or_else(|| value("CI_SERVER_HOST")).or(own) else { return Vec::new() };
        let port = value("CI_SERVER_SHELL_SSH_PORT").filter(|port| port != "22");
        let spellings = match port {
            Some(port) => vec![format!("ssh://git@{host}:{port}/")],
            None => vec![format!("git@{host}:"), format!("ssh://git@{host}/")],
        };
        spellings.into_iter().map(|spelling| (self.base.clone(), spelling)).collect()
    }
}

fn decoded(text: &str) -> String {
    percent_decode(text.as_bytes())
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let hex = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Remote;
    use job::{Secret, Variable};

    fn job(url: &str, variables: &[(&str, &str)]) -> job::Job {
        let payload: gitlab_api::JobResponse = serde_json::from_value(serde_json::json!({"id": 1, "token": "t"})).unwrap();
        let mut job = payload.into_job().unwrap();
        job.git.repo_url = Secret::new(url);
        job.variables.extend(variables.iter().map(|(name, value)| Variable::public(*name, *value)));
        job
    }

    #[test]
    fn the_login_leaves_the_address() {
        let remote = Remote::of(&job("https://gitlab-ci-token:a%2Fb@git.test:8443/g/p.git", &[]), None).unwrap();
        assert_eq!((remote.url.as_str(), remote.base.as_str()), ("https://git.test:8443/g/p.git", "https://git.test:8443/"));
        // gitlab-ci-token:a/b
        assert_eq!(remote.header.unwrap().expose(), "Authorization: Basic Z2l0bGFiLWNpLXRva2VuOmEvYg==");
        assert_eq!(remote.user, "gitlab-ci-token");
        let local = Remote::of(&job("file:///srv/p", &[]), None).unwrap();
        assert!(local.header.is_none() && local.base.is_empty());
        assert!(!format!("{:?}", Remote::of(&job("not an address token", &[]), None).unwrap_err()).contains("token"));
    }

    #[test]
    fn a_clone_url_replaces_what_stands_before_the_project() {
        let job = job("https://u:p@gitlab.test/sub/g/p.git", &[("CI_PROJECT_PATH", "g/p")]);
        let remote = Remote::of(&job, Some("http://inside:8080/other/")).unwrap();
        assert_eq!((remote.url.as_str(), remote.base.as_str()), ("http://inside:8080/other/g/p.git", "http://inside:8080/"));
    }

    #[test]
    fn addresses_for_ssh_are_replaced_by_port() {
        let plain =
            job("https://u:p@gitlab.test/g/p.git", &[("CI_SERVER_HOST", "gitlab.test"), ("CI_SERVER_SHELL_SSH_PORT", "22")]);
        let rules = Remote::of(&plain, None).unwrap().instead_of_ssh(&plain);
        let base = "https://gitlab.test/".to_owned();
        assert_eq!(rules, [(base.clone(), "git@gitlab.test:".to_owned()), (base.clone(), "ssh://git@gitlab.test/".to_owned())]);
        let odd = job(
            "https://u:p@gitlab.test/g/p.git",
            &[("CI_SERVER_SHELL_SSH_HOST", "ssh.test"), ("CI_SERVER_SHELL_SSH_PORT", "2222")],
        );
        let rules = Remote::of(&odd, None).unwrap().instead_of_ssh(&odd);
        assert_eq!(rules, [(base, "ssh://git@ssh.test:2222/".to_owned())]);
    }
}
