//! `rules`: the first one that matches decides.

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::expression::{self, Expression, NoPattern};
use crate::needs::{self, PlacedNeed};
use crate::pipeline::{AllowFailure, YamlVariable};
use crate::timing::{self, Word};
use crate::variables::{self, Level, Scope};
use crate::yaml::{Entry, Map, Node, Value};

/// Whose rules they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Job,
    Workflow,
    Include,
}

/// One rule.
pub(crate) struct Rule {
    condition: Option<Condition>,
    /// Patterns of `exists`, of which one must match.
    exists: Option<Vec<String>>,
    /// It says `never` for changes that are not known here.
    skipped: bool,
    pub place: Place,
    pub when: Option<Word>,
    pub allow_failure: Option<AllowFailure>,
    pub variables: Vec<YamlVariable>,
    pub needs: Option<Vec<PlacedNeed>>,
}

/// A condition, and where it stands.
pub(crate) struct Condition {
    pub expression: Expression,
    pub place: Place,
}

impl Condition {
    /// Reads an expression; a mistake is shown at its place in the line.
    pub fn read(context: &Context<'_>, node: &Node, what: &str) -> Option<Condition> {
        let text = context.string(node, what)?;
        match expression::parse(&text) {
            Ok(expression) => Some(Condition { expression, place: node.place }),
            Err(mistake) => {
                let place = context.within(node, &text, mistake.start, mistake.end);
                context.sink.error(place, format!("`{what}` is no expression: {}", mistake.message));
                None
            }
        }
    }

    /// Whether it is met.
    pub fn is_met(&self, context: &Context<'_>, scope: &Scope<'_>) -> bool {
        let met = self.expression.is_met(scope);
        if !context.spend(1 + scope.take_copied() / 16) {
            return false;
        }
        met.unwrap_or_else(|NoPattern(name)| {
            let message = format!("{name} holds no /pattern/, so this condition is never met");
            context.sink.warning(self.place, message, None);
            false
        })
    }
}

/// Reads a list of rules.
pub(crate) fn read(context: &Context<'_>, entry: &Entry, job: &str, kind: Kind) -> Vec<Rule> {
    let Some(items) = entry.node.list() else {
        context.wrong(&entry.node, "rules", "a list");
        return Vec::new();
    };
    context.flatten(items, "rules").into_iter().filter_map(|item| rule(context, item, job, kind)).collect()
}

fn rule(context: &Context<'_>, item: &Node, job: &str, kind: Kind) -> Option<Rule> {
    let Some(map) = item.map() else {
        let hint = "as in `- if: $CI_COMMIT_BRANCH`";
        context.sink.error_with_hint(item.place, format!("a rule must be a map, not {}", item.kind()), hint);
        return None;
    };
    let place = map.iter().next().map_or(item.place, |first| first.place);
    check_keys(context, map, job, kind);
    let present = |key: &str| map.get(key).filter(|entry| !entry.node.is_null());
    let mut rule = Rule {
        condition: None,
        exists: None,
        skipped: false,
        place,
        when: None,
        allow_failure: None,
        variables: Vec::new(),
        needs: None,
    };
    if let Some(entry) = present("if") {
        rule.condition = Condition::read(context, &entry.node, "rules:if");
    }
    rule.exists = present("exists").map(|entry| exists(context, entry, job));
    if let Some(entry) = present("when") {
        rule.when = timing::word(context, &entry.node, "rules:when", true);
    }
    if let Some(entry) = present("changes") {
        rule.skipped = rule.when == Some(Word::Never);
        let means = if rule.skipped { "this rule counts as not met, so that nothing is left out" } else { "it counts as met" };
        context.sink.unhandled(entry.place, format!("`rules:changes` is not handled yet: {means}"), job);
    }
    if kind == Kind::Job {
        timing::check_start_in(context, map, rule.when, job);
        rule.allow_failure = timing::allow_failure(context, map);
        rule.needs = present("needs").map(|entry| needs::read(context, entry, job));
    }
    if let Some(entry) = present("variables") {
        rule.variables = variables::read(context, &entry.node, Level::Job);
    }
    Some(rule)
}

fn check_keys(context: &Context<'_>, map: &Map, job: &str, kind: Kind) {
    let (known, unhandled): (&[&'static str], &[(&'static str, &str)]) = match kind {
        Kind::Job => (
            &["if", "exists", "changes", "when", "start_in", "allow_failure", "variables", "needs"],
            &[("interruptible", "no pipeline is cancelled by a newer one")],
        ),
        Kind::Workflow => {
            (&["if", "exists", "changes", "when", "variables"], &[("auto_cancel", "no pipeline is cancelled by a newer one")])
        }
        Kind::Include => (&["if", "exists", "changes", "when"], &[]),
    };
    context.check_keys(map, ("rules", job), known, unhandled);
}

fn exists(context: &Context<'_>, entry: &Entry, job: &str) -> Vec<String> {
    let Value::Map(map) = &entry.node.value else {
        return context.strings(&entry.node, "rules:exists");
    };
    context.check_keys(
        map,
        ("rules:exists", job),
        &["paths"],
        &[("project", "this repository is searched"), ("ref", "this repository is searched"), ("regexp", "it counts as not met")],
    );
    map.get("paths").map(|paths| context.strings(&paths.node, "rules:exists:paths")).unwrap_or_default()
}

/// The rule that decides; `None` when no rule matches.
pub(crate) fn decide<'r>(context: &Context<'_>, rules: &'r [Rule], scope: &Scope<'_>) -> Option<&'r Rule> {
    rules.iter().find(|rule| {
        !rule.skipped
            && rule.condition.as_ref().is_none_or(|condition| condition.is_met(context, scope))
            && rule
                .exists
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| context.file_exists(&scope.expand(pattern), rule.place)))
    })
}
