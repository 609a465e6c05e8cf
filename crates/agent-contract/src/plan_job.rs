//! A job as the plan carries it, and the two conversions.
//!
//! `job::Job` is not serialisable on purpose, so its wire form stands here; the round trip is tested field by field
//! through equality.

use crate::PlanError;
use job::Secret;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Serialize, Deserialize)]
pub(crate) struct WireJob {
    id: u64,
    token: String,
    name: String,
    stage: String,
    pipeline_id: u64,
    project_id: u64,
    project_name: String,
    project_path: String,
    #[serde(default)]
    root_namespace_id: u64,
    git: WireGit,
    allow_git_fetch: bool,
    timeout_ms: u64,
    variables: Vec<WireVariable>,
    steps: Vec<WireStep>,
    #[serde(default)]
    hooks: Vec<(String, Vec<String>)>,
    image: Option<WireImage>,
    services: Vec<WireService>,
    artifacts: Vec<WireArtifact>,
    dependencies: Vec<WireDependency>,
    credentials: Vec<(String, String, String)>,
    trace_sections: bool,
    token_mask_prefixes: Vec<String>,
    failure_reasons: Vec<String>,
    #[serde(default)]
    policy: Option<(String, Option<bool>, Vec<String>)>,
    unsupported: Vec<(String, bool)>,
}

