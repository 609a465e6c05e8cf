//! The rules of Kubernetes that a wrong pod or Secret must not slip through here and break on a cluster.

use crate::{ApiError, Kind};
use serde_json::Value;
use std::collections::HashSet;

/// Longest name of most kinds (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// Largest data of a Secret or ConfigMap, in bytes before encoding.
const MAX_DATA: usize = 1024 * 1024;

/// Checks a name.
pub fn name(kind: Kind, name: &str) -> Result<(), ApiError> {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let well_formed = name.len() <= MAX_NAME
        && is_end(name.bytes().next())
        && is_end(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    if name.is_empty() {
        return Err(ApiError::invalid(kind.resource(), "", "metadata.name: Required value: name or generateName is required"));
    }
    if well_formed {
        Ok(())
    } else {
        Err(ApiError::invalid(kind.resource(), name, "metadata.name: a lowercase RFC 1123 subdomain is required"))
    }
}

/// Checks that an object is one, down to where it is indexed without another look.
pub fn shape(object: &Value) -> Result<(), ApiError> {
    let is_map = |value: &Value| value.is_object();
    let is_map_or_absent = |value: Option<&Value>| value.is_none_or(|value| value.is_object() || value.is_null());
    let lists = ["containers", "initContainers"].iter().filter_map(|list| object.pointer(&format!("/spec/{list}")));
    let containers = lists.into_iter().all(|list| list.is_null() || list.as_array().is_some_and(|list| list.iter().all(is_map)));
    let well_formed = object.get("metadata").is_some_and(is_map)
        && is_map_or_absent(object.get("spec"))
        && is_map_or_absent(object.get("status"))
        && is_map_or_absent(object.get("data"))
        && containers;
    if well_formed { Ok(()) } else { Err(ApiError::bad_request("metadata, spec, status, data and containers must be objects")) }
}

/// Checks a whole object.
pub fn object(kind: Kind, object: &Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let problem = match kind {
        Kind::Pod => pod_problem(&object["spec"]),
        Kind::Secret | Kind::ConfigMap => data_problem(object),
        _ => None,
    };
    match problem {
        None => Ok(()),
        Some(problem) => Err(ApiError::invalid(kind.resource(), name, &problem)),
    }
}

/// Checks that an update leaves alone what nobody may change.
pub fn unchanged_identity(kind: Kind, before: &Value, after: &Value) -> Result<(), ApiError> {
    let name = before["metadata"]["name"].as_str().unwrap_or_default();
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if before["metadata"][field] != after["metadata"][field] {
            return Err(ApiError::invalid(kind.resource(), name, &format!("metadata.{field}: field is immutable")));
        }
    }
    if kind == Kind::Pod && fixed(&before["spec"]) != fixed(&after["spec"]) {
        let why = "spec: pod updates may not change fields other than image, activeDeadlineSeconds, tolerations and nodeName";
        return Err(ApiError::forbidden(format!("pods \"{name}\" is invalid: {why}")));
    }
    Ok(())
}

/// The part of a pod's spec that cannot change after its creation.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = Value::Null;
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        for field in ["activeDeadlineSeconds", "tolerations", "nodeName"] {
            spec.remove(field);
        }
    }
    spec
}

fn data_problem(object: &Value) -> Option<String> {
    let values = object["data"].as_object().into_iter().flatten();
    let bytes: usize = values.map(|(_, value)| value.as_str().map_or(0, |text| text.len() * 3 / 4)).sum();
    (bytes > MAX_DATA).then(|| format!("data: Too long: must have at most {MAX_DATA} bytes"))
}

fn pod_problem(spec: &Value) -> Option<String> {
    let containers = spec["containers"].as_array().filter(|list| !list.is_empty());
    let Some(containers) = containers else { return Some("spec.containers: Required value".to_owned()) };
    let volumes: HashSet<_> =
        spec["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str()).collect();
    let mut names = HashSet::new();
    let all = containers.iter().chain(spec["initContainers"].as_array().into_iter().flatten());
    for container in all {
        let name = container["name"].as_str().unwrap_or_default();
        let label = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !label {
            return Some(format!("spec.containers.name: Invalid value: {name:?}: a lowercase RFC 1123 label is required"));
        }
        if !names.insert(name) {
            return Some(format!("spec.containers.name: Duplicate value: {name:?}"));
        }
        if container["image"].as_str().unwrap_or_default().trim().is_empty() {
            return Some(format!("spec.containers[{name}].image: Required value"));
        }
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volume = mount["name"].as_str().unwrap_or_default();
            if !volumes.contains(volume) {
                return Some(format!("spec.containers[{name}].volumeMounts: Not found: {volume:?}"));
            }
        }
        for (resource, quantity) in
            ["limits", "requests"].iter().filter_map(|part| container["resources"][*part].as_object()).flatten()
        {
            if !is_quantity(quantity) {
                return Some(format!("spec.containers[{name}].resources[{resource}]: Invalid value: {quantity}"));
            }
        }
    }
    None
}

/// Whether a value is a Kubernetes quantity: a number with an optional suffix.
fn is_quantity(value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(_) => return true,
        _ => return false,
    };
    let digits = text.trim_start_matches(['+', '-']);
    let end = digits.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|rest| rest.parse::<i32>().is_ok());
    const SUFFIXES: [&str; 16] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.parse::<f64>().is_ok() && (exponent || SUFFIXES.contains(&suffix))
}

#[cfg(test)]
mod tests {
    use super::{is_quantity, name, object};
    use crate::Kind;
    use serde_json::json;

    #[test]
    fn quantities_and_names_follow_kubernetes() {
        for good in ["1", "500m", "1.5Gi", "1e3", "0"] {
            assert!(is_quantity(&json!(good)), "{good}");
        }
        for bad in ["", "1 Gi", "Gi", "1GB", "--1x"] {
            assert!(!is_quantity(&json!(bad)), "{bad}");
        }
        assert!(name(Kind::Pod, "a-b.c1").is_ok());
        for bad in ["", "A", "-a", "a_b", "a-"] {
            assert!(name(Kind::Pod, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mount_without_its_volume_is_refused() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}});
        assert!(object(Kind::Pod, &pod).unwrap_err().message.contains("Not found: \"x\""));
    }
}
