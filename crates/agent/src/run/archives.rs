//! Artifacts between the project directory and GitLab, as stages of the job.

use super::Ending;
use super::stages::{Stages, helper_failed};
use super::transfers;
use crate::provenance::{self, Facts};
use crate::{artifacts, reports};
use anyhow::{Context, Result};
use gitlab_api::artifacts::UploadQuery;
use job::{Artifact, ArtifactFormat, Dependency, durations};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// A log is no speedometer.
const SHORTEST_METER: Duration = Duration::from_millis(100);

impl Stages<'_> {
    /// Artifacts of earlier jobs, tried as often as the job wants.
    pub(super) async fn downloads(&self) -> Result<(), Ending> {
        let wanted: Vec<_> = self.plan.job.dependencies.iter().filter(|one| !one.filename.is_empty()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let tries = self.setting.attempts("ARTIFACT_DOWNLOAD_ATTEMPTS");
        for attempt in 1..=tries {
            self.section("download_artifacts", "Downloading artifacts").await;
            let mut result = Ok(());
            for dependency in &wanted {
                result = self.download(dependency).await;
                if let Err(error) = &result {
                    let of = format!("{} ({})", dependency.name, dependency.id);
                    self.trace.work_line(&format!("\x1b[31;1mERROR: failed to download the artifacts of {of}: {error:#}")).await;
                    break;
                }
            }
            self.section_end("download_artifacts").await;
            if result.is_ok() {
                return Ok(());
            }
            self.pause_before(attempt + 1, tries).await;
        }
        Err(helper_failed())
    }

    /// A file for an archive on its way (`ARCHIVER_STAGING_DIR`).
    fn staged(&self) -> Result<tempfile::TempPath> {
        let asked = self.setting.expanded.get("ARCHIVER_STAGING_DIR").filter(|directory| !directory.is_empty());
        let directory = asked.map_or_else(std::env::temp_dir, PathBuf::from);
        let on_failure = || format!("failed to make room for the archive in {}", directory.display());
        std::fs::create_dir_all(&directory).with_context(on_failure)?;
        Ok(tempfile::NamedTempFile::new_in(&directory).with_context(on_failure)?.into_temp_path())
    }

    async fn download(&self, dependency: &Dependency) -> Result<()> {
        self.trace.work_line(&format!("\x1b[32;1mDownloading artifacts for {} ({})...", dependency.name, dependency.id)).await;
        let archive = self.staged()?;
        let direct = self.setting.flags.is_on("FF_USE_DIRECT_DOWNLOAD");
        let transfer = async || self.client.download_artifact((dependency.id, &dependency.token), direct, &archive).await;
        self.metered("Downloading artifacts", transfers::persist(&self.trace, "the download", transfer)).await?;
        let (from, into) = (archive.to_path_buf(), self.setting.directory.clone());
        let files = tokio::task::spawn_blocking(move || artifacts::unpack(&from, &into))
            .await
            .context("the unpacking was given up")??;
        self.trace.work_line(&format!("Downloading artifacts from coordinator... ok  id={} files={files}", dependency.id)).await;
        Ok(())
    }

    /// A transfer that says how far it is as often as the job wants (`TRANSFER_METER_FREQUENCY`).
    async fn metered<T>(&self, what: &str, transfer: impl Future<Output = T>) -> T {
        let asked = self.setting.expanded.get("TRANSFER_METER_FREQUENCY").and_then(durations::parse);
        let Some(every) = asked.filter(|every| !every.is_zero()) else { return transfer.await };
        tokio::pin!(transfer);
        let (begun, before) = (Instant::now(), self.client.moved());
        loop {
            tokio::select! {
                result = &mut transfer => return result,
                () = tokio::time::sleep(every.max(SHORTEST_METER)) => {
                    let moved = self.client.moved() - before;
                    let speed = moved as f64 / begun.elapsed().as_secs_f64();
                    let (moved, speed) = (megabytes(moved as f64), megabytes(speed));
                    self.trace.work_line(&format!("{what}: {moved} MB so far, {speed} MB/s")).await;
                }
            }
        }
    }

    /// Artifacts of this job that fit how it ended.
    pub(super) async fn uploads(&self, ending: &Ending) -> Result<(), Ending> {
        let wanted: Vec<_> = self.plan.job.artifacts.iter().filter(|one| one.when.applies(ending.is_success())).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let outcome = if ending.is_success() { ("on_success", "successful") } else { ("on_failure", "failed") };
        let name = format!("upload_artifacts_{}", outcome.0);
        self.section(&name, &format!("Uploading artifacts for {} job", outcome.1)).await;
        let mut result = Ok(());
        for artifact in wanted {
            if let Err(error) = self.upload(artifact).await {
                self.trace.work_line(&format!("\x1b[31;1mERROR: failed to upload artifacts: {error:#}")).await;
                result = Err(helper_failed());
            }
        }
        self.section_end(&name).await;
        result
    }

    /// What a statement about the artifact says, where the job wants one.
    async fn provenance(&self, artifact: &Artifact) -> Option<Facts> {
        if artifact.format != ArtifactFormat::Zip || !self.setting.switch("RUNNER_GENERATE_ARTIFACTS_METADATA", false) {
            return None;
        }
        let schema = self.setting.expanded.get("SLSA_PROVENANCE_SCHEMA_VERSION").filter(|schema| !schema.is_empty());
        if let Some(other) = schema.filter(|schema| *schema != provenance::SCHEMA) {
            let line = format!("\x1b[0;33mWARNING: there is no provenance schema {other:?}, {} is used", provenance::SCHEMA);
            self.trace.work_line(&line).await;
        }
        let name = self.setting.expanded.expand(&artifact.name);
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        Some(Facts::of(self.plan, name, (&provenance::at(self.began), &provenance::at(SystemTime::now()))))
    }

    async fn untracked(&self) -> Vec<std::path::PathBuf> {
        let files = self.sources().untracked().await;
        if files.is_none() {
            self.trace.work_line("\x1b[0;33mWARNING: untracked: there is no repository to ask").await;
        }
        files.unwrap_or_default()
    }

    async fn upload(&self, artifact: &Artifact) -> Result<()> {
        self.trace.work_line("\x1b[32;1mUploading artifacts...").await;
        let untracked = if artifact.untracked { Some(self.untracked().await) } else { None };
        let variables = &self.setting.expanded;
        let expand = |list: &[String]| list.iter().map(|text| variables.expand(text)).collect();
        let expanded = Artifact { paths: expand(&artifact.paths), exclude: expand(&artifact.exclude), ..artifact.clone() };
        let level = artifacts::Level::parse(variables.get("ARTIFACT_COMPRESSION_LEVEL").unwrap_or_default());
        let archive = self.staged()?;
        let (directory, into, format) = (self.setting.directory.clone(), archive.to_path_buf(), artifact.format);
        let provenance = self.provenance(artifact).await;
        let packed = tokio::task::spawn_blocking(move || {
            let mut selection = artifacts::select(&directory, &expanded)?;
            if let Some(files) = untracked {
                selection.add_untracked(&directory, files, &expanded);
            }
            if let Some(facts) = provenance.filter(|_| !selection.paths.is_empty()) {
                let place = facts.write(&directory, &selection.paths)?;
                selection.paths.insert(place);
            }
            let paths = &selection.paths;
            match format {
                _ if paths.is_empty() => Ok(()),
                ArtifactFormat::Zip => artifacts::pack(&directory, paths, &into, level),
                ArtifactFormat::Gzip => reports::pack_gzip(&directory, paths, &into),
                ArtifactFormat::Raw => reports::pack_raw(&directory, paths, &into),
            }
            .map(|()| selection)
        });
        let selection = packed.await.context("the packing was given up")??;
        for (pattern, count) in &selection.found {
            self.trace.work_line(&found(pattern, *count)).await;
        }
        if selection.paths.is_empty() {
            self.trace.work_line("\x1b[31;1mERROR: No files to upload").await;
            return Ok(());
        }
        let filename = file_name(&variables.expand(&artifact.name), artifact.format);
        let query = UploadQuery {
            artifact_format: artifact.format.as_str().to_owned(),
            artifact_type: artifact.artifact_type.clone(),
            expire_in: artifact.expire_in.clone(),
        };
        let job = &self.plan.job;
        let transfer = async || self.client.upload_artifact((job.id, &job.token), &query, &filename, &archive).await;
        self.metered("Uploading artifacts", transfers::persist(&self.trace, "the upload", transfer)).await?;
        self.trace
            .work_line(&format!(
                "Uploading artifacts as \"{}\" to coordinator... 201 Created  id={}",
                artifact.artifact_type, job.id
            ))
            .await;
        Ok(())
    }
}

