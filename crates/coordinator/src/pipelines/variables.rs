//! Predefined variables: GitLab's names, with values from git and from us, never invented.
//!
//! Order is GitLab's precedence (a later one wins): predefined, then those of the file, then `GITLAB_USER_*`, then those
//! of dotenv reports, then those of the project, then those the user gave. What cannot be known here (merge requests, registries, Pages) is left unset.

use super::{PipelineContext, payload::Facts};
use gitlab_api::payload::Variable;

/// The version of GitLab whose behaviour we claim.
const SERVER_VERSION: [&str; 3] = ["19", "4", "0"];

/// Name and value of one that may stand anywhere.
type Pair = (String, String);

/// Collects pairs.
struct Pairs(Vec<Pair>);

impl Pairs {
    fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }
}

/// GitLab's slug: lower case, everything but letters and digits a dash each, at most 63 bytes, no dash at the edges.
pub fn slug(text: &str) -> String {
    let dashed: String =
        text.to_lowercase().chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' }).take(63).collect();
    dashed.trim_matches('-').to_owned()
}

/// What is known before the pipeline is compiled, in GitLab's order; `project` is its number and path, `url` ours, and
/// what depends on an unknown number or address is left out.
pub fn of_pipeline(context: &PipelineContext, project: (Option<u64>, &str), url: &str) -> Vec<Pair> {
    let mut pairs = Pairs(Vec::with_capacity(80));
    for (key, value) in [("CI", "true"), ("GITLAB_CI", "true"), ("GANTRY_LOCAL", "true"), ("GITLAB_FEATURES", "")] {
        pairs.add(key, value);
    }
    if !url.is_empty() {
        server(&mut pairs, url);
    }
    version(&mut pairs);
    of_project(&mut pairs, project, url);
    commit(&mut pairs, context);
    pairs.add("CI_PIPELINE_SOURCE", if context.source.is_empty() { "push" } else { &context.source });
    pairs.add("CI_CONFIG_PATH", if context.config_path.is_empty() { ".gitlab-ci.yml" } else { &context.config_path });
    if !context.default_branch.is_empty() {
        pairs.add("CI_DEFAULT_BRANCH", &context.default_branch);
        pairs.add("CI_DEFAULT_BRANCH_SLUG", slug(&context.default_branch));
    }
    pairs.0
}

/// Who started it.
pub fn of_user(context: &PipelineContext) -> Vec<Pair> {
    let mut pairs = Pairs(Vec::new());
    for (key, value) in [
        ("GITLAB_USER_ID", &context.user.id),
        ("GITLAB_USER_NAME", &context.user.name),
        ("GITLAB_USER_EMAIL", &context.user.email),
        ("GITLAB_USER_LOGIN", &context.user.login),
    ] {
        if !value.is_empty() {
            pairs.add(key, value);
        }
    }
    pairs.0
}

fn server(pairs: &mut Pairs, url: &str) {
    let (protocol, rest) = url.split_once("://").unwrap_or(("http", url));
    let host_port = rest.split('/').next().unwrap_or_default();
    let default_port = if protocol == "https" { "443" } else { "80" };
    let (host, port) = match host_port.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (host_port, default_port),
    };
    pairs.add("CI_SERVER_URL", url);
    pairs.add("CI_SERVER_PROTOCOL", protocol);
    pairs.add("CI_SERVER_HOST", host);
    pairs.add("CI_SERVER_FQDN", host_port);
    pairs.add("CI_SERVER_PORT", port);
    pairs.add("CI_API_V4_URL", format!("{url}/api/v4"));
    pairs.add("CI_API_GRAPHQL_URL", format!("{url}/api/graphql"));
}

fn version(pairs: &mut Pairs) {
    pairs.add("CI_SERVER", "yes");
    pairs.add("CI_SERVER_NAME", "GitLab");
    pairs.add("CI_SERVER_VERSION", SERVER_VERSION.join("."));
    for (key, part) in
        ["CI_SERVER_VERSION_MAJOR", "CI_SERVER_VERSION_MINOR", "CI_SERVER_VERSION_PATCH"].iter().zip(SERVER_VERSION)
    {
        pairs.add(key, part);
    }
    pairs.add("CI_SERVER_REVISION", env!("CARGO_PKG_VERSION"));
    pairs.add("CI_TEMPLATE_REGISTRY_HOST", "registry.gitlab.com");
}