#[derive(Serialize, Deserialize)]
struct WireGit {
    repo_url: String,
    reference: String,
    sha: String,
    before_sha: String,
    tag: bool,
    refspecs: Vec<String>,
    depth: u32,
    object_format: String,
    protected: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct WireVariable {
    key: String,
    value: String,
    public: bool,
    file: bool,
    masked: bool,
    raw: bool,
}

#[derive(Serialize, Deserialize)]
struct WireStep {
    name: String,
    script: Vec<String>,
    when: String,
    allow_failure: bool,
}

#[derive(Serialize, Deserialize)]
struct WireImage {
    name: String,
    entrypoint: Vec<String>,
    pull_policy: Vec<String>,
    user: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireService {
    image: WireImage,
    aliases: Vec<String>,
    command: Vec<String>,
    variables: Vec<WireVariable>,
    #[serde(default)]
    has_ports: bool,
}

#[derive(Serialize, Deserialize)]
struct WireArtifact {
    name: String,
    paths: Vec<String>,
    exclude: Vec<String>,
    untracked: bool,
    when: String,
    artifact_type: String,
    format: String,
    expire_in: String,
}

#[derive(Serialize, Deserialize)]
struct WireDependency {
    id: u64,
    token: String,
    name: String,
    filename: String,
    size: u64,
}

impl From<&job::Job> for WireJob {
    fn from(job: &job::Job) -> Self {
        Self {
            id: job.id,
            token: job.token.expose().to_owned(),
            name: job.name.clone(),
            stage: job.stage.clone(),
            pipeline_id: job.pipeline_id,
            project_id: job.project.id,
            project_name: job.project.name.clone(),
            project_path: job.project.full_path.clone(),
            root_namespace_id: job.project.root_namespace_id,
            git: WireGit::from(&job.git),
            allow_git_fetch: job.allow_git_fetch,
            timeout_ms: u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX),
            variables: job.variables.iter().map(WireVariable::from).collect(),
            steps: job.steps.iter().map(WireStep::from).collect(),
            hooks: job.hooks.iter().map(|hook| (hook.name.clone(), hook.script.clone())).collect(),
            image: job.image.as_ref().map(WireImage::from),
            services: job.services.iter().map(WireService::from).collect(),
            artifacts: job.artifacts.iter().map(WireArtifact::from).collect(),
            dependencies: job.dependencies.iter().map(WireDependency::from).collect(),
            credentials: job
                .credentials
                .iter()
                .map(|one| (one.url.clone(), one.username.clone(), one.password.expose().to_owned()))
                .collect(),
            trace_sections: job.features.trace_sections,
            token_mask_prefixes: job.features.token_mask_prefixes.clone(),
            failure_reasons: job.features.failure_reasons.clone(),
            policy: job.policy.as_ref().map(|one| (one.name.clone(), one.override_allowed, one.exceptions.clone())),
            unsupported: job.unsupported.iter().map(|one| (one.what.clone(), one.fatal)).collect(),
        }
    }
}

impl WireJob {
    pub(crate) fn into_job(self) -> Result<job::Job, PlanError> {
        Ok(job::Job {
            id: self.id,
            token: Secret::new(self.token),
            name: self.name,
            stage: self.stage,
            pipeline_id: self.pipeline_id,
            project: job::ProjectInfo {
                id: self.project_id,
                name: self.project_name,
                full_path: self.project_path,
                root_namespace_id: self.root_namespace_id,
            },
            git: self.git.into_git(),
            allow_git_fetch: self.allow_git_fetch,
            timeout: Duration::from_millis(self.timeout_ms),
            variables: self.variables.into_iter().map(WireVariable::into_variable).collect(),
            steps: self.steps.into_iter().map(WireStep::into_step).collect::<Result<_, _>>()?,
            hooks: self.hooks.into_iter().map(|(name, script)| job::Hook { name, script }).collect(),
            image: self.image.map(WireImage::into_image).transpose()?,
            services: self.services.into_iter().map(WireService::into_service).collect::<Result<_, _>>()?,
            artifacts: self.artifacts.into_iter().map(WireArtifact::into_artifact).collect::<Result<_, _>>()?,
            dependencies: self.dependencies.into_iter().map(WireDependency::into_dependency).collect(),
            credentials: self
                .credentials
                .into_iter()
                .map(|(url, username, password)| job::Credential { url, username, password: Secret::new(password) })
                .collect(),
            features: job::Features {
                trace_sections: self.trace_sections,
                token_mask_prefixes: self.token_mask_prefixes,
                failure_reasons: self.failure_reasons,
            },
            policy: self.policy.map(|(name, override_allowed, exceptions)| job::Policy { name, override_allowed, exceptions }),
            unsupported: self.unsupported.into_iter().map(|(what, fatal)| job::Unsupported { what, fatal }).collect(),
        })
    }
}

fn word<T>(field: &'static str, text: String, parsed: Option<T>) -> Result<T, PlanError> {
    parsed.ok_or(PlanError::UnknownWord(field, text))
}

impl From<&job::GitInfo> for WireGit {
    fn from(git: &job::GitInfo) -> Self {
        Self {
            repo_url: git.repo_url.expose().to_owned(),
            reference: git.reference.clone(),
            sha: git.sha.clone(),
            before_sha: git.before_sha.clone(),
            tag: git.ref_type == job::RefType::Tag,
            refspecs: git.refspecs.clone(),
            depth: git.depth,
            object_format: git.object_format.clone(),
            protected: git.protected,
        }
    }
}

impl WireGit {
    fn into_git(self) -> job::GitInfo {
        job::GitInfo {
            repo_url: Secret::new(self.repo_url),
            reference: self.reference,
            sha: self.sha,
            before_sha: self.before_sha,
            ref_type: if self.tag { job::RefType::Tag } else { job::RefType::Branch },
            refspecs: self.refspecs,
            depth: self.depth,
            object_format: self.object_format,
            protected: self.protected,
        }
    }
}

impl From<&job::Variable> for WireVariable {
    fn from(variable: &job::Variable) -> Self {
        let job::Variable { key, value, public, file, masked, raw } = variable.clone();
        Self { key, value, public, file, masked, raw }
    }
}

impl WireVariable {
    fn into_variable(self) -> job::Variable {
        let Self { key, value, public, file, masked, raw } = self;
        job::Variable { key, value, public, file, masked, raw }
    }
}

impl From<&job::Step> for WireStep {
    fn from(step: &job::Step) -> Self {
        let when = step.when.as_str().to_owned();
        Self { name: step.name.clone(), script: step.script.clone(), when, allow_failure: step.allow_failure }
    }
}

impl WireStep {
    fn into_step(self) -> Result<job::Step, PlanError> {
        let parsed = job::When::parse(&self.when);
        let when = word("steps.when", self.when, parsed)?;
        Ok(job::Step { name: self.name, script: self.script, when, allow_failure: self.allow_failure })
    }
}

impl From<&job::Image> for WireImage {
    fn from(image: &job::Image) -> Self {
        Self {
            name: image.name.clone(),
            entrypoint: image.entrypoint.clone(),
            pull_policy: image.pull_policy.iter().map(|policy| policy.as_str().to_owned()).collect(),
            user: image.user.clone(),
        }
    }
}

impl WireImage {
    fn into_image(self) -> Result<job::Image, PlanError> {
        let policies = self.pull_policy.into_iter().map(|text| {
            let parsed = job::PullPolicy::parse(&text);
            word("image.pull_policy", text, parsed)
        });
        let pull_policy = policies.collect::<Result<_, _>>()?;
        Ok(job::Image { name: self.name, entrypoint: self.entrypoint, pull_policy, user: self.user })
    }
}

impl From<&job::Service> for WireService {
    fn from(service: &job::Service) -> Self {
        Self {
            image: WireImage::from(&service.image),
            aliases: service.aliases.clone(),
            command: service.command.clone(),
            variables: service.variables.iter().map(WireVariable::from).collect(),
            has_ports: service.has_ports,
        }
    }
}

impl WireService {
    fn into_service(self) -> Result<job::Service, PlanError> {
        Ok(job::Service {
            image: self.image.into_image()?,
            aliases: self.aliases,
            command: self.command,
            variables: self.variables.into_iter().map(WireVariable::into_variable).collect(),
            has_ports: self.has_ports,
        })
    }
}

impl From<&job::Artifact> for WireArtifact {
    fn from(artifact: &job::Artifact) -> Self {
        Self {
            name: artifact.name.clone(),
            paths: artifact.paths.clone(),
            exclude: artifact.exclude.clone(),
            untracked: artifact.untracked,
            when: artifact.when.as_str().to_owned(),
            artifact_type: artifact.artifact_type.clone(),
            format: artifact.format.as_str().to_owned(),
            expire_in: artifact.expire_in.clone(),
        }
    }
}

impl WireArtifact {
    fn into_artifact(self) -> Result<job::Artifact, PlanError> {
        let (when, format) = (job::When::parse(&self.when), job::ArtifactFormat::parse(&self.format));
        Ok(job::Artifact {
            name: self.name,
            paths: self.paths,
            exclude: self.exclude,
            untracked: self.untracked,
            when: word("artifacts.when", self.when, when)?,
            artifact_type: self.artifact_type,
            format: word("artifacts.format", self.format, format)?,
            expire_in: self.expire_in,
        })
    }
}

impl From<&job::Dependency> for WireDependency {
    fn from(dependency: &job::Dependency) -> Self {
        Self {
            id: dependency.id,
            token: dependency.token.expose().to_owned(),
            name: dependency.name.clone(),
            filename: dependency.filename.clone(),
            size: dependency.size,
        }
    }
}

impl WireDependency {
    fn into_dependency(self) -> job::Dependency {
        let Self { id, token, name, filename, size } = self;
        job::Dependency { id, token: Secret::new(token), name, filename, size }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use job::{Secret, Variable, Variables, When};

    /// A job in which every field differs from its default.
    pub(crate) fn sample_job() -> job::Job {
        let image = |name: &str| job::Image {
            name: name.into(),
            entrypoint: vec!["/init".into()],
            pull_policy: vec![job::PullPolicy::Always, job::PullPolicy::Never],
            user: Some("1000:1000".into()),
        };
        let variable = Variable { key: "A".into(), value: "b\0".into(), public: true, file: true, masked: true, raw: true };
        job::Job {
            id: 7,
            token: Secret::new("t"),
            name: "n".into(),
            stage: "s".into(),
            pipeline_id: 3,
            project: job::ProjectInfo { id: 4, name: "p".into(), full_path: "g/p".into(), root_namespace_id: 9 },
            git: job::GitInfo {
                repo_url: Secret::new("http://u:p@h/g/p.git"),
                reference: "main".into(),
                sha: "abc".into(),
                before_sha: "def".into(),
                ref_type: job::RefType::Tag,
                refspecs: vec!["+x:y".into()],
                depth: 20,
                object_format: "sha256".into(),
                protected: Some(true),
            },
            allow_git_fetch: true,
            timeout: std::time::Duration::from_millis(1500),
            variables: Variables::new(vec![variable.clone()]),
            steps: vec![job::Step { name: "script".into(), script: vec!["x".into()], when: When::Always, allow_failure: true }],
            hooks: vec![job::Hook { name: "pre_get_sources_script".into(), script: vec!["h".into()] }],
            image: Some(image("alpine")),
            services: vec![job::Service {
                image: image("redis"),
                aliases: vec!["db".into()],
                command: vec!["c".into()],
                variables: Variables::new(vec![variable]),
                has_ports: true,
            }],
            artifacts: vec![job::Artifact {
                name: "a".into(),
                paths: vec!["p".into()],
                exclude: vec!["e".into()],
                untracked: true,
                when: When::OnFailure,
                artifact_type: "junit".into(),
                format: job::ArtifactFormat::Gzip,
                expire_in: "1 week".into(),
            }],
            dependencies: vec![job::Dependency {
                id: 5,
                token: Secret::new("d"),
                name: "d".into(),
                filename: "f".into(),
                size: 6,
            }],
            credentials: vec![job::Credential { url: "h".into(), username: "u".into(), password: Secret::new("p") }],
            features: job::Features {
                trace_sections: true,
                token_mask_prefixes: vec!["x-".into()],
                failure_reasons: vec!["script_failure".into()],
            },
            policy: Some(job::Policy { name: "p".into(), override_allowed: Some(true), exceptions: vec!["V".into()] }),
            unsupported: vec![job::Unsupported { what: "cache".into(), fatal: true }],
        }
    }
}
