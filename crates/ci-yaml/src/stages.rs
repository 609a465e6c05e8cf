//! `stages`, and each job's `stage`.

use crate::compile::Context;
use crate::yaml::{Map, Node};
use std::collections::HashMap;

/// Stages in order, `.pre` first and `.post` last.
pub(crate) struct Stages {
    names: Vec<String>,
    order: HashMap<String, usize>,
}

impl Stages {
    /// Reads `stages`; without it GitLab's three.
    pub fn read(context: &Context<'_>, top: &Map) -> Stages {
        let own = match top.get("stages").filter(|entry| !entry.node.is_null()) {
            Some(entry) => {
                let own: Vec<String> = match entry.node.list() {
                    Some(items) => {
                        context.flatten(items, "stages").into_iter().filter_map(|item| context.string(item, "stages")).collect()
                    }
                    None => context.strings(&entry.node, "stages"),
                };
                if own.is_empty() && entry.node.list().is_some_and(<[Node]>::is_empty) {
                    context.sink.error(entry.place, "`stages` names no stage");
                }
                own
            }
            None => ["build", "test", "deploy"].map(str::to_owned).to_vec(),
        };
        let mut stages = Stages { names: Vec::new(), order: HashMap::new() };
        let inner = own.into_iter().filter(|stage| stage != ".pre" && stage != ".post");
        for name in [".pre".to_owned()].into_iter().chain(inner).chain([".post".to_owned()]) {
            if !stages.order.contains_key(&name) {
                stages.order.insert(name.clone(), stages.names.len());
                stages.names.push(name);
            }
        }
        stages
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The position of a stage.
    pub fn position(&self, stage: &str) -> usize {
        self.order.get(stage).copied().unwrap_or(usize::MAX)
    }

    /// A job's stage: `test` when it names none.
    pub fn of_job(&self, context: &Context<'_>, job: &Map, place: crate::diagnostic::Place) -> String {
        let Some(entry) = job.get("stage").filter(|entry| !entry.node.is_null()) else {
            if !self.order.contains_key("test") {
                let hint = format!("name one of {}", self.names.join(", "));
                let message = "the job names no stage, and the stage `test` that it then belongs to is not in `stages`";
                context.sink.error_with_hint(place, message, hint);
            }
            return "test".to_owned();
        };
        let Some(stage) = context.string(&entry.node, "stage") else { return "test".to_owned() };
        if !self.order.contains_key(&stage) {
            let message = format!("the stage `{stage}` is not in `stages`");
            let hint = match context.nearest(&stage, self.names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the stages are {}", self.names.join(", ")),
            };
            context.sink.error_with_hint(entry.node.place, message, hint);
        }
        stage
    }
}
