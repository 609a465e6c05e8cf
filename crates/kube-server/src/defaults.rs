//! What the server fills in: identity, times, and the defaults of the real API server that clients rely on.

use crate::{ApiError, Kind, validate};
use serde_json::{Value, json};

/// Length of the random part of a generated name (Kubernetes' own).
const SUFFIX: usize = 5;
/// Letters of it: no vowels, nothing that reads like another (Kubernetes' own).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The time as Kubernetes writes it.
pub fn now() -> String {
    time_in(0)
}

/// The time in some seconds.
pub fn time_in(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    let then = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Fills in kind, name, namespace, uid and time; answers the name.
pub fn identity(kind: Kind, namespace: &str, object: &mut Value) -> Result<String, ApiError> {
    let root = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the object must be a JSON object"))?;
    for (field, expected) in [("kind", kind.name()), ("apiVersion", kind.api_version())] {
        let given = root.entry(field).or_insert_with(|| json!(expected));
        if given.as_str().is_some_and(|given| given.is_empty()) {
            *given = json!(expected);
        }
        if given.as_str() != Some(expected) {
            return Err(ApiError::bad_request(format!("{field} must be {expected}, not {given}")));
        }
    }
    let metadata = root.entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().ok_or_else(|| ApiError::bad_request("metadata must be an object"))?;
    let given = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let name = if given.is_empty() && !prefix.is_empty() { generated(prefix) } else { given };
    validate::name(kind, &name)?;
    if kind.is_namespaced() {
        let stated = metadata.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        if stated != namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the object ({stated}) is not that of the request ({namespace})"
            )));
        }
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(now()));
    for set_by_us in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(set_by_us);
    }
    Ok(name)
}

fn generated(prefix: &str) -> String {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    let suffix = bytes.iter().take(SUFFIX).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    let room = 63 - SUFFIX;
    prefix.chars().take(room).chain(suffix).collect()
}

/// Fills in the defaults of a kind.
pub fn fill(kind: Kind, object: &mut Value) {
    match kind {
        Kind::Pod => pod(object),
        Kind::Namespace => object["status"] = json!({"phase": "Active"}),
        Kind::Secret => {
            let given = object.get_mut("stringData").map(Value::take);
            if let Some(Value::Object(texts)) = given {
                for (key, text) in texts {
                    use base64::Engine;
                    let bytes = text.as_str().unwrap_or_default();
                    object["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(bytes));
                }
            }
            if let Some(root) = object.as_object_mut() {
                root.remove("stringData");
                root.entry("type").or_insert_with(|| json!("Opaque"));
            }
        }
        _ => {}
    }
}

fn pod(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!("default")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
    ] {
        spec.entry(field).or_insert(value);
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        // As a server does whose volumes cannot be images: a field of a feature that is off is dropped without a word.
        volume.as_object_mut().map(|volume| volume.remove("image"));
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let latest = container["image"].as_str().is_some_and(|image| {
                let last = image.rsplit('/').next().unwrap_or(image);
                image.ends_with(":latest") || (!last.contains(':') && !image.contains('@'))
            });
            let Some(container) = container.as_object_mut() else { continue };
            for (field, value) in [
                ("imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" })),
                ("terminationMessagePath", json!("/dev/termination-log")),
                ("terminationMessagePolicy", json!("File")),
                ("resources", json!({})),
            ] {
                container.entry(field).or_insert(value);
            }
        }
    }
    object["status"] = json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])});
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by requests and limits.
fn qos_class(spec: &Value) -> &'static str {
    let containers: Vec<_> = spec["containers"].as_array().into_iter().flatten().collect();
    let has = |container: &Value, what: &str| container["resources"][what].as_object().is_some_and(|map| !map.is_empty());
    if !containers.iter().any(|container| has(container, "limits") || has(container, "requests")) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|resource| {
            let (limit, request) = (&container["resources"]["limits"][*resource], &container["resources"]["requests"][*resource]);
            !limit.is_null() && (request.is_null() || request == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}
