//! Payload and configuration in, pod out.

use k8s_openapi::api::core::v1::{Container, Pod};
use pod_spec::{
    BuildError, Features, Surroundings, attempt_of, build, hidden_variables, namespace, notes, pod_name, pull_attempts,
    pull_notes, resources_asked, warnings,
};
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

fn job_of(payload: Value) -> job::Job {
    let mut whole = json!({"id": 77, "token": "secret-job-token", "job_info": {"name": "unit", "project_id": 5},
        "runner_info": {"timeout": 60}, "git_info": {"ref": "main", "sha": "abc"}});
    whole.as_object_mut().unwrap().extend(payload.as_object().unwrap().clone());
    serde_json::from_value::<gitlab_api::JobResponse>(whole).unwrap().into_job().unwrap()
}

fn runner_of(config: &str) -> runner_config::Runner {
    runner_config::parse(config).unwrap().config.runners.remove(0)
}

const NEW: Features = Features { minor: 35, image_volumes: true };
const OLD: Features = Features { minor: 27, image_volumes: false };

fn surroundings(features: Features, pull_failures: u32) -> Surroundings<'static> {
    let attempt = pull_failures + 1;
    Surroundings { owner: "m1", helper_image: "gantry-helper:1", plan_parts: 2, attempt, pull_failures, features }
}

