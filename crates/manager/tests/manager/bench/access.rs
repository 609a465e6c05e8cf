//! An authorizer: whoever comes may do what the manager says it needs, and nothing else.

use axum::Json;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use manager::permissions::{NEEDED, WISHED};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const VERSION: &str = "/version";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

#[derive(Clone, Default)]
pub struct Access(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    denied: Vec<Deed>,
    /// How reviews are answered instead.
    unserved: Option<(StatusCode, usize)>,
    reviewed: Vec<Deed>,
    done: BTreeSet<(String, String)>,
    refused: Vec<String>,
}

/// Verb, resource, namespace.
pub type Deed = (String, String, String);

impl Access {
    /// Takes one permission away.
    pub fn deny(&self, verb: &str, resource: &str, namespace: &str) {
        self.0.lock().unwrap().denied.push((verb.to_owned(), resource.to_owned(), namespace.to_owned()));
    }

    /// The next `times` questions for permissions are answered with an error.
    pub fn do_not_review(&self, status: StatusCode, times: usize) {
        self.0.lock().unwrap().unserved = Some((status, times));
    }

    /// What was asked for.
    pub fn reviewed(&self) -> Vec<Deed> {
        self.0.lock().unwrap().reviewed.clone()
    }

    /// Verbs and resources of all requests.
    pub fn done(&self) -> BTreeSet<(String, String)> {
        self.0.lock().unwrap().done.clone()
    }

    /// Requests that were answered with 403.
    pub fn refused(&self) -> Vec<String> {
        self.0.lock().unwrap().refused.clone()
    }

    pub async fn through(self, request: Request, next: Next) -> Response {
        if request.uri().path() == REVIEWS {
            let body = axum::body::to_bytes(request.into_body(), 4096).await.unwrap();
            return self.review(&serde_json::from_slice(&body).unwrap());
        }
        if request.uri().path() == VERSION {
            // Every service account may ask for it.
            return next.run(request).await;
        }
        let (verb, resource) = deed(&request);
        {
            let mut known = self.0.lock().unwrap();
            let covered = NEEDED.iter().chain(&WISHED).any(|rule| rule.resource == resource && rule.verbs.contains(&verb));
            let denied = known.denied.iter().any(|(of, what, _)| (of.as_str(), what) == (verb, &resource));
            if !covered || denied {
                if !covered {
                    known.refused.push(format!("{verb} {resource}"));
                }
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                    "message": format!("cannot {verb} resource {resource}")});
                return (StatusCode::FORBIDDEN, Json(status)).into_response();
            }
            known.done.insert((verb.to_owned(), resource));
        }
        next.run(request).await
    }

    fn review(&self, review: &Value) -> Response {
        let asked = &review["spec"]["resourceAttributes"];
        let part = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let deed = (part("verb"), part("resource"), part("namespace"));
        let mut known = self.0.lock().unwrap();
        known.reviewed.push(deed.clone());
        if let Some((status, times)) = &mut known.unserved
            && *times > 0
        {
            *times -= 1;
            return status.into_response();
        }
        let allowed = !known.denied.contains(&deed);
        let mut answer = review.clone();
        answer["status"] = json!({"allowed": allowed});
        (StatusCode::CREATED, Json(answer)).into_response()
    }
}

/// Verb and resource of a request to a namespace, as a Role names them.
fn deed(request: &Request) -> (&'static str, String) {
    // `/api/v1/namespaces/NAME/…`, or with a group `/apis/GROUP/v1/namespaces/NAME/…`.
    let path = request.uri().path();
    let parts: Vec<_> = path.split('/').skip(if path.starts_with("/apis/") { 6 } else { 5 }).collect();
    let query = request.uri().query().unwrap_or_default();
    let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
    let verb = match (request.method(), parts.len() > 1) {
        (&Method::GET, true) => "get",
        (&Method::GET, false) if watches => "watch",
        (&Method::GET, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "delete",
        _ => "deletecollection",
    };
    let resource = [parts.first(), parts.get(2)].into_iter().flatten().copied().collect::<Vec<_>>().join("/");
    (verb, resource)
}
