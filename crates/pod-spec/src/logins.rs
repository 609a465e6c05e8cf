//! Logins for image registries, as a kubelet reads them.
//!
//! They lie in the Secret of the plan, which the pod names as a pull secret too: another Secret for each job would be two
//! more calls. What a job sets by `DOCKER_AUTH_CONFIG` comes before what GitLab hands out, as in GitLab Runner.

use crate::Context;
use agent_contract::names;
use job::Job;
use k8s_openapi::api::core::v1::LocalObjectReference;
use serde_json::{Map, Value, json};

/// Type of a Secret with logins.
pub const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Its key.
pub const SECRET_KEY: &str = ".dockerconfigjson";
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// All logins of a job; `None` when it has none.
pub fn of_job(job: &Job) -> Option<String> {
    let mut logins = own(job).unwrap_or_default();
    for one in &job.credentials {
        let login = json!({"username": one.username, "password": one.password.expose()});
        logins.entry(one.url.clone()).or_insert(login);
    }
    (!logins.is_empty()).then(|| json!({ "auths": logins }).to_string())
}

/// Those of the variable; an error says why it cannot be read.
fn own(job: &Job) -> Result<Map<String, Value>, &'static str> {
    let text = job.variables.value(VARIABLE).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let read: Value = serde_json::from_str(&text).map_err(|_| "is not JSON")?;
    match read.get("auths") {
        Some(Value::Object(logins)) => Ok(logins.clone()),
        // Programs that know logins are not in the cluster.
        _ => Err("has no \"auths\""),
    }
}

/// What the log should say.
pub fn warning(job: &Job) -> Option<String> {
    let why = own(job).err()?;
    Some(format!("{VARIABLE} {why}: images are pulled without its logins"))
}

/// Secrets of the configuration with registry logins, and that of the job.
pub fn pull_secrets(context: &Context<'_>) -> Option<Vec<LocalObjectReference>> {
    let kubernetes = &context.runner.kubernetes;
    if kubernetes.use_service_account_image_pull_secrets {
        return None;
    }
    let first = crate::pod_name(context.job, context.runner, 1);
    let of_job = of_job(context.job).map(|_| names::plan_secret(&first, 0));
    let names: Vec<_> = kubernetes.image_pull_secrets.iter().cloned().chain(of_job).collect();
    (!names.is_empty()).then(|| names.into_iter().map(|name| LocalObjectReference { name }).collect())
}

#[cfg(test)]
mod tests {
    use super::{of_job, warning};
    use job::{Job, Variable};
    use serde_json::{Value, json};

    fn job(variable: Option<&str>) -> Job {
        let credentials = json!([
            {"type": "registry", "url": "registry.example.com", "username": "gitlab-ci-token", "password": "token"},
            {"type": "packages", "url": "other.example.com", "username": "u", "password": "p"},
        ]);
        let payload = json!({"id": 1, "token": "t", "credentials": credentials});
        let mut job = serde_json::from_value::<gitlab_api::JobResponse>(payload).unwrap().into_job().unwrap();
        job.variables.extend(variable.map(|text| Variable { raw: true, ..Variable::internal("DOCKER_AUTH_CONFIG", text) }));
        job
    }

    fn logins(job: &Job) -> Value {
        serde_json::from_str::<Value>(&of_job(job).unwrap()).unwrap()["auths"].take()
    }

    #[test]
    fn the_registry_login_of_the_payload_pulls_images_and_other_kinds_do_not() {
        let handed_out = json!({"registry.example.com": {"username": "gitlab-ci-token", "password": "token"}});
        assert_eq!(logins(&job(None)), handed_out);
        let mut without = job(None);
        without.credentials.clear();
        assert_eq!(of_job(&without), None);
    }

    #[test]
    fn a_jobs_own_logins_come_first() {
        let own = json!({"auths": {"registry.example.com": {"auth": "dTpw"}, "third.example.com": {"auth": "dTpw"}}});
        let job = job(Some(&own.to_string()));
        assert_eq!(logins(&job), own["auths"]);
        assert_eq!(warning(&job), None);
    }

    #[test]
    fn logins_that_cannot_be_read_are_said_and_the_others_count() {
        for (text, why) in [("{", "is not JSON"), ("{\"credHelpers\": {}}", "has no \"auths\"")] {
            let job = job(Some(text));
            assert!(warning(&job).unwrap().contains(why), "{text}");
            assert!(logins(&job).get("registry.example.com").is_some());
        }
    }
}
