//! `workflow`: whether there is a pipeline at all, and variables that hold for it.

use crate::compile::Context;
use crate::pipeline::YamlVariable;
use crate::rules::{self, Kind};
use crate::timing::Word;
use crate::variables::Scope;
use crate::yaml::Map;

/// What `workflow` says.
#[derive(Default)]
pub(crate) struct Workflow {
    /// Variables of the rule that matched.
    pub variables: Vec<YamlVariable>,
    /// Whether it has rules; jobs without rules then also run for merge requests.
    pub has_rules: bool,
}

/// Reads `workflow` and decides; a pipeline that is not to be is an error that says which rule kept it from being.
pub(crate) fn decide(context: &Context<'_>, top: &Map, scope: &Scope<'_>) -> Workflow {
    let mut workflow = Workflow::default();
    let Some(map) =
        top.get("workflow").filter(|entry| !entry.node.is_null()).and_then(|entry| context.as_map(&entry.node, "workflow"))
    else {
        return workflow;
    };
    context.check_keys(
        map,
        ("workflow", ""),
        &["rules"],
        &[("name", "the pipeline has no name"), ("auto_cancel", "no pipeline is cancelled by a newer one")],
    );
    let Some(entry) = map.get("rules").filter(|entry| !entry.node.is_null()) else { return workflow };
    workflow.has_rules = true;
    let rules = rules::read(context, entry, "", Kind::Workflow);
    match rules::decide(context, &rules, scope) {
        Some(rule) if rule.when == Some(Word::Never) => {
            context.sink.error(rule.place, "no pipeline: this rule of `workflow` matches and says `never`");
        }
        Some(rule) => workflow.variables.clone_from(&rule.variables),
        None if context.sink.has_errors() => {}
        None => context.sink.error(entry.place, "no pipeline: no rule of `workflow` matches"),
    }
    workflow
}
