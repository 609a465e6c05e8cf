//! What a job consists of, as GitLab hands it out.
//!
//! Fields carry GitLab's names. What GitLab can ask for and gantry does not do yet is kept by name in
//! [`Job::unsupported`], so that the job's own log can say so.

use crate::{Secret, Variables};
use std::time::Duration;

/// GitLab's number of a job.
pub type JobId = u64;

/// A job with all that is needed to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// GitLab's number of the job.
    pub id: JobId,
    /// The job token: `JOB-TOKEN` of every call for this job, password of the clone.
    pub token: Secret,
    /// Name in `.gitlab-ci.yml`.
    pub name: String,
    /// Stage it belongs to.
    pub stage: String,
    /// Pipeline's number.
    pub pipeline_id: u64,
    /// Project it belongs to.
    pub project: ProjectInfo,
    /// What to clone.
    pub git: GitInfo,
    /// Whether a fetch into an existing clone is allowed by the project.
    pub allow_git_fetch: bool,
    /// How long the job may take altogether.
    pub timeout: Duration,
    /// Its variables, not expanded.
    pub variables: Variables,
    /// Its steps in order; `after_script` is one of them.
    pub steps: Vec<Step>,
    /// What runs around the fetching of the source.
    pub hooks: Vec<Hook>,
    /// The image of the build container, when the job names one.
    pub image: Option<Image>,
    /// The services beside it.
    pub services: Vec<Service>,
    /// What to upload at the end.
    pub artifacts: Vec<Artifact>,
    /// Jobs whose artifacts to download first.
    pub dependencies: Vec<Dependency>,
    /// Logins for image registries.
    pub credentials: Vec<Credential>,
    /// What the server can do.
    pub features: Features,
    /// The policy that the job comes from.
    pub policy: Option<Policy>,
    /// What the job asks for and gantry cannot do yet.
    pub unsupported: Vec<Unsupported>,
}

/// The project of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectInfo {
    /// GitLab's number.
    pub id: u64,
    /// Short name.
    pub name: String,
    /// `group/project`.
    pub full_path: String,
    /// Number of the topmost group.
    pub root_namespace_id: u64,
}

/// A policy that adds jobs to a project's pipelines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether the job's own variables win over the policy's; `None` when the policy does not say.
    pub override_allowed: Option<bool>,
    /// Variables for which the opposite holds.
    pub exceptions: Vec<String>,
}

/// What to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitInfo {
    /// Repository with credentials in it (`https://gitlab-ci-token:…@host/group/project.git`).
    pub repo_url: Secret,
    /// Branch, tag or merge request ref.
    pub reference: String,
    /// Commit to check out.
    pub sha: String,
    /// Commit before the push.
    pub before_sha: String,
    /// Branch or tag.
    pub ref_type: RefType,
    /// Refspecs to fetch, in order.
    pub refspecs: Vec<String>,
    /// How many commits; 0 means all.
    pub depth: u32,
    /// `sha1` or `sha256`.
    pub object_format: String,
    /// Whether the ref is protected.
    pub protected: Option<bool>,
}

/// Kind of ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefType {
    /// A branch (or a merge request).
    Branch,
    /// A tag.
    Tag,
}

/// A list of commands that run in one shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `script`, `release`, … or `after_script`.
    pub name: String,
    /// The commands.
    pub script: Vec<String>,
    /// When it runs.
    pub when: When,
    /// Whether its failure leaves the job unharmed.
    pub allow_failure: bool,
}

/// Commands that run in the helper container at a point of the job's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `pre_get_sources_script` or `post_get_sources_script`.
    pub name: String,
    /// The commands.
    pub script: Vec<String>,
}

/// Condition of a step or an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So far all went well.
    OnSuccess,
    /// Something failed.
    OnFailure,
    /// In any case.
    Always,
}