fn pod_of(payload: Value, config: &str) -> Result<Pod, BuildError> {
    build(&job_of(payload), &runner_of(config), &surroundings(OLD, 0))
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
fn a_service_with_ports_has_no_name_and_any_alias() {
    let services = json!({"services": [{"name": "web", "alias": "no_host", "ports": [{"number": 80}]}, {"name": "group/db"}]});
    let pod = pod_of(services, CONFIG).unwrap();
    let aliases = pod.spec.as_ref().unwrap().host_aliases.as_ref().unwrap();
    assert_eq!(aliases[0].hostnames.as_ref().unwrap(), &["group-db"]);
}

#[test]
fn what_a_service_takes_of_a_variable_that_is_not_public_comes_from_the_plan_secret() {
    let payload = json!({"variables": [{"key": "SECRET", "value": "hunter22", "masked": true, "public": true},
            {"key": "NAME", "value": "x-$$HOME", "public": true}, {"key": "SAME", "value": "of the job", "public": true}],
        "services": [{"name": "db", "variables": [{"key": "PLAIN", "value": "$NAME"}, {"key": "PASSWORD", "value": "p-${SECRET}"},
            {"key": "SAME", "value": "of the service"}, {"key": "RAW", "value": "$SECRET", "raw": true}]}]});
    let pod = pod_of(payload.clone(), CONFIG).unwrap();
    assert!(!serde_json::to_string(&pod).unwrap().contains("hunter22"));
    let env = container(&pod, "svc-0").env.clone().unwrap();
    let find = |name: &str| env.iter().find(|one| one.name == name).unwrap();
    // Kubernetes makes one dollar of two.
    let value = |name: &str| find(name).value.clone().unwrap().replace("$$", "$");
    assert_eq!([value("PLAIN"), value("SAME"), value("RAW")], ["x-$HOME", "of the service", "$SECRET"]);
    let password = find("PASSWORD");
    let source = password.value_from.as_ref().unwrap().secret_key_ref.as_ref().unwrap();
    assert_eq!((password.value.as_deref(), source.name.as_str()), (None, "runner-ab-defgh-project-5-77-plan"));
    let hidden = hidden_variables(&job_of(payload));
    assert_eq!(hidden.into_iter().collect::<Vec<_>>(), [(source.key.clone(), "p-hunter22".to_owned())]);
    assert!(env.iter().all(|one| one.name != "SECRET"), "a service gets no secret that it does not name");
}

#[test]
fn each_service_has_its_own_user_and_pull_policy() {
    let config = CONFIG.replace("pull_policy", "allowed_pull_policies = [\"always\", \"if-not-present\"]\npull_policy");
    let services = json!({"services": [{"name": "db", "pull_policy": ["always"],
        "executor_opts": {"kubernetes": {"user": "1000:7"}, "docker": {"user": "ignored"}}}, {"name": "web"}]});
    let pod = pod_of(services, &config).unwrap();
    let of = |name: &str| {
        let one = container(&pod, name);
        let security = one.security_context.clone().unwrap();
        (one.image_pull_policy.clone().unwrap(), security.run_as_user, security.run_as_group)
    };
    assert_eq!(of("svc-0"), ("Always".into(), Some(1000), Some(7)));
    assert_eq!(of("svc-1"), ("IfNotPresent".into(), None, None));
}

#[test]
fn the_report_knows_what_each_container_asks_for() {
    let config = CONFIG.replace("memory_limit", "service_cpu_limit = \"1\"\nhelper_memory_request = \"64Mi\"\nmemory_limit");
    let asked = resources_asked(&job_of(json!({"services": [{"name": "db"}]})), &runner_of(&config));
    let shown: Vec<_> = asked
        .iter()
        .map(|one| format!("{} {}|{}|{}|{}", one.container, one.cpu_request, one.cpu_limit, one.memory_request, one.memory_limit))
        .collect();
    assert_eq!(shown, ["build |||1Gi", "helper ||64Mi|", "svc-0 |1||"]);
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
    let runner = runner_of(CONFIG);
    let (first, second) = (pod_name(&job, &runner, 1), pod_name(&job, &runner, 2));
    assert!(first.len() <= 63 && second.len() <= 63 && !first.starts_with('-'), "{first}");
    assert_eq!((attempt_of(&first, &first), attempt_of(&second, &first)), (Some(1), Some(2)));
    assert_eq!((attempt_of("runner-x-project-5-778", "runner-x-project-5-77"), attempt_of("a-1", "a")), (None, None));
}

const SECURE: &str = r#"
allow_privilege_escalation = false
cap_add = ["SYS_PTRACE"]
cap_drop = ["ALL"]
[runners.kubernetes.pod_security_context]
run_as_user = 1000
run_as_non_root = true
fs_group = 2000
supplemental_groups = [3]
[runners.kubernetes.pod_security_context.seccomp_profile]
type = "RuntimeDefault"
[runners.kubernetes.pod_security_context.app_armor_profile]
type = "RuntimeDefault"
[runners.kubernetes.helper_container_security_context]
read_only_root_filesystem = true
[runners.kubernetes.build_container_security_context]
privileged = false
run_as_group = 7
proc_mount = "Unmasked"
[runners.kubernetes.build_container_security_context.capabilities]
add = ["CHOWN"]
[runners.kubernetes.build_container_security_context.app_armor_profile]
type = "Localhost"
localhost_profile = "mine"
"#;

fn secure() -> String {
    CONFIG.replace("[runners.kubernetes.pod_labels]", &format!("{SECURE}[runners.kubernetes.pod_labels]"))
}

#[test]
fn security_contexts_are_those_of_the_configuration_and_nothing_stands_there_without_one() {
    let plain = pod_of(json!({}), CONFIG).unwrap();
    assert_eq!(plain.spec.as_ref().unwrap().security_context, None);
    let default = json!({"capabilities": {"drop": ["NET_RAW"]}});
    assert_eq!(serde_json::to_value(&container(&plain, "build").security_context).unwrap(), default);

    let pod = build(&job_of(json!({"services": [{"name": "redis"}]})), &runner_of(&secure()), &surroundings(NEW, 0)).unwrap();
    let of_pod = json!({"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000, "supplementalGroups": [3],
        "seccompProfile": {"type": "RuntimeDefault"}, "appArmorProfile": {"type": "RuntimeDefault"}});
    assert_eq!(serde_json::to_value(&pod.spec.as_ref().unwrap().security_context).unwrap(), of_pod);
    let of_build = json!({"allowPrivilegeEscalation": false, "privileged": false, "runAsGroup": 7, "procMount": "Unmasked",
        "capabilities": {"add": ["CHOWN"], "drop": ["ALL", "NET_RAW"]},
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
    assert_eq!(serde_json::to_value(&container(&pod, "build").security_context).unwrap(), of_build);
    let others = json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_PTRACE"], "drop": ["ALL", "NET_RAW"]}});
    assert_eq!(serde_json::to_value(&container(&pod, "svc-0").security_context).unwrap(), others);
    // A helper that cannot write to its root has a place for temporary files.
    let places: Vec<_> = container(&pod, "helper").volume_mounts.iter().flatten().map(|one| one.mount_path.as_str()).collect();
    assert_eq!(places, ["/gantry", "/builds", "/gantry-plan", "/tmp"]);
}

#[test]
fn a_job_gets_the_user_it_asks_for_only_where_the_configuration_leaves_room() {
    let user = |text: &str| job_of(json!({"image": {"name": "x", "executor_opts": {"kubernetes": {"user": text}}}}));
    let run_as = |text: &str, config: &str| {
        let pod = build(&user(text), &runner_of(config), &surroundings(OLD, 0)).unwrap();
        let context = container(&pod, "build").security_context.clone().unwrap();
        let of_users =
            warnings(&user(text), &runner_of(config)).into_iter().filter(|warning| warning.contains("user of container"));
        ((context.run_as_user, context.run_as_group), of_users.collect::<Vec<_>>().join(";"))
    };
    assert_eq!(run_as("1001:7", CONFIG), ((Some(1001), Some(7)), String::new()));
    let refused = "the user of container build is not changed: ";
    assert_eq!(run_as("0", CONFIG), ((None, None), format!("{refused}0 is not one of allowed_users")));
    let allowed = CONFIG.replace("pull_policy", "allowed_users = [\"0\"]\nallowed_groups = [\"5\"]\npull_policy");
    assert_eq!(run_as("0:5", &allowed), ((Some(0), Some(5)), String::new()));
    assert_eq!(run_as("0:6", &allowed), ((None, None), format!("{refused}6 is not one of allowed_groups")));
    assert_eq!(run_as("1001", &secure()), ((None, Some(7)), format!("{refused}the runner's configuration sets it")));
}

#[test]
fn a_pod_for_an_old_cluster_has_no_field_that_the_cluster_does_not_know() {
    let pod = build(&job_of(json!({"services": [{"name": "redis"}]})), &runner_of(&secure()), &surroundings(OLD, 0)).unwrap();
    let text = serde_json::to_string(&pod).unwrap();
    for field in ["appArmorProfile", "\"reference\"", "hostUsers", "gantry-agent\",\"mountPath", "supplementalGroupsPolicy"] {
        assert!(!text.contains(field), "{field} stands in {text}");
    }
    let inits = pod.spec.as_ref().unwrap().init_containers.iter().flatten();
    assert!(inits.into_iter().all(|one| one.restart_policy.is_none()));
    assert_eq!(container(&pod, "build").command.as_ref().unwrap()[0], "sh");
}

#[test]
fn where_a_volume_can_be_an_image_the_build_image_needs_no_shell_for_the_agent() {
    let pod = build(&job_of(json!({})), &runner_of(CONFIG), &surroundings(NEW, 0)).unwrap();
    let build = container(&pod, "build");
    assert_eq!(build.command.as_deref().unwrap(), ["/gantry-agent/usr/bin/gantry-agent", "serve"]);
    let mount = build.volume_mounts.iter().flatten().find(|one| one.name == "gantry-agent").unwrap();
    assert_eq!((mount.mount_path.as_str(), mount.read_only), ("/gantry-agent", Some(true)));
    let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
    let image = volumes.iter().find_map(|volume| volume.image.as_ref()).unwrap();
    assert_eq!(image.reference.as_deref(), Some("gantry-helper:1"));
}

#[test]
fn each_pod_after_one_that_could_not_pull_has_the_next_policy() {
    let config = CONFIG.replace("[\"if-not-present\"]", "[\"always\", \"if-not-present\"]");
    let policy = |failures: u32, name: &str| {
        let pod = build(&job_of(json!({})), &runner_of(&config), &surroundings(OLD, failures)).unwrap();
        (pod.metadata.name.clone().unwrap(), container(&pod, name).image_pull_policy.clone())
    };
    assert_eq!(policy(0, "build"), ("runner-ab-defgh-project-5-77".into(), Some("Always".into())));
    assert_eq!(policy(1, "helper"), ("runner-ab-defgh-project-5-77-2".into(), Some("IfNotPresent".into())));
    assert_eq!(policy(2, "build").1.as_deref(), Some("IfNotPresent"));
    assert_eq!(pull_attempts(&job_of(json!({})), &runner_of(&config)), Ok(2));
    let asked = json!({"image": {"name": "x", "pull_policy": ["never", "always"]}});
    assert_eq!(
        pull_attempts(&job_of(asked.clone()), &runner_of(CONFIG)).unwrap_err().to_string(),
        "invalid pull policy for container \"build\": [never always] of the GitLab pipeline configuration is not among the allowed [if-not-present]"
    );
    let wider = CONFIG.replace("pull_policy", "allowed_pull_policies = [\"always\", \"if-not-present\"]\npull_policy");
    let pod = build(&job_of(asked), &runner_of(&wider), &surroundings(OLD, 0)).unwrap();
    assert_eq!(container(&pod, "build").image_pull_policy.as_deref(), Some("Always"));
}

#[test]
fn a_job_goes_to_another_namespace_only_where_the_pattern_matches() {
    let of = |asked: &str, config: &str| {
        let variables =
            json!({"variables": [{"key": "KUBERNETES_NAMESPACE_OVERWRITE", "value": asked}, {"key": "TEAM", "value": "blue"}]});
        namespace(&job_of(variables), &runner_of(config)).map_err(|error| error.to_string())
    };
    assert_eq!(of("ci-x", CONFIG), Ok("default".into()));
    let open = CONFIG.replace("pull_policy", "namespace = \"jobs-$TEAM\"\nnamespace_overwrite_allowed = \"^ci-.*\"\npull_policy");
    assert_eq!(of("", &open), Ok("jobs-blue".into()));
    assert_eq!(of("ci-$TEAM", &open), Ok("ci-blue".into()));
    let refused = "couldn't prepare overwrites: provided value \"kube-system\" does not match \"^ci-.*\"";
    assert_eq!(of("kube-system", &open).unwrap_err(), refused);
    assert_eq!(of("ci-/../x", &open).unwrap_err(), "\"ci-/../x\" is not the name of a namespace");
}

fn variables(pairs: &[(&str, &str)]) -> Value {
    json!({"variables": pairs.iter().map(|(key, value)| json!({"key": key, "value": value, "public": true})).collect::<Vec<_>>()})
}

fn with_keys(keys: &str) -> String {
    CONFIG.replace("[runners.kubernetes.pod_labels]", &format!("{keys}\n[runners.kubernetes.pod_labels]"))
}

#[test]
fn a_job_changes_requests_and_limits_as_far_as_it_may() {
    let amounts = |prefix: &str| {
        let kinds = if prefix == "POD_" { &["CPU", "MEMORY"][..] } else { &["CPU", "MEMORY", "EPHEMERAL_STORAGE"] };
        let names = kinds.iter().flat_map(|kind| ["REQUEST", "LIMIT"].map(|what| format!("{prefix}{kind}_{what}")));
        names.collect::<Vec<_>>()
    };
    for (prefix, at) in
        [("", "/spec/containers/1"), ("SERVICE_", "/spec/containers/2"), ("HELPER_", "/spec/containers/0"), ("POD_", "/spec")]
    {
        for name in amounts(prefix) {
            let key = name.to_lowercase();
            let variable = format!("KUBERNETES_{name}");
            let field = key.strip_prefix(&prefix.to_lowercase()).unwrap().rsplit_once('_').unwrap();
            let place = format!("{at}/resources/{}s/{}", field.1, field.0.replace('_', "-"));
            let made = |asked: &str, keys: &str| {
                let mut payload = variables(&[(&variable, asked)]);
                payload["services"] = json!([{"name": "redis"}]);
                let (job, runner) = (job_of(payload), runner_of(&with_keys(keys).replace("memory_limit = \"1Gi\"", "")));
                let pod = build(&job, &runner, &surroundings(NEW, 0)).map_err(|error| error.to_string())?;
                let value = serde_json::to_value(pod).unwrap().pointer(&place).cloned().unwrap_or_default();
                Ok::<_, String>((value, notes(&job, &runner, NEW).join("\n")))
            };
            let (most, own) = (format!("{key}_overwrite_max_allowed = \"2\""), format!("{key} = \"1\""));
            assert_eq!(made("3", &own).unwrap(), (json!("1"), String::new()), "{name} without permission");
            assert_eq!(made("", &format!("{own}\n{most}")).unwrap().0, json!("1"), "{name} is not asked for");
            let (value, line) = made("1500m", &most).unwrap();
            assert_eq!(value, json!("1500m"), "{name}");
            assert!(
                line.ends_with("overwritten with \"1500m\"")
                    && line.to_lowercase().starts_with(&format!("\"{}\"", key.replace('_', ""))),
                "{line}"
            );
            let error = made("2.001", &most).unwrap_err();
            assert!(error.ends_with("requested \"2.001\" is higher than limit allowed \"2\""), "{error}");
            assert_eq!(made("a lot", &most).unwrap_err(), format!("{variable} = \"a lot\" is not a quantity"));
        }
    }
}

#[test]
fn a_service_has_requests_and_limits_of_its_own() {
    let mut payload = variables(&[("KUBERNETES_SERVICE_CPU_LIMIT", "2"), ("LARGE", "3Gi")]);
    payload["services"] = json!([{"name": "redis"}, {"name": "large",
        "variables": [{"key": "KUBERNETES_SERVICE_MEMORY_LIMIT", "value": "$LARGE"}]}]);
    let config =
        with_keys("service_cpu_limit_overwrite_max_allowed = \"4\"\nservice_memory_limit_overwrite_max_allowed = \"4Gi\"");
    let pod = pod_of(payload, &config).unwrap();
    let limits = |name: &str| serde_json::to_value(container(&pod, name).resources.as_ref().unwrap().limits.as_ref()).unwrap();
    assert_eq!((limits("svc-0"), limits("svc-1")), (json!({"cpu": "2"}), json!({"cpu": "2", "memory": "3Gi"})));
}

#[test]
fn requests_and_limits_of_the_pod_need_a_cluster_that_knows_them() {
    let (job, runner) = (job_of(json!({})), runner_of(&with_keys("pod_memory_limit = \"2Gi\"")));
    let resources = |features| build(&job, &runner, &surroundings(features, 0)).unwrap().spec.unwrap().resources;
    assert_eq!(resources(NEW).unwrap().limits.unwrap()["memory"].0, "2Gi");
    assert_eq!(resources(OLD), None);
    assert!(notes(&job, &runner, OLD)[0].contains("have no effect") && notes(&job, &runner, NEW).is_empty());
}

#[test]
fn a_job_changes_account_labels_annotations_selectors_and_tolerations_as_far_as_it_may() {
    let wishes = [
        ("KUBERNETES_SERVICE_ACCOUNT_OVERWRITE", "deployer"),
        ("KUBERNETES_POD_LABELS_1", "tier=batch"),
        ("KUBERNETES_POD_LABELS_GITLAB", "job.Runner.gitlab.com/pod=mine"),
        ("KUBERNETES_POD_ANNOTATIONS_X", "job.runner.gitlab.com/name=renamed=twice"),
        ("KUBERNETES_NODE_SELECTOR_ARCH", "arch=arm64"),
        ("KUBERNETES_NODE_TOLERATIONS_1", "spot=true:NoSchedule"),
        ("KUBERNETES_NODE_TOLERATIONS_2", "gpu"),
    ];
    let configured = "service_account = \"default-account\"\nnode_selector = {arch = \"amd64\", disk = \"ssd\"}\nnode_tolerations = {\"old=1\" = \"NoExecute\"}";
    let permissions = "service_account_overwrite_allowed = \".*\"\npod_labels_overwrite_allowed = \".*\"\n\
                       pod_annotations_overwrite_allowed = \".*\"\nnode_selector_overwrite_allowed = \"^arch=\"\n\
                       node_tolerations_overwrite_allowed = \".*\"";
    let made =
        |wishes: &[(&str, &str)], keys: &str| pod_of(variables(wishes), &with_keys(keys)).map_err(|error| error.to_string());
    let spec = |pod: &Pod| {
        let spec = pod.spec.as_ref().unwrap();
        json!([spec.service_account_name, spec.node_selector, spec.tolerations])
    };
    let old = json!({"key": "old", "operator": "Equal", "value": "1", "effect": "NoExecute"});
    let without = made(&wishes, configured).unwrap();
    assert_eq!(spec(&without), json!(["default-account", {"arch": "amd64", "disk": "ssd"}, [old]]));
    let pod = made(&wishes, &format!("{configured}\n{permissions}")).unwrap();
    let spot = json!({"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"});
    let gpu = json!({"key": "gpu", "operator": "Exists"});
    assert_eq!(spec(&pod), json!(["deployer", {"arch": "arm64", "disk": "ssd"}, [gpu, old, spot]]));
    let (labels, annotations) = (pod.metadata.labels.as_ref().unwrap(), pod.metadata.annotations.as_ref().unwrap());
    assert_eq!(
        (labels["tier"].as_str(), labels["job.runner.gitlab.com/pod"].as_str()),
        ("batch", "runner-ab-defgh-project-5-77")
    );
    assert!(!labels.contains_key("job.Runner.gitlab.com/pod"), "reserved however it is written");
    assert_eq!(annotations["job.runner.gitlab.com/name"], "renamed=twice");
    let (job, runner) = (job_of(variables(&wishes)), runner_of(&with_keys(&format!("{configured}\n{permissions}"))));
    let lines = notes(&job, &runner, NEW);
    assert_eq!(
        (lines[0].as_str(), lines[1].as_str()),
        ("\"ServiceAccount\" overwritten with \"deployer\"", "\"PodLabels\" \"tier\" overwritten with \"batch\"")
    );
    assert_eq!(lines.last().unwrap(), "\"NodeTolerations\" \"gpu\" overwritten with \"\"");
    let refused = |wish: (&str, &str)| made(&[wish], permissions).unwrap_err();
    let beyond = "couldn't prepare overwrites: provided value \"disk=hdd\" does not match \"^arch=\"";
    assert_eq!(refused(("KUBERNETES_NODE_SELECTOR_X", "disk=hdd")), beyond);
    assert!(refused(("KUBERNETES_POD_LABELS_X", "no-value")).ends_with("\"no-value\" does not match \"k=v\""));
}

#[test]
fn pods_have_the_labels_that_gitlab_runner_gives_them() {
    let of_server = variables(&[
        ("CI_PROJECT_NAMESPACE", "group/sub group"),
        ("CI_PROJECT_NAMESPACE_ID", "8"),
        ("CI_PROJECT_ROOT_NAMESPACE", "group"),
    ]);
    let pod = pod_of(of_server, CONFIG).unwrap();
    let labels = pod.metadata.labels.as_ref().unwrap();
    for (label, value) in [
        ("pod", "runner-ab-defgh-project-5-77"),
        ("project.runner.gitlab.com/id", "5"),
        ("project.runner.gitlab.com/namespace", "group_sub_group"),
        ("project.runner.gitlab.com/namespace-id", "8"),
        ("project.runner.gitlab.com/root-namespace", "group"),
        ("manager.runner.gitlab.com/name", "one"),
        ("manager.runner.gitlab.com/id-short", "AB_defgh"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn labels_and_annotations_say_where_a_job_comes_from() {
    let payload = json!({
        "job_info": {"name": "unit: [a, b]", "project_id": 5, "project_name": "my project", "root_namespace_id": 3},
        "git_info": {"ref": "main", "sha": "abc", "before_sha": "000"},
        "variables": [{"key": "CI_PROJECT_NAMESPACE", "value": "group/sub"}, {"key": "CI_PROJECT_NAMESPACE_ID", "value": "4"},
            {"key": "CI_PROJECT_ROOT_NAMESPACE", "value": "group"}],
    });
    let pod = pod_of(payload, CONFIG).unwrap();
    let labels = pod.metadata.labels.as_ref().unwrap();
    for (name, expected) in [
        ("id", "5"),
        ("name", "my_project"),
        ("namespace", "group_sub"),
        ("namespace-id", "4"),
        ("root-namespace", "group"),
        ("root-namespace-id", "3"),
    ] {
        assert_eq!(labels[&format!("project.runner.gitlab.com/{name}")], expected, "{name}");
    }
    let annotations = pod.metadata.annotations.as_ref().unwrap();
    for (name, expected) in [("name", "unit: [a, b]"), ("ref", "main"), ("sha", "abc"), ("before_sha", "000")] {
        assert_eq!(annotations[&format!("job.runner.gitlab.com/{name}")], expected, "{name}");
    }
}

#[test]
fn flags_of_a_job_change_its_pod() {
    let spec = |pairs: &[(&str, &str)], image: Value| {
        let mut payload = variables(pairs);
        payload["image"] = image;
        pod_of(payload, CONFIG).unwrap()
    };
    let off = spec(&[("FF_USE_POD_ACTIVE_DEADLINE_SECONDS", "false")], json!({"name": "x"}));
    assert_eq!(off.spec.as_ref().unwrap().active_deadline_seconds, None);
    let image = json!({"name": "x", "entrypoint": ["/enter"]});
    let started = |pairs: &[(&str, &str)], image: &Value| {
        let pod = spec(pairs, image.clone());
        let build = container(&pod, "build").clone();
        (build.command.map(|words| words[0].clone()), build.args.map(|words| words[0].clone()))
    };
    let some = |word: &str| Some(word.to_owned());
    assert_eq!(started(&[], &image), (some("sh"), None));
    let honor = [("FF_KUBERNETES_HONOR_ENTRYPOINT", "true")];
    assert_eq!(started(&honor, &image), (some("/enter"), some("sh")));
    assert_eq!(started(&honor, &json!({"name": "x"})), (None, some("sh")));
}

#[test]
fn the_logins_of_a_job_are_a_pull_secret_behind_those_of_the_configuration() {
    let login = json!({"credentials": [{"type": "registry", "url": "r.example", "username": "u", "password": "hunter22"}]});
    let secrets = |config: &str, payload: Value| {
        let pod = pod_of(payload, config).unwrap();
        assert!(!serde_json::to_string(&pod).unwrap().contains("hunter22"), "a login stands in the pod");
        let secrets = pod.spec.unwrap().image_pull_secrets;
        secrets.map(|list| list.into_iter().map(|one| one.name).collect::<Vec<_>>())
    };
    let configured = CONFIG.replace("pull_policy", "image_pull_secrets = [\"ours\"]\npull_policy");
    let of_job = "runner-ab-defgh-project-5-77-plan".to_owned();
    assert_eq!(secrets(&configured, login.clone()), Some(vec!["ours".to_owned(), of_job.clone()]));
    assert_eq!(secrets(CONFIG, login.clone()), Some(vec![of_job]));
    assert_eq!(secrets(CONFIG, json!({})), None);
    let none = configured.replace("pull_policy", "use_service_account_image_pull_secrets = true\npull_policy");
    assert_eq!(secrets(&none, login), None);
}

#[test]
fn the_log_hears_how_the_pod_is_made() {
    let payload = json!({"image": {"name": "a", "pull_policy": ["always"]}, "services": [{"name": "redis"}],
        "variables": [{"key": "KUBERNETES_NAMESPACE_OVERWRITE", "value": "ci-x"}]});
    let open = CONFIG
        .replace("[\"if-not-present\"]", "[\"if-not-present\", \"always\"]")
        .replace("pull_policy", "namespace_overwrite_allowed = \"^ci-.*\"\npull_policy");
    let (job, runner) = (job_of(payload), runner_of(&open));
    let expected = [
        "Using effective pull policy of [always] for container build",
        "Using effective pull policy of [always] for container helper",
        "Using effective pull policy of [if-not-present always] for container svc-0",
    ];
    assert_eq!(pull_notes(&job, &runner), expected);
    assert_eq!(notes(&job, &runner, NEW), ["\"Namespace\" overwritten with \"ci-x\""]);
    let without = CONFIG.replace("pull_policy = [\"if-not-present\"]\n", "");
    assert_eq!(pull_notes(&job_of(json!({})), &runner_of(&without)), Vec::<String>::new());
    assert_eq!(warnings(&job_of(json!({})), &runner_of(CONFIG)), ["Namespace is empty, therefore assuming 'default'."]);
}

#[test]
fn an_administrator_patches_the_pod_in_every_way_where_the_flag_is_on() {
    let tables = r#"
[[runners.kubernetes.pod_spec]]
name = "strategic yaml"
patch = """
hostname: patched
containers:
- name: build
  env: [{name: ADDED, value: "1"}, {name: GONE, $patch: delete}]
  volumeMounts: [{name: more, mountPath: /more}]
volumes: [{name: more, emptyDir: {}}]
tolerations: [{operator: Exists}]
"""
[[runners.kubernetes.pod_spec]]
name = "merge"
patch_type = "merge"
patch = '{"hostNetwork": true, "terminationGracePeriodSeconds": 5, "tolerations": null}'
[[runners.kubernetes.pod_spec]]
name = "json"
patch_type = "json"
patch = '[{"op": "add", "path": "/nodeSelector", "value": {"disk": "ssd"}}]'
"#;
    let flag = |on: &str| format!("feature_flags = {{FF_USE_ADVANCED_POD_SPEC_CONFIGURATION = {on}}}\n[runners.kubernetes]\n");
    let config = |on: &str, tables: &str| CONFIG.replace("[runners.kubernetes]\n", &flag(on)) + tables;
    let payload = || variables(&[("GONE", "here"), ("KEPT", "here")]);
    let pod = pod_of(payload(), &config("true", tables)).unwrap();
    let build = container(&pod, "build");
    let env: Vec<_> = build.env.iter().flatten().map(|one| one.name.as_str()).collect();
    assert_eq!((env, build.image.as_deref()), (vec!["KEPT", "ADDED"], Some("alpine")));
    assert_eq!(build.volume_mounts.iter().flatten().last().unwrap().mount_path, "/more");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.host_network), (Some("patched"), Some(true)));
    assert_eq!((spec.termination_grace_period_seconds, spec.tolerations.as_ref()), (Some(5), None));
    assert_eq!(spec.node_selector.as_ref().unwrap()["disk"], "ssd");
    let off = pod_of(payload(), &config("false", tables)).unwrap();
    assert_eq!(off, pod_of(payload(), CONFIG).unwrap());
    let error = |patch: &str, kind: &str| {
        let table = format!("[[runners.kubernetes.pod_spec]]\nname = \"odd\"\npatch_type = \"{kind}\"\npatch = '{patch}'\n");
        pod_of(payload(), &config("true", &table)).unwrap_err().to_string()
    };
    assert!(error("{\"$unknown\": 1}", "").contains("pod_spec patch \"odd\": the directive $unknown is not known"));
    assert!(error("{\"containers\": [{\"image\": \"x\"}]}", "strategic").ends_with("an element without name"));
    assert!(error("[{\"op\": \"remove\", \"path\": \"/nothing\"}]", "json").starts_with("pod_spec patch \"odd\": "));
    assert!(error("{\"containers\": 5}", "merge").contains("no valid spec"));
}

#[test]
fn only_listed_images_and_services_become_containers() {
    let config = CONFIG.replace(
        "pull_policy",
        "allowed_images = [\"ruby:*\", \"registry.example/**\", \"python:$V\"]\nallowed_services = [\"redis:?\"]\npull_policy",
    );
    let of = |image: &str, service: &str| {
        let wish = json!({"image": {"name": image}, "services": [{"name": service}], "variables": [{"key": "V", "value": "7"}]});
        pod_of(wish, &config).err()
    };
    let refused = |image: &str, kind: &'static str, patterns: &[&str]| {
        let patterns = patterns.iter().map(|one| (*one).to_owned()).collect();
        Some(BuildError::Disallowed { image: image.to_owned(), kind, patterns })
    };
    for image in ["ruby:3", "ruby:$V", "registry.example/a/b:1", "alpine", "gantry-helper:1"] {
        assert_eq!(of(image, "redis:$V"), None, "{image}");
    }
    for image in ["python:7", "ruby", "evil/ruby:3", "registry.example.evil/a"] {
        let patterns = ["ruby:*", "registry.example/**", "python:$V"];
        assert_eq!(of(image, "redis:1"), refused(image, "images", &patterns), "{image}");
    }
    assert_eq!(of("ruby:1", "postgres"), refused("postgres", "services", &["redis:?"]));
}

#[test]
fn labels_of_gitlab_runner_cannot_be_replaced_and_annotations_can() {
    let config = CONFIG.replace(
        "team = \"$TEAM\"\n",
        "team = \"$TEAM\"\n\"job.runner.gitlab.com/mine\" = \"1\"\n\"Runner.GitLab.com\" = \"2\"\n\"notrunner.gitlab.com/x\" = \"3\"\n\
         \"gantry.dev/job-id\" = \"4\"\n[runners.kubernetes.pod_annotations]\n\"job.runner.gitlab.com/sha\" = \"$TEAM\"\n",
    );
    let long = format!("--{}_.{}", "a".repeat(61), "b".repeat(9));
    let pod = pod_of(variables(&[("TEAM", &long)]), &config).unwrap();
    let labels = pod.metadata.labels.unwrap();
    assert_eq!((labels["team"].as_str(), labels["gantry.dev/job-id"].as_str()), ("a".repeat(61).as_str(), "77"));
    assert_eq!(labels["notrunner.gitlab.com/x"], "3");
    assert!(!labels.contains_key("job.runner.gitlab.com/mine") && !labels.contains_key("Runner.GitLab.com"), "{labels:?}");
    let annotations = pod.metadata.annotations.unwrap();
    assert_eq!(
        (annotations["job.runner.gitlab.com/sha"].as_str(), annotations["job.runner.gitlab.com/name"].as_str()),
        (long.as_str(), "unit")
    );
}
