//! Where artifacts come from, as a statement beside them (`RUNNER_GENERATE_ARTIFACTS_METADATA`): SLSA provenance v1 in an
//! in-toto statement, with GitLab Runner's fields, so that whoever checks them need not know who ran the job.
//!
//! Values of variables stay out of it: it is an artifact that many may read.

use crate::git;
use agent_contract::Plan;
use anyhow::{Context, Result};
use gitlab_api::log::{self, Stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The only schema that there is (`SLSA_PROVENANCE_SCHEMA_VERSION`).
pub const SCHEMA: &str = "v1";
/// Length of a time up to its seconds.
const SECONDS: usize = 19;

/// A time as statements have it: RFC 3339, in whole seconds.
pub fn at(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = log::stamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX), Stream::RUNNER, false);
    format!("{}Z", String::from_utf8_lossy(&stamp[..SECONDS]))
}

/// What a statement is made of besides the files.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its name: the artifact's.
    pub name: String,
    document: Value,
}

impl Facts {
    /// Those of a job that began and ended then, in RFC 3339.
    pub fn of(plan: &Plan, name: &str, (began, ended): (&str, &str)) -> Self {
        let (job, settings) = (&plan.job, &plan.settings);
        let source = git::address(job);
        let value = |name: &str| job.variables.value(name).unwrap_or_default();
        let mut external: Map<_, _> = job.variables.iter().map(|one| (one.key.clone(), Value::from(""))).collect();
        external.insert("entryPoint".to_owned(), Value::from(job.name.as_str()));
        external.insert("source".to_owned(), Value::from(source.as_str()));
        let about = format!("https://gitlab.com/gitlab-org/gitlab-runner/-/blob/v{}/PROVENANCE.md", settings.version);
        let architecture = value("CI_RUNNER_EXECUTABLE_ARCH");
        let architecture = architecture.rsplit('/').next().unwrap_or_default();
        let document = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": about,
                    "externalParameters": external,
                    "internalParameters": {"name": settings.runner_name, "executor": "kubernetes", "architecture": architecture,
                        "job": job.id.to_string()},
                    // Under this key also where it is a SHA-1, as GitLab Runner has it.
                    "resolvedDependencies": [{"uri": source, "digest": {"sha256": job.git.sha}}],
                },
                "runDetails": {
                    "builder": {"id": format!("{source}/-/runners/{}", value("CI_RUNNER_ID")),
                        "version": {"gitlab-runner": settings.version}},
                    "metadata": {"invocationId": job.id.to_string(), "startedOn": began, "finishedOn": ended},
                },
            },
        });
        let name = if name.is_empty() { "artifacts" } else { name };
        Self { name: name.to_owned(), document }
    }

    /// Writes the statement about files below `directory`; answers where, below it.
    ///
    /// # Errors
    /// When a file cannot be read, or the statement not be written.
    pub fn write(mut self, directory: &Path, files: &BTreeSet<PathBuf>) -> Result<PathBuf> {
        let mut subjects = Vec::new();
        for file in files {
            let path = directory.join(file);
            if std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
                let digest = sha256(&path).with_context(|| format!("failed to read {}", path.display()))?;
                subjects.push(json!({"name": file.display().to_string(), "digest": {"sha256": digest}}));
            }
        }
        self.document["subject"] = Value::from(subjects);
        let place = PathBuf::from(format!("{}-metadata.json", self.name));
        let path = directory.join(&place);
        let on_failure = || format!("failed to write {}", path.display());
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        self.document.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).with_context(on_failure)?;
        // What the job left under this name may be a link that leads elsewhere.
        let _ = std::fs::remove_file(&path);
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&path).with_context(on_failure)?;
        file.write_all(&text).with_context(on_failure)?;
        Ok(place)
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
