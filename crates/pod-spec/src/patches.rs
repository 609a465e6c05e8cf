//! `[[runners.kubernetes.pod_spec]]`: what an administrator changes of the pod's spec after all else, in order
//! (`FF_USE_ADVANCED_POD_SPEC_CONFIGURATION`).
//!
//! A strategic patch joins lists of objects by their key, as Kubernetes does it for pods. A directive that is not known
//! is an error: a patch that does half of what it says would be found out about by a job.

use crate::BuildError;
use k8s_openapi::api::core::v1::PodSpec;
use runner_config::PodSpecPatch;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";

/// The spec with all patches applied.
pub fn apply(spec: PodSpec, patches: &[PodSpecPatch]) -> Result<PodSpec, BuildError> {
    let Some(last) = patches.last() else { return Ok(spec) };
    let failed = |patch: &PodSpecPatch, why: String| BuildError::Patch { name: patch.name.clone(), why };
    let mut value = serde_json::to_value(spec).map_err(|error| failed(last, error.to_string()))?;
    for patch in patches {
        one(&mut value, patch).map_err(|why| failed(patch, why))?;
    }
    // What Kubernetes does not know is dropped here, as it would drop it.
    serde_json::from_value(value).map_err(|error| failed(last, format!("the pod would have no valid spec: {error}")))
}

fn one(spec: &mut Value, patch: &PodSpecPatch) -> Result<(), String> {
    // JSON is YAML too.
    let wanted: Value = serde_saphyr::from_str(&patch.patch).map_err(|error| format!("neither JSON nor YAML: {error}"))?;
    match patch.patch_type.as_str() {
        "json" => {
            let operations: json_patch::Patch = serde_json::from_value(wanted).map_err(|error| error.to_string())?;
            json_patch::patch(spec, &operations).map_err(|error| error.to_string())
        }
        "merge" => {
            json_patch::merge(spec, &wanted);
            Ok(())
        }
        _ => strategic(spec, wanted, ""),
    }
}

/// Key by which the elements of a pod's list are told apart; `None` for lists that are replaced.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "ports" => Some("containerPort"),
        "hostAliases" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        _ => None,
    }
}

fn strategic(target: &mut Value, patch: Value, field: &str) -> Result<(), String> {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => object(target, patch),
        (Value::Array(target), Value::Array(patch)) => match merge_key(field) {
            Some(key) => list(target, patch, key),
            None => {
                *target = patch;
                Ok(())
            }
        },
        (target, Value::Object(patch)) => {
            *target = Value::Object(Map::new());
            strategic(target, Value::Object(patch), field)
        }
        (target, Value::Array(patch)) => {
            *target = Value::Array(Vec::new());
            strategic(target, Value::Array(patch), field)
        }
        (target, patch) => {
            *target = patch;
            Ok(())
        }
    }
}

fn object(target: &mut Map<String, Value>, mut patch: Map<String, Value>) -> Result<(), String> {
    match directive(&mut patch)?.as_deref() {
        None | Some("merge") => {}
        Some("replace") => target.clear(),
        Some(other) => return Err(format!("{DIRECTIVE}: {other} cannot stand in an object that is not in a list")),
    }
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            strategic(target.entry(key.clone()).or_insert(Value::Null), value, &key)?;
        }
    }
    Ok(())
}

fn list(target: &mut Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(), String> {
    let replaces = |one: &Value| one[DIRECTIVE] == "replace" && one[key].is_null();
    if patch.iter().any(replaces) {
        target.clear();
    }
    for element in patch.into_iter().filter(|one| !replaces(one)) {
        let Value::Object(mut element) = element else { return Err(format!("an element without {key}")) };
        let named = element.get(key).cloned().ok_or_else(|| format!("an element without {key}"))?;
        let found = target.iter().position(|known| known[key] == named);
        match (found, directive(&mut element)?.as_deref()) {
            (Some(at), Some("delete")) => drop(target.remove(at)),
            (None, Some("delete")) => {}
            (Some(at), Some("replace")) => target[at] = Value::Object(element),
            (Some(at), _) => strategic(&mut target[at], Value::Object(element), "")?,
            (None, _) => {
                let mut new = Value::Null;
                strategic(&mut new, Value::Object(element), "")?;
                target.push(new);
            }
        }
    }
    Ok(())
}

/// Takes the directive out of an object.
fn directive(patch: &mut Map<String, Value>) -> Result<Option<String>, String> {
    let directive = patch.remove(DIRECTIVE).map(|word| word.as_str().unwrap_or_default().to_owned());
    match patch.keys().find(|key| key.starts_with('$')) {
        Some(other) => Err(format!("the directive {other} is not known")),
        None => Ok(directive),
    }
}
