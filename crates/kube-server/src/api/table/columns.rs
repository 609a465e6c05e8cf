//! The columns of each kind, as the real server has them.

use super::{age, pod};
use crate::Kind;
use serde_json::{Value, json};

/// A column: its name, and whether only `-o wide` shows it.
type Column = (&'static str, bool);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Pod => &[
            ("Name", false),
            ("Ready", false),
            ("Status", false),
            ("Restarts", false),
            ("Age", false),
            ("IP", true),
            ("Node", true),
            ("Nominated Node", true),
            ("Readiness Gates", true),
        ],
        Kind::Secret => &[("Name", false), ("Type", false), ("Data", false), ("Age", false)],
        Kind::ConfigMap => &[("Name", false), ("Data", false), ("Age", false)],
        Kind::Event => &[
            ("Last Seen", false),
            ("Type", false),
            ("Reason", false),
            ("Object", false),
            ("Subobject", true),
            ("Source", true),
            ("Message", false),
            ("First Seen", true),
            ("Count", true),
            ("Name", true),
        ],
        Kind::Namespace => &[("Name", false), ("Status", false), ("Age", false)],
        Kind::ServiceAccount => &[("Name", false), ("Secrets", false), ("Age", false)],
        Kind::Node => &[
            ("Name", false),
            ("Status", false),
            ("Roles", false),
            ("Age", false),
            ("Version", false),
            ("Internal-IP", true),
            ("External-IP", true),
            ("OS-Image", true),
            ("Kernel-Version", true),
            ("Container-Runtime", true),
        ],
        Kind::Lease => &[("Name", false), ("Holder", false), ("Age", false)],
    }
}

/// `columnDefinitions` of a kind.
pub fn definitions(kind: Kind) -> Value {
    let definition = |(name, wide): &Column| {
        let kind = if matches!(*name, "Data" | "Secrets" | "Count") { "integer" } else { "string" };
        let format = if *name == "Name" { "name" } else { "" };
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(*wide)})
    };
    columns(kind).iter().map(definition).collect()
}

/// The cells of one object, in the order of the columns.
pub fn cells(kind: Kind, object: &Value) -> Value {
    let name = &object["metadata"]["name"];
    let age = age::since(&object["metadata"]["creationTimestamp"]);
    let text = |pointer: &str| or_none(object.pointer(pointer));
    match kind {
        Kind::Pod => pod::cells(object),
        Kind::Secret => json!([name, object["type"], entries(object, &["data"]), age]),
        Kind::ConfigMap => json!([name, entries(object, &["data", "binaryData"]), age]),
        Kind::Event => event(object),
        Kind::Namespace => json!([name, namespace_status(object), age]),
        Kind::ServiceAccount => json!([name, object["secrets"].as_array().map_or(0, Vec::len), age]),
        Kind::Node => {
            let info = |field: &str| or_unknown(object.pointer(&format!("/status/nodeInfo/{field}")));
            json!([
                name,
                node_status(object),
                "<none>",
                age,
                info("kubeletVersion"),
                node_address(object, "InternalIP"),
                node_address(object, "ExternalIP"),
                info("osImage"),
                info("kernelVersion"),
                info("containerRuntimeVersion")
            ])
        }
        Kind::Lease => json!([name, text("/spec/holderIdentity"), age]),
    }
}

/// A text, or what kubectl shows instead of nothing.
pub fn or_none(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

fn or_unknown(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() }
}

fn entries(object: &Value, maps: &[&str]) -> usize {
    maps.iter().map(|map| object[*map].as_object().map_or(0, serde_json::Map::len)).sum()
}

fn namespace_status(object: &Value) -> String {
    if object["metadata"]["deletionTimestamp"].is_null() {
        or_unknown(object.pointer("/status/phase"))
    } else {
        "Terminating".to_owned()
    }
}

fn node_status(object: &Value) -> String {
    let ready = object["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let status = match ready.and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = object["spec"]["unschedulable"].as_bool().unwrap_or_default();
    if cordoned { format!("{status},SchedulingDisabled") } else { status.to_owned() }
}

fn node_address(object: &Value, kind: &str) -> String {
    let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
    or_none(addresses.into_iter().find(|address| address["type"] == kind).map(|address| &address["address"]))
}

fn event(object: &Value) -> Value {
    let involved = &object["involvedObject"];
    let about = |field: &str| involved[field].as_str().unwrap_or_default();
    let subject = format!("{}/{}", about("kind").to_lowercase(), about("name"));
    let first = |times: [&Value; 3]| age::since(times.into_iter().find(|time| time.is_string()).unwrap_or(&Value::Null));
    let (earliest, latest) = (&object["firstTimestamp"], &object["lastTimestamp"]);
    let (event_time, created) = (&object["eventTime"], &object["metadata"]["creationTimestamp"]);
    let source = object.pointer("/source/component").and_then(Value::as_str).unwrap_or_default();
    let message = object["message"].as_str().unwrap_or_default().trim();
    json!([
        first([latest, event_time, created]),
        object["type"],
        object["reason"],
        subject,
        about("fieldPath"),
        source,
        message,
        first([earliest, event_time, created]),
        object["count"].as_i64().unwrap_or(1),
        object["metadata"]["name"]
    ])
}

#[cfg(test)]
mod tests {
    use super::{cells, columns, definitions};
    use crate::Kind;
    use serde_json::json;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for kind in Kind::ALL {
            let count = columns(kind).len();
            assert_eq!(cells(kind, &json!({"metadata": {"name": "x"}})).as_array().unwrap().len(), count, "{kind:?}");
            assert_eq!(definitions(kind).as_array().unwrap().len(), count, "{kind:?}");
        }
    }

    #[test]
    fn a_node_shows_whether_it_is_ready() {
        let node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let cells = cells(Kind::Node, &node);
        assert_eq!((&cells[1], &cells[5], &cells[6]), (&json!("Ready,SchedulingDisabled"), &json!("10.0.0.1"), &json!("<none>")));
    }
}
