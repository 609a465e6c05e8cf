//! What the kubelet serves of a pod: its logs.

use super::path::Target;
use super::{Request, Server};
use crate::{ApiError, Kind, LogOptions, PodRef, Store};
use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;

/// `GET pods/NAME/log`.
pub async fn log(server: &Server, request: &Request) -> Result<Response, ApiError> {
    if request.method != Method::GET {
        return Err(ApiError::method_not_allowed("a log can only be read"));
    }
    let target = &request.target;
    let (pod, object) = find(&server.store, target)?;
    let query = &request.query;
    let options = LogOptions {
        container: container(&object, query.get("container"))?,
        follow: query.is_true("follow"),
        tail_lines: query.number("tailLines")?,
        timestamps: query.is_true("timestamps"),
        limit_bytes: query.number("limitBytes")?,
        previous: query.is_true("previous"),
        since_seconds: query.number("sinceSeconds")?,
        since_time: since_time(query.get("sinceTime"))?,
    };
    let stream = server.backend.logs(pod, options).await?;
    Response::builder()
        .header("content-type", "text/plain")
        .body(Body::from_stream(stream))
        .map_err(|error| ApiError::internal(format!("failed to answer with the log: {error}")))
}

/// The pod that a subresource is asked of.
pub fn find(store: &Store, target: &Target) -> Result<(PodRef, Arc<Value>), ApiError> {
    let name = target.name.as_deref().unwrap_or_default();
    if target.kind != Kind::Pod {
        return Err(ApiError::no_such_path(&format!(
            "{}/{name}/{}",
            target.kind.resource(),
            target.subresource.as_deref().unwrap_or_default()
        )));
    }
    let object = store.get(target.kind, target.namespace(), name)?;
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((PodRef { namespace: target.namespace().to_owned(), name: name.to_owned(), uid }, object))
}

fn since_time(text: Option<&str>) -> Result<Option<jiff::Timestamp>, ApiError> {
    let parse = |text: &str| text.parse().map_err(|_| ApiError::bad_request(format!("sinceTime must be a time, not {text:?}")));
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// The container that is meant: the one named, or the only one.
pub fn container(pod: &Value, named: Option<&str>) -> Result<String, ApiError> {
    let names: Vec<_> = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| pod["spec"][*list].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    let pod_name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    match (named.filter(|name| !name.is_empty()), names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}"))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}
