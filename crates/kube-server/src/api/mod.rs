//! The HTTP side: paths, verbs and media types, one file per family of endpoints.
//!
//! There is no authentication here: the router is for the same process. Whoever opens it to a network puts TLS with
//! client certificates in front.

mod channels;
mod discovery;
mod exec;
mod objects;
mod path;
mod pods;
mod protobuf;
mod table;
mod watching;

use crate::{ApiError, PodBackend, Store};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use std::sync::Arc;

/// Largest request body, the real server's own limit (3 MiB).
const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a request body may take.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// What every handler needs.
#[derive(Clone)]
struct Server {
    store: Store,
    backend: Arc<dyn PodBackend>,
}

/// One request, read as far as every verb needs it.
struct Request {
    method: Method,
    target: path::Target,
    query: path::Query,
    headers: HeaderMap,
    body: Bytes,
}

/// The whole API.
pub fn router(store: Store, backend: Arc<dyn PodBackend>) -> Router {
    Router::new()
        .route("/version", get(discovery::version))
        .route("/readyz", get(discovery::healthy))
        .route("/livez", get(discovery::healthy))
        .route("/healthz", get(discovery::healthy))
        .route("/api", get(discovery::api))
        .route("/apis", get(discovery::apis))
        .route("/api/v1", get(discovery::core))
        .route("/apis/coordination.k8s.io/v1", get(discovery::coordination))
        .route("/apis/authorization.k8s.io/v1", get(discovery::authorization))
        .route("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", post(discovery::access_review))
        .route("/openapi/v3", get(discovery::openapi))
        .route("/openapi/v3/api/v1", get(discovery::openapi_core))
        .route("/openapi/v3/apis/coordination.k8s.io/v1", get(discovery::openapi_coordination))
        .route("/api/{*path}", any(object))
        .route("/apis/{*path}", any(object))
        .fallback(|uri: Uri| async move { ApiError::no_such_path(uri.path()) })
        .with_state(Server { store, backend })
}

async fn object(State(server): State<Server>, request: axum::extract::Request) -> Response {
    let answer = async {
        let target = path::Target::parse(request.uri().path())?;
        if exec::is_stream(&target) {
            return exec::answer(server, target, request).await;
        }
        let request = read(target, request).await?;
        if request.target.subresource.as_deref() == Some("log") {
            return pods::log(&server, &request).await;
        }
        objects::answer(&server.store, &request)
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

/// Reads the body, within its bounds.
async fn read(target: path::Target, request: axum::extract::Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY));
    let body = body.await.map_err(|_| ApiError::timeout("the request did not arrive in time"))?;
    let body = body.map_err(|error| {
        let is_limit = error.into_inner().is::<http_body_util::LengthLimitError>();
        if is_limit {
            ApiError::too_large(format!("the request is larger than {MAX_BODY} bytes"))
        } else {
            ApiError::bad_request("the request did not arrive whole")
        }
    })?;
    let query = path::Query::parse(parts.uri.query().unwrap_or_default());
    Ok(Request { method: parts.method, target, query, headers: parts.headers, body })
}
