//! What clients ask before they ask anything else.
//!
//! Discovery comes in two shapes: one document per group and version, and the aggregated one that kubectl prefers. The
//! OpenAPI documents have paths and no schemas: enough for kubectl to know which parameters a request may carry, which
//! it wants to know before it creates anything. Fields are therefore not checked by kubectl, and `kubectl explain`
//! has nothing to explain.

use crate::Kind;
use axum::Json;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The Kubernetes version whose API this subset is of.
const VERSION: &str = "v1.33.0";
/// Media type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Subresources of a pod: name, kind, verbs.
const POD_PARTS: [(&str, &str, &[&str]); 3] =
    [("exec", "PodExecOptions", &["create", "get"]), ("log", "Pod", &["get"]), ("status", "Pod", &["get", "patch", "update"])];
/// The groups beside the core, each with one version.
const GROUPS: [&str; 2] = ["coordination.k8s.io", "authorization.k8s.io"];
const REVIEWS: &str = "selfsubjectaccessreviews";
const REVIEW: &str = "SelfSubjectAccessReview";

pub async fn version() -> Json<Value> {
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        _ => "linux",
    };
    Json(json!({"major": "1", "minor": "33", "gitVersion": format!("{VERSION}+gantry"), "platform": platform,
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": ""}))
}

pub async fn healthy() -> &'static str {
    "ok"
}

pub async fn api(headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        return aggregated(vec![json!({"metadata": {"name": "", "creationTimestamp": null},
            "versions": [{"version": "v1", "freshness": "Current", "resources": aggregated_kinds("")}]})]);
    }
    Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})).into_response()
}

pub async fn apis(headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        let group = |name: &&str| {
            let mut resources = aggregated_kinds(name);
            if *name == "authorization.k8s.io" {
                resources.push(json!({"resource": REVIEWS, "responseKind": {"group": name, "version": "v1", "kind": REVIEW},
                    "scope": "Cluster", "singularResource": REVIEW.to_lowercase(), "verbs": ["create"]}));
            }
            json!({"metadata": {"name": name, "creationTimestamp": null},
                "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]})
        };
        return aggregated(GROUPS.iter().map(group).collect());
    }
    let group = |name: &&str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let groups: Vec<_> = GROUPS.iter().map(group).collect();
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).into_response()
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| range.contains("g=apidiscovery.k8s.io") && range.split(';').any(|part| part.trim() == "v=v2"))
}

fn aggregated(items: Vec<Value>) -> Response {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    ([(header::CONTENT_TYPE, AGGREGATED)], list.to_string()).into_response()
}

fn aggregated_kinds(group: &str) -> Vec<Value> {
    let of_group = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
    let entry = |kind: Kind| {
        let response = |name: &str| json!({"group": group, "version": "v1", "kind": name});
        let parts = if kind == Kind::Pod { &POD_PARTS[..] } else { &[] };
        let parts = parts
            .iter()
            .map(|(name, kind, verbs)| json!({"subresource": name, "responseKind": response(kind), "verbs": verbs}))
            .collect::<Vec<_>>();
        json!({"resource": kind.resource(), "responseKind": response(kind.name()), "verbs": VERBS,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "singularResource": kind.name().to_lowercase(), "shortNames": short_names(kind),
            "categories": categories(kind), "subresources": parts})
    };
    of_group.map(entry).collect()
}

fn short_names(kind: Kind) -> Vec<&'static str> {
    kind.short_name().into_iter().collect()
}

fn categories(kind: Kind) -> &'static [&'static str] {
    if kind == Kind::Pod { &["all"] } else { &[] }
}

pub async fn core() -> Json<Value> {
    let mut list = resources("v1");
    if let Some(resources) = list["resources"].as_array_mut() {
        let part = |(name, kind, verbs): &(&str, &str, &[&str])| json!({"name": format!("pods/{name}"), "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
        resources.extend(POD_PARTS.iter().map(part));
    }
    Json(list)
}

pub async fn coordination() -> Json<Value> {
    Json(resources("coordination.k8s.io/v1"))
}

pub async fn authorization() -> Json<Value> {
    let mut list = resources("authorization.k8s.io/v1");
    list["resources"] = json!([{"name": REVIEWS, "singularName": REVIEW.to_lowercase(), "namespaced": false,
        "kind": REVIEW, "verbs": ["create"]}]);
    Json(list)
}

fn resources(api_version: &str) -> Value {
    let list: Vec<Value> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.api_version() == api_version)
        .map(|kind| {
            json!({"name": kind.resource(), "singularName": kind.name().to_lowercase(), "namespaced": kind.is_namespaced(),
                "kind": kind.name(), "verbs": VERBS, "shortNames": short_names(kind), "categories": categories(kind)})
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list})
}

/// `kubectl auth can-i`: whoever got as far as this router may do everything that is served.
pub async fn access_review() -> Response {
    let review = json!({"kind": REVIEW, "apiVersion": "authorization.k8s.io/v1", "metadata": {"creationTimestamp": null},
        "spec": {}, "status": {"allowed": true, "reason": "every client of this node may do everything"}});
    (axum::http::StatusCode::CREATED, Json(review)).into_response()
}

pub async fn openapi() -> Json<Value> {
    let document = |path: &str| json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={VERSION}")});
    let (core, leases) = ("api/v1", "apis/coordination.k8s.io/v1");
    Json(json!({"paths": {core: document(core), leases: document(leases)}}))
}

pub async fn openapi_core() -> Json<Value> {
    Json(openapi_of("v1"))
}

pub async fn openapi_coordination() -> Json<Value> {
    Json(openapi_of("coordination.k8s.io/v1"))
}

fn openapi_of(api_version: &str) -> Value {
    let root = if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") };
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let parameters: Value = ["dryRun", "fieldManager", "fieldValidation"].map(parameter).to_vec().into();
    let mut paths = Map::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.api_version() == api_version) {
        let operation = json!({"parameters": parameters, "responses": {},
            "x-kubernetes-group-version-kind": {"group": kind.group(), "version": "v1", "kind": kind.name()}});
        let scope = if kind.is_namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", kind.resource());
        paths.insert(format!("{collection}/{{name}}"), json!({"patch": operation, "put": operation}));
        paths.insert(collection, json!({"post": operation}));
    }
    json!({"openapi": "3.0.0", "info": {"title": "gantry node", "version": VERSION}, "paths": paths, "components": {"schemas": {}}})
}
