//! Label and field selectors.
//!
//! Labels: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas. Fields: `=`, `==` and
//! `!=` on the few fields that Kubernetes indexes; another field is refused as the real server refuses it.

use crate::ApiError;
use serde_json::Value;

/// What a list or watch is limited to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selectors {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

#[derive(Clone, Debug, PartialEq)]
enum LabelRule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Clone, Debug, PartialEq)]
struct FieldRule {
    pointer: &'static str,
    value: String,
    equal: bool,
}

const FIELDS: [(&str, &str); 19] = [
    ("metadata.name", "/metadata/name"),
    ("metadata.namespace", "/metadata/namespace"),
    ("status.phase", "/status/phase"),
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("status.podIP", "/status/podIP"),
    ("type", "/type"),
    ("reason", "/reason"),
    ("spec.unschedulable", "/spec/unschedulable"),
];

impl Selectors {
    /// Reads both; empty texts select everything.
    ///
    /// # Errors
    /// 400 for a selector that cannot be read.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(fields)? })
    }

    /// Whether `object` is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let labels = self.labels.iter().all(|rule| match rule {
            LabelRule::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            LabelRule::NotIn(key, values) => label(key).is_none_or(|value| values.iter().all(|one| one != value)),
            LabelRule::Exists(key) => label(key).is_some(),
            LabelRule::Absent(key) => label(key).is_none(),
        });
        labels
            && self.fields.iter().all(|rule| {
                let found = object.pointer(rule.pointer).and_then(Value::as_str).unwrap_or_default();
                (found == rule.value) == rule.equal
            })
    }
}

fn parse_labels(text: &str) -> Result<Vec<LabelRule>, ApiError> {
    let unreadable = |part: &str| ApiError::bad_request(format!("unable to parse requirement: {part:?}"));
    let is_key = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    split_outside_parentheses(text)
        .into_iter()
        .map(|part| {
            let rule = if let Some((key, value)) = part.split_once("!=") {
                LabelRule::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                LabelRule::In(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some(key) = part.strip_prefix('!') {
                LabelRule::Absent(key.trim().to_owned())
            } else if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
                let values = values.split(',').map(|value| value.trim().to_owned()).collect();
                match head.split_whitespace().collect::<Vec<_>>()[..] {
                    [key, "in"] => LabelRule::In(key.to_owned(), values),
                    [key, "notin"] => LabelRule::NotIn(key.to_owned(), values),
                    _ => return Err(unreadable(part)),
                }
            } else {
                LabelRule::Exists(part.to_owned())
            };
            let (LabelRule::In(key, _) | LabelRule::NotIn(key, _) | LabelRule::Exists(key) | LabelRule::Absent(key)) = &rule;
            if is_key(key) { Ok(rule) } else { Err(unreadable(part)) }
        })
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn parse_fields(text: &str) -> Result<Vec<FieldRule>, ApiError> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (key, value, equal) = if let Some((key, value)) = part.split_once("!=") {
                (key, value, false)
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (key, value, true)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: {part:?}")));
            };
            let pointer = FIELDS.iter().find(|(name, _)| *name == key.trim()).map(|(_, pointer)| *pointer);
            let pointer = pointer.ok_or_else(|| ApiError::bad_request(format!("field label not supported: {}", key.trim())))?;
            Ok(FieldRule { pointer, value: value.trim().to_owned(), equal })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Selectors;
    use serde_json::json;

    #[test]
    fn labels_and_fields_select() {
        let object =
            json!({"metadata": {"name": "x", "labels": {"app": "web", "tier": "front"}}, "status": {"phase": "Running"}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web,tier in (front, back)", "", true),
            ("app==web,tier notin (front)", "", false),
            ("!app", "", false),
            ("app,!other", "status.phase!=Failed", true),
            ("app!=web", "", false),
            ("other!=web", "metadata.name=x", true),
            ("", "metadata.name=y", false),
            ("", "spec.nodeName=", true),
        ] {
            assert_eq!(Selectors::parse(labels, fields).unwrap().matches(&object), expected, "{labels} | {fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(Selectors::parse("a b", "").unwrap_err().code, 400);
        assert_eq!(Selectors::parse("a near (b)", "").unwrap_err().code, 400);
        assert!(Selectors::parse("", "spec.color=red").unwrap_err().message.contains("field label not supported"));
    }
}
