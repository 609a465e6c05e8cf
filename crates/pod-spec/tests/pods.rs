//! Payload and configuration in, pod out.

use k8s_openapi::api::core::v1::{Container, Pod};
use pod_spec::{BuildError, Surroundings, build, pod_name};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[runners]]
name = "one"
url = "https://gitlab.example"
token = "glrt-AB_defghijkl"
executor = "kubernetes"
[runners.kubernetes]
image = "alpine"
pull_policy = ["if-not-present"]
memory_limit = "1Gi"
[runners.kubernetes.pod_labels]
team = "$TEAM"
"#;

fn pod_of(payload: Value, config: &str) -> Result<Pod, BuildError> {
    let mut whole = json!({"id": 77, "token": "secret-job-token", "job_info": {"name": "unit", "project_id": 5},
        "runner_info": {"timeout": 60}, "git_info": {"ref": "main", "sha": "abc"}});
    whole.as_object_mut().unwrap().extend(payload.as_object().unwrap().clone());
    let job = serde_json::from_value::<gitlab_api::JobResponse>(whole).unwrap().into_job().unwrap();
    let runner = runner_config::parse(config).unwrap().config.runners.remove(0);
    build(&job, &runner, &Surroundings { owner: "m1", helper_image: "gantry-helper:1", plan_parts: 2, attempt: 1 })
}

fn container<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    pod.spec.as_ref().unwrap().containers.iter().find(|one| one.name == name).unwrap()
}

#[test]
fn an_ordinary_job_becomes_a_helper_and_a_build_container() {
    let pod = pod_of(json!({}), CONFIG).unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("runner-ab-defgh-project-5-77"));
    let build = container(&pod, "build");
    assert_eq!((build.image.as_deref(), build.image_pull_policy.as_deref()), (Some("alpine"), Some("IfNotPresent")));
    assert_eq!(build.resources.as_ref().unwrap().limits.as_ref().unwrap()["memory"].0, "1Gi");
    assert_eq!(container(&pod, "helper").command.as_deref().unwrap(), ["/usr/bin/gantry-agent", "run"]);
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.restart_policy.as_deref(), spec.active_deadline_seconds), (Some("Never"), Some(660)));
}

#[test]
fn the_plan_is_mounted_in_the_helper_alone_with_all_its_parts() {
    let pod = pod_of(json!({"services": [{"name": "redis"}]}), CONFIG).unwrap();
    let sees_plan: Vec<_> = pod
        .spec
        .as_ref()
        .unwrap()
        .containers
        .iter()
        .filter(|one| one.volume_mounts.iter().flatten().any(|mount| mount.name == "gantry-plan"))
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(sees_plan, ["helper"]);
    let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
    let sources = volumes.iter().find_map(|volume| volume.projected.as_ref()).unwrap().sources.as_ref().unwrap();
    let names: Vec<_> = sources.iter().map(|source| source.secret.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(names, ["runner-ab-defgh-project-5-77-plan", "runner-ab-defgh-project-5-77-plan-1"]);
}

#[test]
fn only_public_variables_stand_in_the_pod_and_no_secret_does() {
    let variables = json!({"variables": [
        {"key": "TEAM", "value": "a b", "public": true}, {"key": "COST", "value": "5$(HOME)", "public": true, "raw": true},
        {"key": "HIDDEN", "value": "not-public"}, {"key": "MASKED", "value": "hunter22", "public": true, "masked": true},
        {"key": "FILE", "value": "file-content", "public": true, "file": true}]});
    let pod = pod_of(variables, CONFIG).unwrap();
    let text = serde_json::to_string(&pod).unwrap();
    for secret in ["not-public", "hunter22", "file-content", "secret-job-token", "glrt-AB_defghijkl"] {
        assert!(!text.contains(secret), "{secret} stands in the pod");
    }
    let env = container(&pod, "build").env.as_ref().unwrap();
    let value = |name: &str| env.iter().find(|one| one.name == name).and_then(|one| one.value.as_deref());
    assert_eq!((value("TEAM"), value("COST")), (Some("a b"), Some("5$$(HOME)")));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()["team"], "a_b");
}

#[test]
fn services_are_reached_by_alias_and_by_both_spellings_of_their_image() {
    let services = json!({"services": [
        {"name": "reg.example:5000/group/db:1.2@sha256:abc", "alias": "db, main", "entrypoint": ["/run"], "command": ["-v"],
            "variables": [{"key": "DB", "value": "of-$OWN"}, {"key": "OWN", "value": "me"}]}]});
    let pod = pod_of(services, CONFIG).unwrap();
    let aliases = pod.spec.as_ref().unwrap().host_aliases.as_ref().unwrap();
    assert_eq!(aliases[0].hostnames.as_ref().unwrap(), &["reg.example-group-db", "db", "main"]);
    let service = container(&pod, "svc-0");
    assert_eq!(
        (service.command.as_deref().unwrap(), service.args.as_deref().unwrap()),
        (&["/run".to_owned()][..], &["-v".to_owned()][..])
    );
    assert!(service.env.as_ref().unwrap().iter().any(|one| one.name == "DB" && one.value.as_deref() == Some("of-me")));
}

#[test]
fn what_cannot_become_a_pod_is_said() {
    let config = |from: &str, to: &str| CONFIG.replace(from, to);
    assert_eq!(pod_of(json!({}), &config("image = \"alpine\"", "")).unwrap_err(), BuildError::NoImage);
    let quantity = pod_of(json!({}), &config("1Gi", "1 gig")).unwrap_err();
    assert_eq!(quantity.to_string(), "memory_limit = \"1 gig\" is not a quantity");
    let alias = pod_of(json!({"services": [{"name": "x", "alias": "no_host"}]}), CONFIG).unwrap_err();
    assert_eq!(alias, BuildError::Alias("no_host".into()));
    let user = pod_of(json!({"image": {"name": "x", "executor_opts": {"kubernetes": {"user": "root"}}}}), CONFIG).unwrap_err();
    assert_eq!(user, BuildError::User("root".into()));
}

#[test]
fn names_stay_within_what_kubernetes_takes_and_tell_attempts_apart() {
    let payload = json!({"id": u64::MAX, "token": "t", "job_info": {"project_id": u64::MAX}});
    let job = serde_json::from_value::<gitlab_api::JobResponse>(payload).unwrap().into_job().unwrap();
    let runner = runner_config::parse(CONFIG).unwrap().config.runners.remove(0);
    let (first, second) = (pod_name(&job, &runner, 1), pod_name(&job, &runner, 2));
    assert!(first.len() <= 63 && second.len() <= 63 && !first.starts_with('-'), "{first}");
    assert_ne!(first, second);
}
