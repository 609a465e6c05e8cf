//! What clients ask before they ask anything else.

use crate::Kind;
use axum::Json;
use serde_json::{Value, json};

/// The Kubernetes version whose API this subset is of.
const VERSION: &str = "v1.33.0";

pub async fn version() -> Json<Value> {
    Json(json!({"major": "1", "minor": "33", "gitVersion": format!("{VERSION}+gantry"), "platform": "linux/amd64",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": ""}))
}

pub async fn healthy() -> &'static str {
    "ok"
}

pub async fn api() -> Json<Value> {
    Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

pub async fn apis() -> Json<Value> {
    let version = json!({"groupVersion": "coordination.k8s.io/v1", "version": "v1"});
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
        {"name": "coordination.k8s.io", "versions": [version], "preferredVersion": version}]}))
}

pub async fn core() -> Json<Value> {
    Json(resources("v1"))
}

pub async fn coordination() -> Json<Value> {
    Json(resources("coordination.k8s.io/v1"))
}

fn resources(api_version: &str) -> Value {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut list: Vec<Value> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.api_version() == api_version)
        .map(|kind| {
            json!({"name": kind.resource(), "singularName": kind.name().to_lowercase(), "namespaced": kind.is_namespaced(),
                "kind": kind.name(), "verbs": verbs, "shortNames": kind.short_name().into_iter().collect::<Vec<_>>()})
        })
        .collect();
    if api_version == "v1" {
        list.push(json!({"name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]}));
        list.push(json!({"name": "pods/status", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get", "patch", "update"]}));
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list})
}