fn of_project(pairs: &mut Pairs, (id, path): (Option<u64>, &str), url: &str) {
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(id) = id {
        pairs.add("CI_PROJECT_ID", id.to_string());
    }
    pairs.add("CI_PROJECT_NAME", name);
    pairs.add("CI_PROJECT_TITLE", name);
    pairs.add("CI_PROJECT_DESCRIPTION", "");
    pairs.add("CI_PROJECT_PATH", path);
    pairs.add("CI_PROJECT_PATH_SLUG", slug(path));
    pairs.add("CI_PROJECT_NAMESPACE", namespace);
    pairs.add("CI_PROJECT_NAMESPACE_SLUG", slug(namespace));
    pairs.add("CI_PROJECT_ROOT_NAMESPACE", namespace.split('/').next().unwrap_or_default());
    if !url.is_empty() {
        pairs.add("CI_PROJECT_URL", format!("{url}/{path}"));
    }
    pairs.add("CI_PROJECT_VISIBILITY", "private");
}

fn commit(pairs: &mut Pairs, context: &PipelineContext) {
    let message = context.commit.message.as_str();
    let (title, rest) = message.split_once('\n').unwrap_or((message, ""));
    let description = if title.chars().count() < 100 { rest.trim_start_matches(['\r', '\n']) } else { message };
    pairs.add("CI_COMMIT_SHA", &context.sha);
    pairs.add("CI_COMMIT_SHORT_SHA", context.sha.chars().take(8).collect::<String>());
    pairs.add("CI_COMMIT_BEFORE_SHA", context.before_sha());
    pairs.add("CI_COMMIT_REF_NAME", &context.ref_name);
    pairs.add("CI_COMMIT_REF_SLUG", slug(&context.ref_name));
    if context.ref_is_tag {
        pairs.add("CI_COMMIT_TAG", &context.ref_name);
        pairs.add("CI_COMMIT_TAG_MESSAGE", &context.tag_message);
    } else {
        pairs.add("CI_COMMIT_BRANCH", &context.ref_name);
    }
    pairs.add("CI_COMMIT_MESSAGE", message);
    pairs.add("CI_COMMIT_TITLE", title.trim_end_matches('\r'));
    pairs.add("CI_COMMIT_DESCRIPTION", description);
    pairs.add("CI_COMMIT_REF_PROTECTED", "false");
    pairs.add("CI_COMMIT_TIMESTAMP", &context.commit.timestamp);
    pairs.add("CI_COMMIT_AUTHOR", &context.commit.author);
}

/// Everything that a job gets, in order.
pub fn of_job(facts: &Facts<'_>, from_file: Vec<Variable>, from_reports: Vec<Variable>) -> Vec<Variable> {
    let context = facts.context;
    let mut pairs = Pairs(of_pipeline(context, (Some(facts.project.id), &facts.project.path), facts.url));
    let project_url = format!("{}/{}", facts.url, facts.project.path);
    let pipeline = facts.job.pipeline.to_string();
    pairs.add("CI_PIPELINE_ID", &pipeline);
    pairs.add("CI_PIPELINE_IID", facts.iid.to_string());
    pairs.add("CI_PIPELINE_URL", format!("{project_url}/-/pipelines/{pipeline}"));
    pairs.add("CI_PIPELINE_CREATED_AT", time(facts.created_at));
    let job = facts.job;
    pairs.add("CI_JOB_ID", job.id.to_string());
    pairs.add("CI_JOB_URL", format!("{project_url}/-/jobs/{}", job.id));
    pairs.add("CI_JOB_NAME", &job.name);
    pairs.add("CI_JOB_NAME_SLUG", slug(&job.name));
    pairs.add("CI_JOB_GROUP_NAME", group_name(&job.name));
    pairs.add("CI_JOB_STAGE", &job.stage);
    pairs.add("CI_JOB_STARTED_AT", time(facts.now));
    pairs.add("CI_JOB_TIMEOUT", job.timeout_seconds.to_string());
    pairs.add("CI_NODE_TOTAL", "1");
    if !facts.image.is_empty() {
        pairs.add("CI_JOB_IMAGE", facts.image);
    }
    if job.schedule.played {
        pairs.add("CI_JOB_MANUAL", "true");
    }
    runner(&mut pairs, facts);
    let mut variables: Vec<Variable> = pairs.0.into_iter().map(public).collect();
    variables.push(Variable { key: "CI_JOB_TOKEN".into(), value: job.token.clone(), masked: true, ..Variable::default() });
    variables.push(Variable { key: "CI_REPOSITORY_URL".into(), value: facts.repository_url(), ..Variable::default() });
    variables.extend(from_file);
    variables.extend(of_user(context).into_iter().map(public));
    variables.extend(from_reports);
    variables.extend(context.project_variables.iter().map(|one| {
        let (key, value) = (one.key.clone(), one.value.clone());
        Variable { key, value, masked: one.masked, file: one.file, raw: one.raw, ..Variable::default() }
    }));
    let given = context.variables.iter().cloned();
    variables.extend(given.map(|(key, value)| Variable { key, value, ..Variable::default() }));
    variables
}

