//! `POST runners/verify`: whether a runner is known.

use super::request_job::runner_of;
use super::{Refusal, Shared, blocking, json, text};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use gitlab_api::headers;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Verify {
    token: String,
}

pub async fn handle(State(inner): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<axum::Json<Value>, Refusal> {
    let body: Verify = json(&body)?;
    let header = text(&headers, headers::RUNNER_TOKEN);
    let token = if header.is_empty() { body.token } else { header.to_owned() };
    blocking(move || {
        let runner = runner_of(&inner, &token)?;
        Ok(axum::Json(json!({ "id": runner.id, "token": token, "token_expires_at": null })))
    })
    .await
}
