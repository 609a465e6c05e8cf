//! The patch kinds: JSON patch, merge patch, strategic merge, and server-side apply as a merge.
//!
//! Strategic merge differs from a merge patch in lists of objects, which are joined by a key (containers by name,
//! mounts by path, …). Server-side apply is served as a strategic merge that may create; there is no field
//! management, because one manager and a person with kubectl are all the writers there are.

use crate::ApiError;
use serde_json::Value;

/// How a patch is to be read, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// Reads a `Content-Type`.
    pub fn from_media_type(text: &str) -> Option<Self> {
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies `patch` to `object`.
pub fn apply(kind: PatchKind, object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match kind {
        PatchKind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| ApiError::bad_request(format!("malformed patch: {error}")))?;
            // 422 also for a test that fails, as the real server answers: compare-and-swap depends on it.
            json_patch::patch(object, &operations).map_err(|error| ApiError::unmet(format!("patch does not apply: {error}")))
        }
        PatchKind::Merge => {
            json_patch::merge(object, patch);
            Ok(())
        }
        PatchKind::Strategic | PatchKind::Apply => {
            strategic(object, patch, "");
            Ok(())
        }
    }
}

/// Key by which the elements of a list are told apart; `None` for lists that are replaced.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        "hostAliases" => Some("ip"),
        "conditions" => Some("type"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

fn strategic(target: &mut Value, patch: &Value, field: &str) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
                target.clear();
            }
            for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
                if value.is_null() {
                    target.remove(key);
                } else {
                    strategic(target.entry(key.clone()).or_insert(Value::Null), value, key);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if merge_key(field).is_some() => {
            let key = merge_key(field).unwrap_or_default();
            for element in patch {
                let found = target.iter().position(|known| !known[key].is_null() && known[key] == element[key]);
                match (found, element.get("$patch").and_then(Value::as_str)) {
                    (Some(at), Some("delete")) => drop(target.remove(at)),
                    (None, Some("delete")) => {}
                    (Some(at), _) => strategic(&mut target[at], element, ""),
                    (None, _) => target.push(element.clone()),
                }
            }
        }
        (target, patch) => {
            *target = patch.clone();
            // A new object must not keep the directives or nulls of a patch.
            if let Value::Object(map) = target {
                map.retain(|key, value| !key.starts_with('$') && !value.is_null());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PatchKind, apply};
    use serde_json::json;

    #[test]
    fn strategic_merge_joins_lists_by_their_key() {
        let mut object =
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "args": ["x", "y"]}, "gone": 1});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}],
            "args": ["z"]}, "gone": null});
        apply(PatchKind::Strategic, &mut object, &patch).unwrap();
        assert_eq!(object, json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}], "args": ["z"]}}));
    }

    #[test]
    fn a_json_patch_whose_test_fails_is_refused() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(apply(PatchKind::Json, &mut json!({"a": 1}), &patch).unwrap_err().code, 422);
    }
}
