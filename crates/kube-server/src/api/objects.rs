//! Create, get, list, update, patch and delete, for every kind alike.
//!
//! A list is always whole: `limit` is taken as the hint that it is, so there is never a `continue`. Fields that are not
//! known are kept, whatever `fieldValidation` asks for; there are no schemas here to check them against.

use super::{Request, protobuf, table, watching};
use crate::patch::{self, PatchKind};
use crate::{ApiError, DeleteOptions, Kind, Store, validate};
use axum::Json;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers any request for objects.
pub fn answer(store: &Store, request: &Request) -> Result<Response, ApiError> {
    if request.method != Method::GET && is_dry_run(request)? {
        return verb(&store.fork(), request);
    }
    verb(store, request)
}

/// Whether nothing is to be kept: the change is then made to a copy of all objects.
fn is_dry_run(request: &Request) -> Result<bool, ApiError> {
    let mut stages: Vec<String> = request.query.all("dryRun").filter(|stage| !stage.is_empty()).map(str::to_owned).collect();
    if request.method == Method::DELETE && !request.body.is_empty() {
        let body = body(request)?;
        let asked = body["dryRun"].as_array().into_iter().flatten();
        stages.extend(asked.map(|stage| stage.as_str().unwrap_or_default().to_owned()));
    }
    match stages.iter().find(|stage| *stage != "All") {
        Some(unknown) => Err(ApiError::bad_request(format!("dryRun: Unsupported value: {unknown:?}: supported values: \"All\""))),
        None => Ok(!stages.is_empty()),
    }
}

fn verb(store: &Store, request: &Request) -> Result<Response, ApiError> {
    let target = &request.target;
    match (target.subresource.as_deref(), target.name.as_deref()) {
        (None, None) => match request.method {
            Method::GET if request.query.is_true("watch") => watching::watch(store, request),
            Method::GET => list(store, request),
            Method::POST => create(store, request),
            Method::DELETE => delete_all(store, request),
            _ => Err(not_allowed(request)),
        },
        (None | Some("status"), Some(name)) => match request.method {
            Method::GET => store.get(target.kind, target.namespace(), name).map(|object| one(request, &object)),
            Method::PUT => replace(store, request, name),
            Method::PATCH => patch_one(store, request, name),
            Method::DELETE if target.subresource.is_none() => delete(store, request, name),
            _ => Err(not_allowed(request)),
        },
        (Some(other), _) => Err(ApiError::not_implemented(format!("{}/{other} is not served here", target.kind.resource()))),
    }
}

fn not_allowed(request: &Request) -> ApiError {
    ApiError::method_not_allowed(format!("{} is not allowed on {}", request.method, request.target.kind.resource()))
}

