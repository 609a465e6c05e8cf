//! The HTTP side: paths, verbs and media types, one file per family of endpoints.
//!
//! There is no authentication here: the router is for the same process. Whoever opens it to a network puts TLS with
//! client certificates in front.

mod discovery;
mod objects;
mod path;
mod pods;
mod watching;

use crate::{ApiError, PodBackend, Store};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use std::sync::Arc;

/// Largest request body, the real server's own limit (3 MiB).
const MAX_BODY: usize = 3 * 1024 * 1024;

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
        .route("/api/{*path}", any(object))
        .route("/apis/{*path}", any(object))
        .fallback(|uri: Uri| async move { ApiError::no_such_path(uri.path()) })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Server { store, backend })
}

async fn object(
    State(server): State<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let answer = async {
        let body =
            body.map_err(|_| ApiError::too_large(format!("the request is larger than {MAX_BYTES} bytes", MAX_BYTES = MAX_BODY)))?;
        let target = path::Target::parse(uri.path())?;
        let query = path::Query::parse(uri.query().unwrap_or_default());
        let request = Request { method, target, query, headers, body };
        if request.target.subresource.as_deref() == Some("log") {
            return pods::log(&server, &request).await;
        }
        objects::answer(&server.store, &request)
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}
