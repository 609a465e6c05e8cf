//! Calls about a runner itself: registration, verification, tokens, removal.

use crate::{Call, Client, ClientError, transport};
use gitlab_api::headers;
use gitlab_api::runner::Info;
use gitlab_api::runners::{self, Registered, Registration};
use job::Secret;
use serde::Serialize;
use serde_json::json;

/// Whose word it is in calls of an administrator.
const PRIVATE_TOKEN: &str = "PRIVATE-TOKEN";

impl Client {
    /// Makes a runner for a registration token.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the token is not known.
    pub async fn register_runner(&self, registration: &Registration) -> Result<Registered, ClientError> {
        let token = Some((headers::RUNNER_TOKEN, registration.token.as_str()));
        self.about_runner(Call::new("POST", runners::PATH), token, Some(registration)).await
    }

    /// What GitLab knows of a runner, `None` when it does not know it; `info` must be complete, because the server keeps
    /// its features. An older server answers without words: then all it says is that the runner is known.
    ///
    /// # Errors
    /// Anything but a clear yes or no.
    pub async fn verify_runner(&self, token: &Secret, info: &Info, system_id: &str) -> Result<Option<Registered>, ClientError> {
        let call = Call::new("POST", runners::VERIFY);
        let body = json!({"token": token.expose(), "system_id": system_id, "info": info});
        let make = || self.post(&call).header(headers::RUNNER_TOKEN, token.expose()).json(&body);
        let response = self.send(&call, make).await?;
        match response.status().as_u16() {
            200 if transport::is_json(&response) => response.json().await.map(Some).map_err(|source| call.transport(source)),
            200 => Ok(Some(Registered { token: token.expose().to_owned(), ..Registered::default() })),
            403 => Ok(None),
            _ => Err(transport::unexpected(&call, response).await),
        }
    }

    /// Takes a runner away.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the token is not known.
    pub async fn unregister_runner(&self, token: &Secret) -> Result<(), ClientError> {
        self.remove(Call::new("DELETE", runners::PATH), token, &json!({"token": token.expose()})).await
    }

    /// Takes one manager of a runner away; the runner stays.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the token is not known.
    pub async fn unregister_manager(&self, token: &Secret, system_id: &str) -> Result<(), ClientError> {
        let body = json!({"token": token.expose(), "system_id": system_id});
        self.remove(Call::new("DELETE", runners::MANAGERS), token, &body).await
    }

    /// Another token for a runner that has one.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the token is not known.
    pub async fn reset_token(&self, token: &Secret) -> Result<Registered, ClientError> {
        self.about_runner(Call::new("POST", runners::RESET), None, Some(&json!({"token": token.expose()}))).await
    }

    /// Another token for the runner of this number, asked for by a person.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] when the person may not.
    pub async fn reset_token_as(&self, runner: u64, person: &Secret) -> Result<Registered, ClientError> {
        let call = Call::new("POST", &runners::reset_path(runner));
        self.about_runner(call, Some((PRIVATE_TOKEN, person.expose())), None::<&()>).await
    }

    async fn about_runner<B: Serialize>(
        &self,
        call: Call,
        token: Option<(&str, &str)>,
        body: Option<&B>,
    ) -> Result<Registered, ClientError> {
        let make = || {
            let request = match token {
                Some((name, token)) => self.post(&call).header(name, token),
                None => self.post(&call),
            };
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        let response = self.send(&call, make).await?;
        match response.status().as_u16() {
            201 => response.json().await.map_err(|source| call.transport(source)),
            403 => Err(ClientError::Forbidden { call: call.name() }),
            _ => Err(transport::unexpected(&call, response).await),
        }
    }

    async fn remove(&self, call: Call, token: &Secret, body: &serde_json::Value) -> Result<(), ClientError> {
        let make = || {
            let request = self.http.delete(call.url(&self.base)).timeout(transport::CALL);
            request.header(headers::RUNNER_TOKEN, token.expose()).json(body)
        };
        let response = self.send(&call, make).await?;
        match response.status().as_u16() {
            204 => Ok(()),
            403 => Err(ClientError::Forbidden { call: call.name() }),
            _ => Err(transport::unexpected(&call, response).await),
        }
    }
}
