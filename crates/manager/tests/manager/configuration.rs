//! Keys of a runner entry that change how GitLab is asked.

use crate::bench::{Bench, payload, reported, until};
use agent_contract::{Plan, names};
use k8s_openapi::api::core::v1::Secret;
use kube_server::Kind;
use std::path::PathBuf;

const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlzCCAT2gAwIBAgIURhVeSyrXADaFkYDh1LYapEWpszcwCgYIKoZIzj0EAwIw
IDEeMBwGA1UEAwwVZ2FudHJ5IHRlc3QgYXV0aG9yaXR5MCAXDTI2MTEyNDE4MDYy
NVoYDzIxMjYxMDMxMTgwNjI1WjAgMR4wHAYDVQQDDBVnYW50cnkgdGVzdCBhdXRo
b3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASqBE2APGD2DJhV1AgN1BYC
6yx9+P6BCWp8qvyR6Hidn95+hwR4vmoMlUaAbuFl8HR73V76opfR8Ogku/9BZh06
o1MwUTAdBgNVHQ4EFgQUlOtPQ/LKM+G7/e2WmhVTiR+yP2UwHwYDVR0jBBgwFoAU
lOtPQ/LKM+G7/e2WmhVTiR+yP2UwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQD
AgNIADBFAiEAv+rgzkhTUfw1N3OfYh0L5hfHDPmx1EBDA3rLSBhECLICIGpueuS6
i6K3u08wv4CpXxTbGtzIxcax6e4Sq/8P9ml3
-----END CERTIFICATE-----
";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn plan(bench: &Bench, pod: &str) -> Plan {
    let secret = bench.store.get(Kind::Secret, "default", &names::plan_secret(pod, 0)).unwrap();
    let secret: Secret = serde_json::from_value((*secret).clone()).unwrap();
    Plan::from_parts(&[&secret.data.unwrap()[&names::plan_key(0)].0]).unwrap()
}

#[tokio::test]
async fn the_certificates_of_tls_ca_file_go_to_the_job_and_a_key_beside_them_does_not() {
    let bench = Bench::start().await;
    let path = file("authority.pem", &[KEY, AUTHORITY].concat());
    let manager = bench.manager_of(2, &format!("tls-ca-file = {path:?}"), "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let plan = plan(&bench, &name);
    assert_eq!(plan.coordinator.ca_pem.as_deref(), Some(AUTHORITY));
    let variable = plan.job.variables.find("CI_SERVER_TLS_CA_FILE").unwrap();
    assert_eq!((variable.value.as_str(), variable.file, variable.public), (AUTHORITY, true, false));
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn the_runners_own_certificate_and_what_it_is_go_to_the_job() {
    let bench = Bench::start().await;
    let own = rcgen::generate_simple_self_signed(vec!["a-runner".to_owned()]).unwrap();
    let (certificate, key) = (own.cert.pem().replace("\r\n", "\n"), own.signing_key.serialize_pem());
    let (certificate_file, key_file) = (file("own.pem", &certificate), file("own.key", &key));
    let keys = format!("tls-cert-file = {certificate_file:?}\ntls-key-file = {key_file:?}");
    let manager = bench.manager_of(2, &keys, "");
    bench.gitlab.offer(payload(7));
    let name = bench.wait_for_pod(7).await;
    let plan = plan(&bench, &name);
    let identity = plan.coordinator.identity.as_ref().unwrap();
    assert_eq!((&identity.certificate_pem, &identity.key_pem), (&certificate, &key));
    for (variable, content) in [("CI_SERVER_TLS_CERT_FILE", &certificate), ("CI_SERVER_TLS_KEY_FILE", &key)] {
        let variable = plan.job.variables.find(variable).unwrap();
        assert_eq!((&variable.value, variable.file, variable.public), (content, true, false));
    }
    for (variable, value) in [
        ("CI_RUNNER_REVISION", "HEAD"),
        ("CI_RUNNER_VERSION", "1.2.3"),
        ("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64"),
        ("CI_RUNNER_SHORT_TOKEN", "secretru"),
    ] {
        assert_eq!(plan.job.variables.get(variable), Some(value), "{variable}");
    }
    bench.set_status(&name, reported());
    bench.wait_for_nothing().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_tls_ca_file_without_certificates_is_an_error_at_the_start() {
    let nowhere = PathBuf::from("/nowhere/authority.pem");
    for (path, why) in [(nowhere, "No such file"), (file("key.pem", KEY), "there is no PEM certificate in it")] {
        let bench = Bench::start().await;
        let error = bench.manager_of(2, &format!("tls-ca-file = {path:?}"), "").end().await.unwrap_err();
        assert_eq!(error.to_string(), format!("runner \"one\": failed to read tls-ca-file {}", path.display()));
        assert!(std::error::Error::source(&error).unwrap().to_string().contains(why));
    }
}

#[tokio::test]
async fn as_many_requests_are_open_as_request_concurrency_and_the_room_for_jobs_allow() {
    for (keys, open) in [("", 1), ("request_concurrency = 3", 3), ("request_concurrency = 1000000\nlimit = 2", 2)] {
        let bench = Bench::start().await;
        let manager =
            bench.manager_of(4, &format!("{keys}\nfeature_flags = {{FF_USE_ADAPTIVE_REQUEST_CONCURRENCY = false}}"), "");
        until("the requests", || bench.gitlab.open_requests() == open).await;
        // Each job is followed by another request as long as there is room.
        bench.gitlab.offer(payload(7));
        bench.wait_for_pod(7).await;
        let room = if keys.contains("limit") { 1 } else { open };
        until("the requests after a job", || bench.gitlab.open_requests() == room).await;
        assert_eq!(bench.gitlab.most_requests(), open);
        manager.stop().await;
    }
}

#[tokio::test]
async fn requests_become_more_as_they_bring_jobs() {
    let bench = Bench::start().await;
    let manager = bench.manager_of(9, "request_concurrency = 3", "");
    until("the first request", || bench.gitlab.open_requests() == 1).await;
    bench.gitlab.offer(payload(7));
    bench.wait_for_pod(7).await;
    until("two requests after a job", || bench.gitlab.open_requests() == 2).await;
    assert_eq!(bench.gitlab.most_requests(), 2);
    manager.stop().await;
}