/// One object, as the client wants to see it.
fn one(request: &Request, object: &Value) -> Response {
    if !table::is_wanted(&request.headers) {
        return Json(object).into_response();
    }
    let include = table::Include::parse(request.query.get("includeObject"));
    let mut rows = table::of(request.target.kind, std::iter::once(object), include, true);
    rows["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    Json(rows).into_response()
}

fn list(store: &Store, request: &Request) -> Result<Response, ApiError> {
    let selectors = request.query.selectors()?;
    let (objects, version) = store.list(request.target.kind, request.target.namespace.as_deref(), &selectors);
    if table::is_wanted(&request.headers) {
        let include = table::Include::parse(request.query.get("includeObject"));
        let mut rows = table::of(request.target.kind, objects.iter().map(|object| &**object), include, true);
        rows["metadata"]["resourceVersion"] = json!(version.to_string());
        return Ok(Json(rows).into_response());
    }
    Ok(Json(list_of(request.target.kind, &objects, version)).into_response())
}

fn list_of(kind: Kind, objects: &[Arc<Value>], version: u64) -> Value {
    let items: Vec<&Value> = objects.iter().map(|object| &**object).collect();
    json!({"kind": format!("{}List", kind.name()), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn create(store: &Store, request: &Request) -> Result<Response, ApiError> {
    let target = &request.target;
    if target.kind.is_namespaced() && target.namespace.is_none() {
        return Err(ApiError::bad_request("the request names no namespace"));
    }
    let created = store.create(target.kind, target.namespace(), body(request)?)?;
    Ok((StatusCode::CREATED, Json(&*created)).into_response())
}

fn replace(store: &Store, request: &Request, name: &str) -> Result<Response, ApiError> {
    let target = &request.target;
    let new = body(request)?;
    validate::shape(&new)?;
    let status_only = target.subresource.is_some();
    let updated = store.update(target.kind, target.namespace(), name, |object| {
        let version = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && object["metadata"]["resourceVersion"] != version {
            return Err(stale(target.kind, name));
        }
        if status_only {
            object["status"] = new["status"].clone();
        } else {
            let (metadata, status) = (object["metadata"].clone(), object["status"].clone());
            *object = new.clone();
            keep_identity(object, &metadata, status);
        }
        Ok(())
    })?;
    Ok(Json(&*updated).into_response())
}

fn stale(kind: Kind, name: &str) -> ApiError {
    ApiError::conflict(
        kind.resource(),
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// What a replacement cannot take away.
fn keep_identity(object: &mut Value, metadata: &Value, status: Value) {
    for field in ["uid", "creationTimestamp", "resourceVersion", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if metadata[field].is_null() {
            continue;
        }
        object["metadata"][field] = metadata[field].clone();
    }
    if !status.is_null() {
        object["status"] = status;
    }
}

fn patch_one(store: &Store, request: &Request, name: &str) -> Result<Response, ApiError> {
    let target = &request.target;
    let media_type = request.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = PatchKind::from_media_type(media_type)
        .ok_or_else(|| ApiError::unsupported_media_type(format!("patches of type {media_type:?} are not read here")))?;
    let patch: Value = body(request)?;
    let asked_version = patch.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
    let status_only = target.subresource.is_some();
    let updated = store.update(target.kind, target.namespace(), name, |object| {
        if asked_version.as_ref().is_some_and(|version| object["metadata"]["resourceVersion"] != **version) {
            return Err(stale(target.kind, name));
        }
        let before = object.clone();
        patch::apply(kind, object, &patch)?;
        validate::shape(object)?;
        object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if status_only {
            let status = object["status"].take();
            *object = before;
            object["status"] = status;
        }
        Ok(())
    });
    match updated {
        Err(error) if error.code == 404 && kind == PatchKind::Apply && !status_only => {
            let mut object = json!({"metadata": {"name": name}});
            patch::apply(kind, &mut object, &patch)?;
            let created = store.create(target.kind, target.namespace(), object)?;
            Ok((StatusCode::CREATED, Json(&*created)).into_response())
        }
        updated => Ok(Json(&*updated?).into_response()),
    }
}

fn delete(store: &Store, request: &Request, name: &str) -> Result<Response, ApiError> {
    let target = &request.target;
    let deleted = store.delete(target.kind, target.namespace(), name, &delete_options(request)?)?;
    Ok(Json(&*deleted).into_response())
}

fn delete_all(store: &Store, request: &Request) -> Result<Response, ApiError> {
    let target = &request.target;
    let (objects, version) = store.list(target.kind, target.namespace.as_deref(), &request.query.selectors()?);
    let options =
        DeleteOptions { grace_period_seconds: delete_options(request)?.grace_period_seconds, ..DeleteOptions::default() };
    for object in &objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        match store.delete(target.kind, text("/metadata/namespace"), text("/metadata/name"), &options) {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(Json(list_of(target.kind, &objects, version)).into_response())
}

fn delete_options(request: &Request) -> Result<DeleteOptions, ApiError> {
    let body = if request.body.is_empty() { Value::Null } else { body(request)? };
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let from_query = request.query.number("gracePeriodSeconds")?.and_then(|seconds| i64::try_from(seconds).ok());
    Ok(DeleteOptions {
        grace_period_seconds: body["gracePeriodSeconds"].as_i64().or(from_query),
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
    })
}

fn body(request: &Request) -> Result<Value, ApiError> {
    let media_type = request.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    if media_type.contains("protobuf") {
        return protobuf::decode(request.target.kind, &request.body);
    }
    if media_type.contains("cbor") {
        return Err(ApiError::unsupported_media_type("bodies are read as JSON here"));
    }
    serde_json::from_slice(&request.body).map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}
