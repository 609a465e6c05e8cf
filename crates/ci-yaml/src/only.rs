//! `only` and `except`: how jobs were chosen before `rules`.

use crate::compile::Context;
use crate::expression::compile_pattern;
use crate::rules::Condition;
use crate::variables::Scope;
use crate::yaml::{Entry, Map, Node, Value};

/// What a pipeline must be for a job, or must not be.
struct Policy {
    refs: Option<Vec<String>>,
    variables: Option<Vec<Condition>>,
    changes: bool,
    kubernetes: bool,
}

/// Whether a job without `rules` belongs to this pipeline.
pub(crate) fn takes(context: &Context<'_>, job: &Map, scope: &Scope<'_>, workflow_has_rules: bool) -> bool {
    let present = |key: &str| job.get(key).filter(|entry| !entry.node.is_null());
    let only = present("only").map(|entry| {
        // Refs of `only` are branches and tags where they are not named; `except` has no such default.
        let mut policy = Policy::read(context, entry);
        policy.refs.get_or_insert_with(|| vec!["branches".to_owned(), "tags".to_owned()]);
        policy
    });
    let except = present("except").map(|entry| Policy::read(context, entry));
    let taken = match &only {
        Some(policy) => policy.all(context, scope),
        None if workflow_has_rules => true,
        None => ref_matches("branches", scope) || ref_matches("tags", scope),
    };
    taken && !except.is_some_and(|policy| policy.any(context, scope))
}

impl Policy {
    fn read(context: &Context<'_>, entry: &Entry) -> Policy {
        let keyword = &*entry.key;
        let mut policy = Policy { refs: None, variables: None, changes: false, kubernetes: false };
        match &entry.node.value {
            Value::List(_) => policy.refs = Some(refs(context, &entry.node, keyword)),
            Value::Map(map) => {
                context.check_keys(map, (keyword, ""), &["refs", "variables", "changes", "kubernetes"], &[]);
                policy.refs = map.get("refs").map(|list| refs(context, &list.node, &format!("{keyword}:refs")));
                policy.variables = map.get("variables").map(|list| {
                    let what = format!("{keyword}:variables");
                    let items = list.node.list().unwrap_or(std::slice::from_ref(&list.node));
                    items.iter().filter_map(|item| Condition::read(context, item, &what)).collect()
                });
                if let Some(changes) = map.get("changes") {
                    policy.changes = keyword == "only";
                    let means =
                        if keyword == "only" { "it counts as met" } else { "it counts as not met, so that nothing is left out" };
                    let message = format!("`{keyword}:changes` is not handled yet: {means}");
                    context.sink.unhandled(changes.place, message, "");
                }
                policy.kubernetes = map.get("kubernetes").is_some();
            }
            _ => context.wrong(&entry.node, keyword, "a list or a map"),
        }
        policy
    }

    /// The parts of the policy that are there, and whether each is met.
    fn parts(&self, context: &Context<'_>, scope: &Scope<'_>) -> Vec<bool> {
        let mut parts = Vec::new();
        if let Some(refs) = &self.refs {
            parts.push(refs.iter().any(|one| ref_matches(one, scope)));
        }
        if let Some(conditions) = &self.variables {
            parts.push(conditions.iter().any(|one| one.is_met(context, scope)));
        }
        if self.changes {
            parts.push(true);
        }
        if self.kubernetes {
            // There is no cluster that GitLab would know of.
            parts.push(false);
        }
        parts
    }

    fn all(&self, context: &Context<'_>, scope: &Scope<'_>) -> bool {
        self.parts(context, scope).into_iter().all(|met| met)
    }

    fn any(&self, context: &Context<'_>, scope: &Scope<'_>) -> bool {
        self.parts(context, scope).into_iter().any(|met| met)
    }
}

/// Names, keywords and patterns; a pattern must be valid.
fn refs(context: &Context<'_>, node: &Node, what: &str) -> Vec<String> {
    for item in node.list().unwrap_or_default() {
        let text = item.text().unwrap_or_default();
        let pattern = text.rsplit_once('@').filter(|_| !text.ends_with('/')).map_or(text, |(pattern, _)| pattern);
        if let Some((body, flags)) = slashed(pattern)
            && compile_pattern(body, flags).is_err()
        {
            context.sink.error(item.place, format!("`{what}` has a pattern that is not valid"));
        }
    }
    context.strings(node, what)
}

/// Splits `/body/flags`.
fn slashed(text: &str) -> Option<(&str, &str)> {
    let (body, flags) = text.strip_prefix('/')?.rsplit_once('/')?;
    flags.chars().all(|flag| "ismU".contains(flag)).then_some((body, flags))
}

/// Whether the pipeline's ref or source is what one entry of `refs` says.
fn ref_matches(entry: &str, scope: &Scope<'_>) -> bool {
    let value = |name: &str| scope.value(name).unwrap_or_default();
    let (pattern, path) = match entry.rsplit_once('@') {
        Some((pattern, path)) => (pattern, Some(path)),
        None => (entry, None),
    };
    if path.is_some_and(|path| path != value("CI_PROJECT_PATH")) {
        return false;
    }
    let source = value("CI_PIPELINE_SOURCE");
    let source = source.strip_suffix("_event").unwrap_or(&source);
    let is_tag = !value("CI_COMMIT_TAG").is_empty();
    let is_merge_request = source == "merge_request";
    let plural = match source {
        "push" => "pushes".to_owned(),
        other => format!("{other}s"),
    };
    match pattern {
        "tags" => is_tag,
        "branches" => !is_tag && !is_merge_request,
        _ if !source.is_empty() && (pattern == source || pattern == plural) => true,
        _ => name_matches(pattern, &value("CI_COMMIT_REF_NAME")),
    }
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match slashed(pattern) {
        Some((body, flags)) => compile_pattern(body, flags).is_ok_and(|pattern| pattern.is_match(name)),
        None => pattern == name,
    }
}
