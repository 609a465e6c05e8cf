//! The manager of a scenario: its configuration, its permissions, and the process.
//!
//! On a cluster it runs as the service account that `gantry rbac` makes, so that every scenario is a test of the
//! least permissions.

use crate::scenario::Folder;
use crate::target::{Target, gantry, spawn, stop, text_of};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use std::path::{Path, PathBuf};
use tokio::process::Child;

/// Name of the manager's service account.
pub const ACCOUNT: &str = "gantry";

const CONCURRENT: u32 = 4;

/// What a manager says when it has read its configuration.
const LOADED: &str = "configuration loaded";

/// A manager at work.
pub struct Manager {
    program: PathBuf,
    config: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
    child: Child,
}

/// Fills in what a scenario's files leave open.
pub fn fill(text: &str, target: &Target, namespace: &str) -> String {
    let gateway = format!("{}:{}", target.gateway, target.port);
    let filled = text.replace("{{namespace}}", namespace).replace("{{gateway}}", &gateway);
    target.images.iter().fold(filled, |text, (word, image)| text.replace(&format!("{{{{{}}}}}", word.to_lowercase()), image))
}

/// The configuration of a scenario's manager.
///
/// # Errors
/// When `runner.toml` cannot be read.
pub fn configuration(folder: &Folder, target: &Target, namespace: &str, gitlab: (&str, &str)) -> Result<String> {
    let concurrent = folder.scenario.concurrent.unwrap_or(CONCURRENT);
    let base = "check_interval = 1\n[[runners]]\nname = \"e2e\"\nexecutor = \"kubernetes\"\n\
                [runners.kubernetes]\nnamespace = \"{{namespace}}\"\nimage = \"{{busybox}}\"\nhelper_image = \"{{helper}}\"\n\
                pull_policy = \"if-not-present\"\n";
    let mut config: toml::Table = toml::from_str(&fill(base, target, namespace))?;
    config.insert("concurrent".to_owned(), i64::from(concurrent).into());
    let runner = config.get_mut("runners").and_then(|runners| runners.get_mut(0)).and_then(toml::Value::as_table_mut);
    let runner = runner.context("no runner")?;
    let file = folder.path.join("runner.toml");
    if file.exists() {
        let text = std::fs::read_to_string(&file)?;
        let more: toml::Table = toml::from_str(&fill(&text, target, namespace)).with_context(|| file.display().to_string())?;
        merge(runner, more);
    }
    runner.insert("url".to_owned(), gitlab.0.into());
    runner.insert("token".to_owned(), gitlab.1.into());
    Ok(toml::to_string(&config)?)
}

fn merge(into: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(table)), toml::Value::Table(value)) => merge(table, value),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

impl Manager {
    /// Starts one that may work in these namespaces, of which the first is its own; `directory` holds its files.
    ///
    /// # Errors
    /// When it cannot be given its permissions, or does not start.
    pub async fn start(program: &Path, target: &Target, namespaces: &[String], config: &str, directory: &Path) -> Result<Self> {
        let file = directory.join("config.toml");
        std::fs::write(&file, config)?;
        let kubeconfig = if target.name == "cluster" {
            with_least_permissions(program, target, namespaces, &file, directory).await?
        } else {
            target.kubeconfig_file.clone()
        };
        let log = directory.join("manager.log");
        let child = run(program, &file, &kubeconfig, &log)?;
        Ok(Self { program: program.to_owned(), config: file, kubeconfig, log, child })
    }

    /// Kills it and starts another one.
    ///
    /// # Errors
    /// When that does not start.
    pub async fn replace(&mut self) -> Result<()> {
        self.kill().await?;
        self.start_again()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When there is nothing to kill.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("failed to kill the manager")
    }