impl When {
    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnSuccess => "on_success",
            Self::OnFailure => "on_failure",
            Self::Always => "always",
        }
    }

    /// Reads GitLab's word; the empty word is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "on_success" => Some(Self::OnSuccess),
            "on_failure" => Some(Self::OnFailure),
            "always" => Some(Self::Always),
            _ => None,
        }
    }

    /// Whether it applies to a job that has (not) succeeded.
    pub fn applies(self, succeeded: bool) -> bool {
        match self {
            Self::OnSuccess => succeeded,
            Self::OnFailure => !succeeded,
            Self::Always => true,
        }
    }
}

/// An image and how to start it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Reference, with variables not expanded.
    pub name: String,
    /// Replaces the image's entrypoint; empty means the image's own.
    pub entrypoint: Vec<String>,
    /// When to pull, in order of preference; empty means the runner's choice.
    pub pull_policy: Vec<PullPolicy>,
    /// `uid` or `uid:gid` to run as (`image:kubernetes:user`).
    pub user: Option<String>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfNotPresent => "if-not-present",
            Self::Never => "never",
        }
    }

    /// Reads GitLab's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Always, Self::IfNotPresent, Self::Never].into_iter().find(|policy| policy.as_str() == text)
    }
}

/// A service container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its image; `entrypoint` replaces the image's.
    pub image: Image,
    /// Host names, split on blanks and commas.
    pub aliases: Vec<String>,
    /// Replaces the image's command.
    pub command: Vec<String>,
    /// Its own variables, on top of the job's public ones.
    pub variables: Variables,
    /// It has ports for a proxy: its names are then not the pod's.
    pub has_ports: bool,
}

impl Service {
    /// What a log calls it, as GitLab Runner does: its image without a tag, then its aliases.
    pub fn shown(&self, variables: &Variables) -> String {
        let image = variables.expand(&self.image.name);
        let path = image.split('@').next().unwrap_or(&image);
        let name = path.rfind('/').map_or(0, |at| at + 1);
        let path = path[name..].find(':').map_or(path, |at| &path[..name + at]);
        let aliases = self.aliases.iter().map(|alias| variables.expand(alias));
        std::iter::once(path.to_owned()).chain(aliases).collect::<Vec<_>>().join("-")
    }
}

/// An archive to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Base name of the archive; empty means `artifacts`.
    pub name: String,
    /// Globs below the project directory.
    pub paths: Vec<String>,
    /// Globs to leave out.
    pub exclude: Vec<String>,
    /// Whether files git does not track belong to it.
    pub untracked: bool,
    /// When to upload.
    pub when: When,
    /// `archive`, `junit`, `dotenv`, …
    pub artifact_type: String,
    /// How to pack it.
    pub format: ArtifactFormat,
    /// How long the server keeps it, in GitLab's words; passed on.
    pub expire_in: String,
}

/// Packing of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactFormat {
    /// One zip archive.
    Zip,
    /// Each file gzipped, one after the other.
    Gzip,
    /// The file as it is.
    Raw,
}

impl ArtifactFormat {
    /// GitLab's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Gzip => "gzip",
            Self::Raw => "raw",
        }
    }

    /// Reads GitLab's word; the empty word is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "zip" => Some(Self::Zip),
            "gzip" => Some(Self::Gzip),
            "raw" => Some(Self::Raw),
            _ => None,
        }
    }
}

/// A job whose artifacts are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its number.
    pub id: JobId,
    /// Its job token, for the download.
    pub token: Secret,
    /// Its name.
    pub name: String,
    /// Name of its archive; empty means it has none.
    pub filename: String,
    /// Bytes of the archive, as far as known.
    pub size: u64,
}

/// A registry login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Registry host.
    pub url: String,
    /// User.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// What the server of a job can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// It shows section markers.
    pub trace_sections: bool,
    /// Token prefixes to mask besides our own.
    pub token_mask_prefixes: Vec<String>,
    /// Failure reasons it knows.
    pub failure_reasons: Vec<String>,
}

/// Something a job asks for that gantry does not do yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What it is, in GitLab's words: `cache`, `secrets`, …
    pub what: String,
    /// Whether the job must fail, because it cannot be right without.
    pub fatal: bool,
}