/// What a pattern found.
fn found(pattern: &str, count: usize) -> String {
    match (pattern, count) {
        (artifacts::UNTRACKED, 0) => "\x1b[0;33mWARNING: untracked: no files".to_owned(),
        (artifacts::UNTRACKED, count) => format!("untracked: found {count} files"),
        (_, 0) => format!(
            "\x1b[0;33mWARNING: {pattern}: no matching files. Ensure that the artifact path is relative to the working directory"
        ),
        _ => format!("{pattern}: found {count} matching artifact files and directories"),
    }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.2}", bytes / 1e6)
}

/// What the upload is called: the last part of the name the job gives it, and what its format is called by.
fn file_name(name: &str, format: ArtifactFormat) -> String {
    let base = match name.trim_end_matches('/').rsplit('/').next().unwrap_or_default() {
        "" if name.is_empty() => "artifacts",
        "" | "." => "default",
        base => base,
    };
    let extension = match format {
        ArtifactFormat::Zip => ".zip",
        ArtifactFormat::Gzip => ".gz",
        ArtifactFormat::Raw => "",
    };
    format!("{base}{extension}")
}

#[cfg(test)]
mod tests {
    use super::file_name;
    use job::ArtifactFormat::{Gzip, Raw, Zip};

    #[test]
    fn uploads_are_called_by_the_last_part_of_their_name() {
        for (name, format, expected) in [
            ("", Zip, "artifacts.zip"),
            ("a/b", Zip, "b.zip"),
            (".", Gzip, "default.gz"),
            ("/", Zip, "default.zip"),
            ("dotenv", Gzip, "dotenv.gz"),
            ("file.txt", Raw, "file.txt"),
        ] {
            assert_eq!(file_name(name, format), expected, "{name}");
        }
    }
}
