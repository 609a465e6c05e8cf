//! The runners of a configuration at their GitLab, outside of any job: asked for, given another token, taken away.
//!
//! Commands and whoever looks after the file ask here, so that they reach GitLab by the certificates and with the words
//! of the manager itself: the server keeps what a runner said of itself last.

use crate::authority::Tls;
use crate::{Connect, Error, wiring};
use gitlab_api::Info;
use gitlab_api::runner::Features;
use gitlab_client::{Client, ClientError};
use job::Secret;

pub use gitlab_api::runners::{Registered, Registration};

/// Beginning of tokens that are made in GitLab, of runners with several managers.
const NEW_KIND: &str = "glrt-";

/// One entry at its GitLab.
pub struct Runner {
    client: Client,
    token: Secret,
    system_id: String,
    info: Info,
}

impl Runner {
    /// An entry of manager `system_id`; nothing is sent yet.
    ///
    /// # Errors
    /// When its address or a file that it names cannot be used.
    pub fn of(config: &runner_config::Runner, system_id: &str, version: &str, connect: &Connect) -> Result<Self, Error> {
        let client = wiring::gitlab(connect, config, &Tls::of(config)?, version)?;
        let token = Secret::new(config.token.clone());
        Ok(Self { client, token, system_id: system_id.to_owned(), info: wiring::info(version) })
    }

    /// What GitLab knows of it; `None` when it does not know the token.
    ///
    /// # Errors
    /// Anything but a clear yes or no.
    pub async fn verify(&self) -> Result<Option<Registered>, ClientError> {
        self.client.verify_runner(&self.token, &self.info, &self.system_id).await
    }

    /// Makes a runner; the token of the entry is one that runners are made with.
    ///
    /// # Errors
    /// When GitLab does not know the token, or could not be asked.
    pub async fn register(&self, settings: Registration) -> Result<Registered, ClientError> {
        // As GitLab Runner does: what a runner can do is told by the first call that it makes itself.
        let info = Info { executor: String::new(), shell: String::new(), features: Features::default(), ..self.info.clone() };
        let token = self.token.expose().to_owned();
        self.client.register_runner(&Registration { token, info, ..settings }).await
    }

    /// Takes it away; of a runner that was made in GitLab only this manager.
    ///
    /// # Errors
    /// When GitLab does not know the token, or could not be asked.
    pub async fn unregister(&self) -> Result<(), ClientError> {
        if is_of_new_kind(self.token.expose()) {
            self.client.unregister_manager(&self.token, &self.system_id).await
        } else {
            self.client.unregister_runner(&self.token).await
        }
    }

    /// Another token for it; this one is good for nothing from then on.
    ///
    /// # Errors
    /// When GitLab does not know the token, or could not be asked; then it may have made a new one all the same.
    pub async fn reset_token(&self) -> Result<Registered, ClientError> {
        self.client.reset_token(&self.token).await
    }

    /// The same for the runner of this number, asked for by a person with their access token.
    ///
    /// # Errors
    /// When the person may not, or GitLab could not be asked; then it may have made a new one all the same.
    pub async fn reset_token_as(&self, id: u64, person: &str) -> Result<Registered, ClientError> {
        self.client.reset_token_as(id, &Secret::new(person)).await
    }
}

/// Whether a token was made in GitLab, for a runner with several managers, and not by a registration.
pub fn is_of_new_kind(token: &str) -> bool {
    token.starts_with(NEW_KIND)
}
