//! The job payload: answer of `POST jobs/request`.
//!
//! Unknown fields are ignored, missing and null ones take their default, as GitLab Runner does. What gantry cannot
//! do yet is found here, once, and travels by name in [`job::Job::unsupported`].

mod inputs;
mod options;

use crate::moa::MoaError;
use job::{FailureReason, Secret, Unsupported};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::time::Duration;

/// A job without a (positive) timeout gets GitLab Runner's two hours.
const DEFAULT_TIMEOUT_SECONDS: u64 = 7200;

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

macro_rules! payload {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name { $($(#[$fdoc])* #[serde(deserialize_with = "or_default")] pub $field: $type,)* }
    )*};
}

payload! {
    /// The whole payload. Names and types are those of the parity inventory's job payload.
    JobResponse {
        /// Job number.
        id: u64,
        /// Job token.
        token: String,
        /// Whether to reuse a clone.
        allow_git_fetch: bool,
        /// Names and numbers.
        job_info: JobInfo,
        /// What to clone.
        git_info: GitInfo,
        /// Limits.
        runner_info: RunnerInfo,
        /// Ordered variables.
        variables: Vec<Variable>,
        /// Steps in order.
        steps: Vec<Step>,
        /// Image of the build container.
        image: Image,
        /// Services.
        services: Vec<Image>,
        /// Archives to upload.
        artifacts: Vec<Artifact>,
        /// Caches; known, not done yet.
        cache: Vec<Value>,
        /// Logins.
        credentials: Vec<Credential>,
        /// Jobs to download from.
        dependencies: Vec<Dependency>,
        /// Server features.
        features: Features,
        /// External secrets; known, not done yet.
        secrets: serde_json::Map<String, Value>,
        /// What runs around the fetching of the source.
        hooks: Vec<Hook>,
        /// Native steps: the text of a JSON list, for the step runner.
        run: String,
        /// Job inputs, until [`JobResponse::interpolate`].
        inputs: Vec<Value>,
        /// The policy that the job comes from.
        policy_options: PolicyOptions,
        /// Environments that outlive their job; known, not done.
        suspend_options: serde_json::Map<String, Value>,
    }
    /// `policy_options`.
    PolicyOptions {
        /// Whether the job comes from a policy.
        execution_policy_job: bool,
        /// Name of the policy.
        policy_name: String,
        /// Whether the job's own variables count; null when the policy does not say.
        policy_variables_override_allowed: Option<bool>,
        /// Variables for which the opposite holds.
        policy_variables_override_exceptions: Vec<String>,
    }
    /// `job_info`.
    JobInfo {
        /// Job name.
        name: String,
        /// Stage name.
        stage: String,
        /// Pipeline number.
        pipeline_id: u64,
        /// Project number.
        project_id: u64,
        /// Project name.
        project_name: String,
        /// Project path.
        project_full_path: String,
        /// Number of the topmost group.
        root_namespace_id: u64,
    }
    /// `git_info`.
    GitInfo {
        /// URL with credentials.
        repo_url: String,
        /// `sha1` or `sha256`.
        repo_object_format: String,
        /// Ref name (`ref`).
        #[serde(rename = "ref")] reference: String,
        /// Commit.
        sha: String,
        /// Commit before.
        before_sha: String,
        /// `branch` or `tag`.
        ref_type: String,
        /// What to fetch.
        refspecs: Vec<String>,
        /// 0 is all.
        depth: u32,
        /// Null on old servers.
        protected: Option<bool>,
    }
    /// `runner_info`.
    RunnerInfo {
        /// Seconds; 0 or less means the default.
        timeout: i64,
        /// Runner's uuid.
        uuid: String,
    }
    /// One of `variables`.
    Variable {
        /// Name.
        key: String,
        /// Value.
        value: String,
        /// May stand in pods.
        public: bool,
        /// As a file.
        file: bool,
        /// Hidden in logs.
        masked: bool,
        /// Not expanded.
        raw: bool,
    }
    /// One of `steps`.
    Step {
        /// Name.
        name: String,
        /// Commands.
        script: Vec<String>,
        /// Seconds, not used by scripts.
        timeout: u64,
        /// Condition.
        when: String,
        /// Failure does not count.
        allow_failure: bool,
    }
    /// One of `hooks`.
    Hook {
        /// Name.
        name: String,
        /// Commands.
        script: Vec<String>,
    }
    /// `image` and one of `services`.
    Image {
        /// Reference.
        name: String,
        /// Host names of a service.
        alias: String,
        /// CMD.
        command: Vec<String>,
        /// ENTRYPOINT.
        entrypoint: Vec<String>,
        /// Ports for the session proxy.
        ports: Vec<Value>,
        /// A service's own variables.
        variables: Vec<Variable>,
        /// Pull policies.
        pull_policy: Vec<String>,
        /// Options per executor.
        executor_opts: serde_json::Map<String, Value>,
    }
    /// One of `artifacts`.
    Artifact {
        /// Archive base name.
        name: String,
        /// Untracked files too.
        untracked: bool,
        /// Globs.
        paths: Vec<String>,
        /// Globs to leave out.
        exclude: Vec<String>,
        /// Condition.
        when: String,
        /// Type.
        artifact_type: String,
        /// Format.
        artifact_format: String,
        /// Passed on.
        expire_in: String,
    }
    /// One of `credentials`.
    Credential {
        /// `registry` or another kind.
        #[serde(rename = "type")] kind: String,
        /// Host.
        url: String,
        /// User.
        username: String,
        /// Password.
        password: String,
    }
    /// One of `dependencies`.
    Dependency {
        /// Job number.
        id: u64,
        /// Its job token.
        token: String,
        /// Its name.
        name: String,
        /// Its archive.
        artifacts_file: ArtifactsFile,
    }
    /// `dependencies[].artifacts_file`.
    ArtifactsFile {
        /// Empty means none.
        filename: String,
        /// Bytes.
        size: u64,
    }
    /// `features`.
    Features {
        /// Section markers.
        trace_sections: bool,
        /// More prefixes to mask.
        token_mask_prefixes: Vec<String>,
        /// Reasons the server knows.
        failure_reasons: Vec<String>,
    }
}

/// The step that native steps become.
const SCRIPT: &str = "script";
/// Variable that carries them to the step runner.
const STEPS: &str = "STEPS";
/// Says what is missing before the shell says it less well.
const STEP_RUNNER_CHECK: &str =
    "command -v step-runner >/dev/null || { echo 'the job has `run`, and its image has no step-runner' >&2; exit 127; }";

/// Why a payload cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// A field that must be there is empty.
    #[error("job payload has no {0}")]
    Missing(&'static str),
    /// Two ways to say what to do.
    #[error("the job has `run` and `script`; it can have only one of them")]
    RunAndScript,
    /// The step runner's variable is taken.
    #[error("the job has `run`, which sets the variable STEPS by itself")]
    RunAndSteps,
    /// An option of an image that nobody knows.
    #[error("{0}")]
    Options(String),
    /// An input without name, value or type.
    #[error("{0}")]
    Input(String),
    /// An expression without a value.
    #[error("failed to interpolate job inputs: {0}")]
    Interpolation(MoaError),
    /// A word nobody knows.
    #[error("job payload has unknown {field} \"{value}\"")]
    UnknownWord {
        /// Where.
        field: &'static str,
        /// What.
        value: String,
    },
}

impl PayloadError {
    /// What GitLab is told.
    pub fn reason(&self) -> FailureReason {
        if matches!(self, Self::Interpolation(_)) {
            FailureReason::RunnerConfigurationError
        } else {
            FailureReason::RunnerSystemFailure
        }
    }

    /// GitLab Runner's code for a job that it refuses before it is confirmed.
    pub fn exit_code(&self) -> Option<i32> {
        matches!(self, Self::RunAndScript | Self::RunAndSteps | Self::Options(_)).then_some(3)
    }
}

fn word<T>(field: &'static str, value: &str, parsed: Option<T>) -> Result<T, PayloadError> {
    parsed.ok_or_else(|| PayloadError::UnknownWord { field, value: value.to_owned() })
}

impl JobResponse {
    /// The job that the payload describes.
    ///
    /// # Errors
    /// A payload without number or token, or with a word we do not know where guessing could run the wrong thing.
    pub fn into_job(mut self) -> Result<job::Job, PayloadError> {
        if self.id == 0 {
            return Err(PayloadError::Missing("id"));
        }
        if self.token.is_empty() {
            return Err(PayloadError::Missing("token"));
        }
        self.check_run()?;
        [&self.image].into_iter().chain(&self.services).try_for_each(Image::check_options)?;
        let unsupported = self.unsupported();
        self.run_by_the_step_runner();
        let image = (!self.image.name.is_empty()).then(|| self.image.clone().into_image()).transpose()?;
        let timeout = u64::try_from(self.runner_info.timeout).ok().filter(|seconds| *seconds > 0);
        Ok(job::Job {
            id: self.id,
            token: Secret::new(self.token),
            name: self.job_info.name,
            stage: self.job_info.stage,
            pipeline_id: self.job_info.pipeline_id,
            project: job::ProjectInfo {
                id: self.job_info.project_id,
                name: self.job_info.project_name,
                full_path: self.job_info.project_full_path,
                root_namespace_id: self.job_info.root_namespace_id,
            },
            git: self.git_info.into_git(),
            allow_git_fetch: self.allow_git_fetch,
            timeout: Duration::from_secs(timeout.unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
            variables: self.variables.into_iter().map(Variable::into_variable).collect(),
            steps: self.steps.into_iter().map(Step::into_step).collect::<Result<_, _>>()?,
            hooks: self.hooks.into_iter().map(|hook| job::Hook { name: hook.name, script: hook.script }).collect(),
            image,
            services: self.services.into_iter().map(Image::into_service).collect::<Result<_, _>>()?,
            artifacts: self.artifacts.into_iter().map(Artifact::into_artifact).collect::<Result<_, _>>()?,
            dependencies: self.dependencies.into_iter().map(Dependency::into_dependency).collect(),
            credentials: self
                .credentials
                .into_iter()
                .filter(|one| one.kind == "registry")
                .map(Credential::into_credential)
                .collect(),
            features: job::Features {
                trace_sections: self.features.trace_sections,
                token_mask_prefixes: self.features.token_mask_prefixes,
                failure_reasons: self.features.failure_reasons,
            },
            policy: self.policy_options.into_policy(),
            unsupported,
        })
    }

    /// `run` excludes what it is turned into.
    fn check_run(&self) -> Result<(), PayloadError> {
        if self.run.is_empty() {
            return Ok(());
        }
        if self.steps.iter().any(|step| step.name == SCRIPT && !step.script.is_empty()) {
            return Err(PayloadError::RunAndScript);
        }
        if self.variables.iter().any(|variable| variable.key == STEPS) {
            return Err(PayloadError::RunAndSteps);
        }
        Ok(())
    }

    /// Native steps become a script that hands them to the step runner of the job's image, as GitLab Runner does where
    /// it cannot run them itself.
    fn run_by_the_step_runner(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let steps = Variable { key: STEPS.to_owned(), value: std::mem::take(&mut self.run), raw: true, ..Variable::default() };
        self.variables.push(steps);
        self.steps.retain(|step| step.name != SCRIPT);
        let script = vec![STEP_RUNNER_CHECK.to_owned(), "step-runner ci".to_owned()];
        self.steps.insert(0, Step { name: SCRIPT.to_owned(), script, ..Step::default() });
    }

    fn unsupported(&self) -> Vec<Unsupported> {
        let suspends =
            ["suspend_on_success", "suspend_on_failure"].iter().any(|key| self.suspend_options.get(*key) == Some(&true.into()));
        let ports = self.services.iter().chain([&self.image]).any(|image| !image.ports.is_empty());
        [
            ("cache", !self.cache.is_empty(), false),
            ("secrets", !self.secrets.is_empty(), true),
            ("ports of images and services", ports, false),
            ("suspending the job's environment", suspends, false),
        ]
        .into_iter()
        .filter(|(_, present, _)| *present)
        .map(|(what, _, fatal)| Unsupported { what: what.to_owned(), fatal })
        .collect()
    }
}

impl PolicyOptions {
    fn into_policy(self) -> Option<job::Policy> {
        self.execution_policy_job.then_some(job::Policy {
            name: self.policy_name,
            override_allowed: self.policy_variables_override_allowed,
            exceptions: self.policy_variables_override_exceptions,
        })
    }
}

impl GitInfo {
    fn into_git(self) -> job::GitInfo {
        job::GitInfo {
            repo_url: Secret::new(self.repo_url),
            reference: self.reference,
            sha: self.sha,
            before_sha: self.before_sha,
            ref_type: if self.ref_type == "tag" { job::RefType::Tag } else { job::RefType::Branch },
            refspecs: self.refspecs,
            depth: self.depth,
            object_format: if self.repo_object_format.is_empty() { "sha1".to_owned() } else { self.repo_object_format },
            protected: self.protected,
        }
    }
}

impl Variable {
    fn into_variable(self) -> job::Variable {
        let Self { key, value, public, file, masked, raw } = self;
        job::Variable { key, value, public, file, masked, raw }
    }
}

impl Step {
    fn into_step(self) -> Result<job::Step, PayloadError> {
        let when = word("steps.when", &self.when, job::When::parse(&self.when))?;
        Ok(job::Step { name: self.name, script: self.script, when, allow_failure: self.allow_failure })
    }
}

impl Image {
    fn into_image(self) -> Result<job::Image, PayloadError> {
        let policies = self.pull_policy.iter();
        let pull_policy =
            policies.map(|text| word("pull_policy", text, job::PullPolicy::parse(text))).collect::<Result<_, _>>()?;
        let user = self.executor_opts.get("kubernetes").and_then(|options| options.get("user")).and_then(|user| match user {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        Ok(job::Image { name: self.name, entrypoint: self.entrypoint, pull_policy, user })
    }

    fn into_service(mut self) -> Result<job::Service, PayloadError> {
        let aliases = self.alias.split([' ', ',', '\t', '\n']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let command = std::mem::take(&mut self.command);
        let variables = std::mem::take(&mut self.variables).into_iter().map(Variable::into_variable).collect();
        let has_ports = !self.ports.is_empty();
        Ok(job::Service { image: self.into_image()?, aliases, command, variables, has_ports })
    }
}

impl Artifact {
    fn into_artifact(self) -> Result<job::Artifact, PayloadError> {
        let when = word("artifacts.when", &self.when, job::When::parse(&self.when))?;
        let format = word("artifacts.artifact_format", &self.artifact_format, job::ArtifactFormat::parse(&self.artifact_format))?;
        Ok(job::Artifact {
            name: self.name,
            paths: self.paths,
            exclude: self.exclude,
            untracked: self.untracked,
            when,
            artifact_type: if self.artifact_type.is_empty() { "archive".to_owned() } else { self.artifact_type },
            format,
            expire_in: self.expire_in,
        })
    }
}

impl Credential {
    fn into_credential(self) -> job::Credential {
        job::Credential { url: self.url, username: self.username, password: Secret::new(self.password) }
    }
}

impl Dependency {
    fn into_dependency(self) -> job::Dependency {
        job::Dependency {
            id: self.id,
            token: Secret::new(self.token),
            name: self.name,
            filename: self.artifacts_file.filename,
            size: self.artifacts_file.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JobResponse, PayloadError};
    use job::{PullPolicy, Secret, When};
    use serde_json::{Value, json};

    /// Every field that means something, with a value that is not its default and not its neighbour's.
    fn whole() -> Value {
        let of_service = json!([{"key": "OWN", "value": "$A", "public": true}]);
        json!({
            "id": 7, "token": "t", "allow_git_fetch": true,
            "job_info": {"name": "unit", "stage": "test", "pipeline_id": 3, "project_id": 4, "project_name": "p",
                "project_full_path": "g/p", "root_namespace_id": 9},
            "git_info": {"repo_url": "https://u:p@h/g/p.git", "repo_object_format": "sha256", "ref": "v1", "sha": "abc",
                "before_sha": "def", "ref_type": "tag", "refspecs": ["+x:y", "+z:z"], "depth": 20, "protected": true},
            "runner_info": {"timeout": 90},
            "variables": [{"key": "A", "value": "a"}, {"key": "P", "value": "b", "public": true},
                {"key": "F", "value": "c", "file": true}, {"key": "M", "value": "d", "masked": true},
                {"key": "R", "value": "$A", "raw": true}],
            "steps": [{"name": "script", "script": ["x", "y"], "when": "on_failure", "allow_failure": true},
                {"name": "after_script", "script": ["z"], "when": "always"}],
            "hooks": [{"name": "pre_get_sources_script", "script": ["h"]}],
            "image": {"name": "alpine", "entrypoint": ["/init", "-x"], "pull_policy": ["always", "never"],
                "executor_opts": {"kubernetes": {"user": 1000}}},
            "services": [{"name": "redis", "alias": "db, cache", "command": ["serve"], "entrypoint": ["/enter"],
                "pull_policy": ["if-not-present"], "variables": of_service,
                "executor_opts": {"kubernetes": {"user": "1:2"}}}],
            "artifacts": [{"name": "n", "untracked": true, "paths": ["in"], "exclude": ["out"], "when": "always",
                "artifact_type": "junit", "artifact_format": "gzip", "expire_in": "1 week"}],
            "credentials": [{"type": "registry", "url": "r", "username": "u", "password": "p"}],
            "dependencies": [{"id": 5, "token": "d", "name": "before", "artifacts_file": {"filename": "f.zip", "size": 6}}],
            "features": {"trace_sections": true, "token_mask_prefixes": ["x-"], "failure_reasons": ["script_failure"]},
            "policy_options": {"execution_policy_job": true, "policy_name": "safe", "policy_variables_override_allowed": false,
                "policy_variables_override_exceptions": ["V"]},
        })
    }

    /// What [`whole`] says.
    fn said() -> job::Job {
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let variable = job::Variable::internal;
        let image = |name: &str, entrypoint: &[&str], pull_policy: &[PullPolicy], user: &str| job::Image {
            name: name.to_owned(),
            entrypoint: text(entrypoint),
            pull_policy: pull_policy.to_vec(),
            user: Some(user.to_owned()),
        };
        let step = |name: &str, script: &[&str], when: When, allow_failure: bool| job::Step {
            name: name.to_owned(),
            script: text(script),
            when,
            allow_failure,
        };
        job::Job {
            id: 7,
            token: Secret::new("t"),
            name: "unit".into(),
            stage: "test".into(),
            pipeline_id: 3,
            project: job::ProjectInfo { id: 4, name: "p".into(), full_path: "g/p".into(), root_namespace_id: 9 },
            git: job::GitInfo {
                repo_url: Secret::new("https://u:p@h/g/p.git"),
                reference: "v1".into(),
                sha: "abc".into(),
                before_sha: "def".into(),
                ref_type: job::RefType::Tag,
                refspecs: text(&["+x:y", "+z:z"]),
                depth: 20,
                object_format: "sha256".into(),
                protected: Some(true),
            },
            allow_git_fetch: true,
            timeout: std::time::Duration::from_secs(90),
            variables: job::Variables::new(vec![
                variable("A", "a"),
                job::Variable { public: true, ..variable("P", "b") },
                job::Variable { file: true, ..variable("F", "c") },
                job::Variable { masked: true, ..variable("M", "d") },
                job::Variable { raw: true, ..variable("R", "$A") },
            ]),
            steps: vec![step("script", &["x", "y"], When::OnFailure, true), step("after_script", &["z"], When::Always, false)],
            hooks: vec![job::Hook { name: "pre_get_sources_script".into(), script: text(&["h"]) }],
            image: Some(image("alpine", &["/init", "-x"], &[PullPolicy::Always, PullPolicy::Never], "1000")),
            services: vec![job::Service {
                image: image("redis", &["/enter"], &[PullPolicy::IfNotPresent], "1:2"),
                aliases: text(&["db", "cache"]),
                command: text(&["serve"]),
                variables: job::Variables::new(vec![job::Variable::public("OWN", "$A")]),
                has_ports: false,
            }],
            artifacts: vec![job::Artifact {
                name: "n".into(),
                paths: text(&["in"]),
                exclude: text(&["out"]),
                untracked: true,
                when: When::Always,
                artifact_type: "junit".into(),
                format: job::ArtifactFormat::Gzip,
                expire_in: "1 week".into(),
            }],
            dependencies: vec![job::Dependency {
                id: 5,
                token: Secret::new("d"),
                name: "before".into(),
                filename: "f.zip".into(),
                size: 6,
            }],
            credentials: vec![job::Credential { url: "r".into(), username: "u".into(), password: Secret::new("p") }],
            features: job::Features {
                trace_sections: true,
                token_mask_prefixes: text(&["x-"]),
                failure_reasons: text(&["script_failure"]),
            },
            policy: Some(job::Policy { name: "safe".into(), override_allowed: Some(false), exceptions: text(&["V"]) }),
            unsupported: Vec::new(),
        }
    }

    #[test]
    fn every_field_of_a_payload_stands_in_the_job() {
        assert_eq!(serde_json::from_value::<JobResponse>(whole()).unwrap().into_job().unwrap(), said());
        let of_branch = json!({"id": 1, "token": "t", "git_info": {"ref_type": "branch"}});
        let job = serde_json::from_value::<JobResponse>(of_branch).unwrap().into_job().unwrap();
        assert_eq!(job.git.ref_type, job::RefType::Branch);
    }

    #[test]
    fn nulls_and_unknown_fields_do_not_disturb() {
        let payload: JobResponse = serde_json::from_value(json!({
            "id": 7, "token": "t", "future": {"x": 1}, "variables": null, "image": {"name": "alpine", "entrypoint": null},
            "services": [{"name": "redis", "alias": "db, cache"}], "runner_info": {"timeout": 0},
            "steps": [{"name": "script", "script": ["true"], "when": "on_success"}], "cache": [{"key": "a"}],
        }))
        .unwrap();
        let job = payload.into_job().unwrap();
        assert_eq!(job.timeout.as_secs(), 7200);
        assert_eq!(job.services[0].aliases, ["db", "cache"]);
        assert_eq!(job.unsupported[0].what, "cache");
        assert!(!job.unsupported[0].fatal);
    }

    #[test]
    fn native_steps_are_handed_to_the_step_runner_of_the_image() {
        let parse = |value| serde_json::from_value::<JobResponse>(value).unwrap().into_job();
        let run = "[{\"name\": \"a\", \"script\": \"echo $A\"}]";
        let job = parse(json!({"id": 1, "token": "t", "run": run, "steps": [{"name": "script", "script": []}]})).unwrap();
        assert_eq!((job.steps.len(), job.steps[0].script.last().unwrap().as_str()), (1, "step-runner ci"));
        let steps = job.variables.find("STEPS").unwrap();
        assert_eq!((steps.value.as_str(), steps.raw), (run, true));
        let both = parse(json!({"id": 1, "token": "t", "run": "[]", "steps": [{"name": "script", "script": ["x"]}]}));
        assert_eq!(both.unwrap_err(), PayloadError::RunAndScript);
        let taken = parse(json!({"id": 1, "token": "t", "run": "[]", "variables": [{"key": "STEPS", "value": "x"}]}));
        assert_eq!(taken.unwrap_err(), PayloadError::RunAndSteps);
    }

    #[test]
    fn what_is_not_done_is_named_and_only_secrets_fail_the_job() {
        let payload = json!({"id": 1, "token": "t", "cache": [{"key": "a"}], "secrets": {"A": {"vault": {}}},
            "services": [{"name": "db", "ports": [{"number": 80}]}], "suspend_options": {"suspend_on_failure": true}});
        let job = serde_json::from_value::<JobResponse>(payload).unwrap().into_job().unwrap();
        let named: Vec<_> = job.unsupported.iter().map(|one| (one.what.as_str(), one.fatal)).collect();
        let suspending = "suspending the job's environment";
        assert_eq!(named, [("cache", false), ("secrets", true), ("ports of images and services", false), (suspending, false)]);
        let plain = json!({"id": 1, "token": "t", "secrets": null, "suspend_options": {"suspend_on_failure": false}});
        assert!(serde_json::from_value::<JobResponse>(plain).unwrap().into_job().unwrap().unsupported.is_empty());
    }

    #[test]
    fn hooks_keep_their_order() {
        let hooks = json!([{"name": "pre_get_sources_script", "script": ["a", "b"]}, {"name": "post_get_sources_script", "script": ["c"]}]);
        let job =
            serde_json::from_value::<JobResponse>(json!({"id": 1, "token": "t", "hooks": hooks})).unwrap().into_job().unwrap();
        assert!(job.unsupported.is_empty());
        assert_eq!((job.hooks[0].name.as_str(), job.hooks[0].script.len(), job.hooks.len()), ("pre_get_sources_script", 2, 2));
    }

    #[test]
    fn a_payload_that_cannot_be_right_is_refused() {
        let parse = |value| serde_json::from_value::<JobResponse>(value).unwrap().into_job().unwrap_err();
        assert_eq!(parse(json!({"id": 1})), PayloadError::Missing("token"));
        let error = parse(json!({"id": 1, "token": "t", "steps": [{"name": "script", "when": "sometimes"}]}));
        assert_eq!(error.to_string(), "job payload has unknown steps.when \"sometimes\"");
    }
}