fn runner(pairs: &mut Pairs, facts: &Facts<'_>) {
    let info = facts.info;
    pairs.add("CI_DISPOSABLE_ENVIRONMENT", "true");
    pairs.add("CI_RUNNER_ID", facts.runner.id.to_string());
    pairs.add("CI_RUNNER_DESCRIPTION", &facts.runner.description);
    pairs.add("CI_RUNNER_TAGS", "[]");
    pairs.add("CI_RUNNER_VERSION", &info.version);
    pairs.add("CI_RUNNER_REVISION", &info.revision);
    pairs.add("CI_RUNNER_EXECUTABLE_ARCH", format!("{}/{}", info.platform, info.architecture));
}

/// The name without what `parallel` adds: `x 1/2` and `x: [a, b]` are of the group `x`.
fn group_name(name: &str) -> &str {
    if let Some((group, rest)) = name.split_once(": [")
        && rest.ends_with(']')
    {
        return group;
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.rsplit_once(' ') {
        Some((group, last)) if last.split_once('/').is_some_and(|(one, all)| is_number(one) && is_number(all)) => group,
        _ => name,
    }
}

fn public((key, value): Pair) -> Variable {
    Variable { key, value, public: true, ..Variable::default() }
}

fn time(milliseconds: i64) -> String {
    let seconds = jiff::Timestamp::from_second(milliseconds.div_euclid(1000)).unwrap_or_default();
    seconds.to_string()
}

#[cfg(test)]
mod tests {
    use super::{group_name, of_pipeline, slug};
    use crate::{Commit, PipelineContext};

    #[test]
    fn slugs_are_gitlabs() {
        for (text, expected) in [
            ("main", "main"),
            ("Feature/ABC_1.2", "feature-abc-1-2"),
            ("--a--b--", "a--b"),
            (&"x".repeat(70), &"x".repeat(63)),
            (&format!("{}-tail", "y".repeat(62)), &"y".repeat(62)),
        ] {
            assert_eq!(slug(text), expected);
        }
    }

    #[test]
    fn the_group_of_a_job_has_no_parallel_part() {
        for (name, expected) in [("x 1/2", "x"), ("x: [a, b]", "x"), ("build 2", "build 2"), ("a b", "a b")] {
            assert_eq!(group_name(name), expected);
        }
    }

    #[test]
    fn a_branch_and_a_tag_set_what_belongs_to_them() {
        let mut context = PipelineContext {
            sha: "0123456789abcdef".into(),
            ref_name: "v1.0".into(),
            commit: Commit { message: "title\n\nmore\ntext".into(), ..Commit::default() },
            ..PipelineContext::default()
        };
        let get = |context: &PipelineContext, key: &str| {
            let list = of_pipeline(context, (Some(7), "a/b/c"), "http://10.0.0.1:8080");
            list.into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
        };
        for (key, expected) in [
            ("CI_COMMIT_BRANCH", Some("v1.0")),
            ("CI_COMMIT_TAG", None),
            ("CI_COMMIT_SHORT_SHA", Some("01234567")),
            ("CI_COMMIT_TITLE", Some("title")),
            ("CI_COMMIT_DESCRIPTION", Some("more\ntext")),
            ("CI_PROJECT_NAMESPACE", Some("a/b")),
            ("CI_PROJECT_ROOT_NAMESPACE", Some("a")),
            ("CI_SERVER_HOST", Some("10.0.0.1")),
            ("CI_SERVER_PORT", Some("8080")),
            ("CI_API_V4_URL", Some("http://10.0.0.1:8080/api/v4")),
        ] {
            assert_eq!(get(&context, key).as_deref(), expected, "{key}");
        }
        context.ref_is_tag = true;
        assert_eq!((get(&context, "CI_COMMIT_BRANCH"), get(&context, "CI_COMMIT_TAG").as_deref()), (None, Some("v1.0")));
    }
}