    /// Starts it after it has ended; it is the same manager, by its files.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = run(&self.program, &self.config, &self.kubeconfig, &self.log)?;
        Ok(())
    }

    /// Starts another manager with the same configuration and permissions, its files in `directory`: another replica.
    ///
    /// # Errors
    /// When it does not start.
    pub fn twin(&self, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let (config, log) = (directory.join("config.toml"), directory.join("manager.log"));
        std::fs::copy(&self.config, &config)?;
        let child = run(&self.program, &config, &self.kubeconfig, &log)?;
        Ok(Self { program: self.program.clone(), config, kubeconfig: self.kubeconfig.clone(), log, child })
    }

    /// Puts more keys into its `[[runners]]` entry; how long its log was before.
    ///
    /// # Errors
    /// When they are none, or the file cannot be written.
    pub fn configure(&self, more: &str) -> Result<usize> {
        let mut config: toml::Table = toml::from_str(&std::fs::read_to_string(&self.config)?)?;
        let runner = config.get_mut("runners").and_then(|runners| runners.get_mut(0)).and_then(toml::Value::as_table_mut);
        merge(runner.context("no runner")?, toml::from_str(more)?);
        let before = self.log().len();
        std::fs::write(&self.config, toml::to_string(&config)?)?;
        Ok(before)
    }

    /// Whether it has read its configuration again since its log was so long.
    pub fn has_read_since(&self, length: usize) -> bool {
        self.log().get(length..).is_some_and(|more| more.contains(LOADED))
    }

    /// Its process, while it has one.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        text_of(&self.log)
    }

    /// Whether it ended by itself, which it must not.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end; whether it did, and well.
    pub async fn stop(&mut self) -> bool {
        stop(&mut self.child).await
    }
}

fn run(program: &Path, config: &Path, kubeconfig: &Path, log: &Path) -> Result<Child> {
    let mut command = gantry(program);
    command.args(["run", "--config"]).arg(config).env("KUBECONFIG", kubeconfig);
    spawn(command, log)
}

/// What `gantry rbac` prints.
///
/// # Errors
/// When it does not like the configuration.
pub async fn rbac(program: &Path, namespace: &str, config: &Path) -> Result<String> {
    let mut command = gantry(program);
    command.args(["rbac", "--namespace", namespace, "--service-account", ACCOUNT, "--config"]).arg(config);
    let output = command.output().await.context("failed to start gantry rbac")?;
    if !output.status.success() {
        bail!("gantry rbac: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Gives the account of the manager what `gantry rbac` prints, in each of the namespaces.
///
/// # Errors
/// When the API refuses it.
pub async fn grant(program: &Path, target: &Target, namespaces: &[String], config: &Path) -> Result<()> {
    let (namespace, more) = namespaces.split_first().context("no namespace")?;
    let manifest = rbac(program, namespace, config).await?;
    crate::objects::create(&target.client, &manifest, namespace).await?;
    for other in more {
        // What a configuration allows by a pattern is granted by hand: the same Role and RoleBinding there.
        let (here, there) = (format!("namespace: \"{namespace}\""), format!("namespace: \"{other}\""));
        let bound = manifest.split("---\n").skip(1).map(|one| one.replacen(&here, &there, 1));
        crate::objects::create(&target.client, &bound.collect::<Vec<_>>().join("---\n"), other).await?;
    }
    Ok(())
}

/// Grants the least permissions and answers a kubeconfig of that account.
async fn with_least_permissions(
    program: &Path,
    target: &Target,
    namespaces: &[String],
    config: &Path,
    directory: &Path,
) -> Result<PathBuf> {
    let namespace = namespaces.first().context("no namespace")?;
    grant(program, target, namespaces, config).await?;
    let token = token(&target.client, namespace).await?;
    let mut kubeconfig = serde_json::to_value(&target.kubeconfig)?;
    kubeconfig["contexts"][0]["context"]["user"] = ACCOUNT.into();
    kubeconfig["users"] = serde_json::json!([{ "name": ACCOUNT, "user": { "token": token } }]);
    let file = directory.join("manager.kubeconfig");
    // YAML reads JSON.
    std::fs::write(&file, serde_json::to_vec(&kubeconfig)?)?;
    Ok(file)
}

/// A token of the manager's account.
///
/// # Errors
/// When the API gives none.
pub async fn token(client: &kube::Client, namespace: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer =
        accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.context("failed to get a token")?;
    Ok(answer.status.context("no token was given")?.token)
}
