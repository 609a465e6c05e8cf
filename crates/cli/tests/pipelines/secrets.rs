//! Masked values stay where they belong.

use crate::gantry::ci;
use crate::parts::play;
use crate::repository::Repository;
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::ApiResource;

/// Prints the token in every way but as it is; what it is, is told in hexadecimal.
const WAYS: &str = r#"
job:
  script:
    - printf %s "$CI_JOB_TOKEN" | od -An -v -tx1 | sed 's/^/hex:/'
    - echo "whole <$CI_JOB_TOKEN>"
    - for ((at = 0; at < ${#CI_JOB_TOKEN}; at++)); do printf %s "${CI_JOB_TOKEN:at:1}"; sleep 0.02; done; echo
    - printf %s "${CI_JOB_TOKEN:0:7}"; sleep 2.5; printf '%s\n' "${CI_JOB_TOKEN:7}"
    - printf %s "${CI_JOB_TOKEN:0:3}"; printf %s "${CI_JOB_TOKEN:3}" >&2; echo
    - python3 -c 'import os, sys; [(sys.stdout.write(one), sys.stdout.flush()) for one in os.environ["CI_JOB_TOKEN"]]'
    - echo " $CI_JOB_TOKEN$CI_JOB_TOKEN$CI_JOB_TOKEN"
    - printf 'x%.0s' $(seq 65530); echo "$CI_JOB_TOKEN"
    - printf %s "$CI_JOB_TOKEN"; kill -9 $$
"#;

pub fn a_masked_value_never_appears_however_it_is_written() {
    let ended = ci(Repository::new(WAYS).path(), &["--keep"]).expect(1);
    let kept = ended.kept();
    let traces: Vec<_> = std::fs::read_dir(kept.join("coordinator/traces")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let traces: Vec<_> = traces.iter().map(|path| plain(&std::fs::read(path).unwrap())).collect();
    std::fs::remove_dir_all(kept).unwrap();
    let token = from_hex(&traces.concat());
    assert!(token.len() >= 16, "{token:?}");
    for text in traces.iter().chain([&ended.stdout, &ended.stderr]) {
        assert!(!text.contains(&token), "the token is in it");
        // A job may tell most of a value in pieces of its own making; half of it in one piece is more than we let out.
        let half = &token[..token.len() - 4];
        assert!(!text.contains(half), "most of the token is in it");
    }
    let masked = traces.concat().matches("[MASKED]").count();
    // Each way is one of them: what stands in a row after the prefix of a token is hidden as one.
    assert!(masked >= 8, "{masked} masked:\n{}", traces.concat());
}

/// A trace without its stamps, which may stand in the midst of a line.
fn plain(trace: &[u8]) -> String {
    String::from_utf8_lossy(&coordinator::log::without_stamps(trace)).into_owned()
}

/// The value whose bytes the job printed.
fn from_hex(trace: &str) -> String {
    let digits = trace.lines().filter_map(|line| line.split_once("hex:")).filter(|(before, _)| !before.contains('$'));
    let bytes = digits.flat_map(|(_, rest)| rest.split_whitespace()).map(|byte| u8::from_str_radix(byte, 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

pub fn a_masked_value_is_in_no_object_but_the_plan() {
    let pipeline = "job:\n  script:\n    - printf %s \"$CI_JOB_TOKEN\" | od -An -v -tx1 | sed 's/^/hex:/'\n    - echo \"$CI_JOB_TOKEN\"\n    - echo \"waits $((1+1))\"\n    - sleep 1000\n";
    let repository = Repository::new(pipeline);
    play(
        |_| {},
        async |parts| {
            let pipeline = parts.run(&repository);
            let trace = parts.wait_for_trace(pipeline, "waits 2").await;
            let token = from_hex(&trace);
            assert!(token.len() >= 16);
            let (mut with_value, mut plans) = (Vec::new(), Vec::new());
            let mut objects = 0;
            for (kind, plural) in [
                ("Pod", "pods"),
                ("Secret", "secrets"),
                ("ConfigMap", "configmaps"),
                ("Event", "events"),
                ("Namespace", "namespaces"),
                ("Node", "nodes"),
            ] {
                let version = kube::core::GroupVersionKind::gvk("", "v1", kind);
                let resource = ApiResource::from_gvk_with_plural(&version, plural);
                let api: Api<DynamicObject> = Api::all_with(parts.client.clone(), &resource);
                for object in api.list(&ListParams::default()).await.unwrap() {
                    objects += 1;
                    let name = object.metadata.name.clone().unwrap_or_default();
                    let object = serde_json::to_value(&object).unwrap();
                    if holds(&object, token.as_bytes()) {
                        with_value.push(format!("{kind} {name}"));
                    }
                    if plan(&object).is_some_and(|plan| plan.job.token.expose() == token) {
                        plans.push(format!("{kind} {name}"));
                    }
                }
            }
            println!("    {objects} objects, the value is in {with_value:?}, packed in {plans:?}");
            // The plan is packed, so that the value does not even show there.
            assert!(with_value.is_empty(), "{with_value:?}");
            assert!(plans.len() == 1 && plans[0].starts_with("Secret ") && plans[0].ends_with("-plan"), "{plans:?}");
            parts.coordinator.cancel_pipeline(pipeline).unwrap();
            parts.wait_for_end(pipeline).await;
        },
    );
}

/// Whether a text in `value`, plain or base64, has `wanted` in it.
fn holds(value: &serde_json::Value, wanted: &[u8]) -> bool {
    let has = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    match value {
        serde_json::Value::String(text) => has(text.as_bytes()) || decode(text).is_some_and(|bytes| has(&bytes)),
        serde_json::Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
        serde_json::Value::Object(fields) => fields.iter().any(|(key, value)| has(key.as_bytes()) || holds(value, wanted)),
        _ => false,
    }
}

/// The plan in an object, if it is one.
fn plan(object: &serde_json::Value) -> Option<agent_contract::Plan> {
    let part = object.get("data")?.get(agent_contract::names::plan_key(0))?.as_str()?;
    agent_contract::Plan::from_parts(&[decode(part)?]).ok()
}

/// Base64 as Kubernetes writes it in `data` of Secrets.
fn decode(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        bits = (bits << 6 | u32::try_from(digit).ok()?) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}
