//! The first lines of a job's log: who runs it, how, and what of it is not done.

use super::stages::Stages;
use gitlab_api::log::Stream;

impl Stages<'_> {
    /// Rows "flow 1" to "flow 3".
    pub(super) fn header(&self) {
        self.trace.own(Stream::RUNNER, self.plan.header().as_bytes());
        if self.plan.settings.has_header {
            self.trace.end_header();
        }
    }

    /// The section is there for every job, its title only for one that has secrets (row "flow 4").
    pub(super) async fn resolve_secrets(&self) {
        match self.plan.job.unsupported.iter().find(|one| one.fatal) {
            None => self.section_start("resolve_secrets"),
            Some(secrets) => {
                self.section("resolve_secrets", "Resolving secrets").await;
                self.warn(&format!("{} are not resolved by gantry yet: the job fails", secrets.what)).await;
            }
        }
        self.section_end("resolve_secrets").await;
        if !self.setting.warnings.is_empty() {
            self.warn(&self.setting.warnings.join("\n")).await;
        }
    }

    /// Rows "flow 6" to "flow 17".
    pub(super) async fn prepare_executor(&self) {
        let settings = &self.plan.settings;
        self.section("prepare_executor", "Preparing the \"kubernetes\" executor").await;
        if self.plan.job.image.is_none() {
            self.trace.line("\x1b[32;1mUsing default image").await;
        }
        for note in &settings.notes {
            self.trace.line(&format!("\x1b[0K{note}")).await;
        }
        self.trace.line(&format!("\x1b[0KUsing Kubernetes namespace: {}", settings.namespace)).await;
        self.trace.line(&format!("\x1b[0KUsing Kubernetes executor with image {} ...", settings.image)).await;
        for one in self.plan.job.unsupported.iter().filter(|one| !one.fatal) {
            self.warn(&format!("the job asks for {}, which gantry does not do yet", one.what)).await;
        }
        for warning in &settings.warnings {
            self.warn(warning).await;
        }
        self.section_end("prepare_executor").await;
    }

    /// Where a job comes from that a project did not write (row "flow 33").
    pub(super) async fn policy(&self) {
        let Some(policy) = &self.plan.job.policy else { return };
        self.inform(&format!("Job triggered by policy \"{}\".", policy.name)).await;
        let Some(allowed) = policy.override_allowed else {
            let line = "Variables defined in the policy take precedence over matching user-defined CI/CD variables for this job.";
            return self.inform(line).await;
        };
        let word = if allowed { "allowed" } else { "ignored" };
        let except = match &policy.exceptions[..] {
            [] => String::new(),
            names => format!(" (except for {})", names.join(", ")),
        };
        let line =
            format!("User-defined CI/CD variables are {word} in this job{except} according to the pipeline execution policy.");
        self.inform(&line).await;
    }

    async fn warn(&self, text: &str) {
        self.trace.line(&format!("\x1b[0;33mWARNING: {text}")).await;
    }

    async fn inform(&self, text: &str) {
        self.trace.line(&format!("\x1b[32;1m{text}")).await;
    }
}
