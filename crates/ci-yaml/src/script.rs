//! `before_script`, `script`, `after_script`: commands, as a string or as lists of strings.

use crate::compile::Context;
use crate::yaml::{Entry, Map, Node, Value};

/// Commands of one keyword; `None` when the job has none of it.
pub(crate) fn read(context: &Context<'_>, job: &Map, keyword: &str) -> Option<Vec<String>> {
    let entry = job.get(keyword).filter(|entry| !entry.node.is_null())?;
    let empty = match &entry.node.value {
        Value::Text(text) => text.trim().is_empty(),
        Value::List(items) => context.flatten(items, keyword).is_empty(),
        _ => false,
    };
    if empty && keyword == "script" {
        context.sink.error(entry.place, "`script` has no command");
    }
    Some(commands(context, entry, keyword))
}

fn commands(context: &Context<'_>, entry: &Entry, keyword: &str) -> Vec<String> {
    match &entry.node.value {
        Value::Text(_) => context.string(&entry.node, keyword).into_iter().collect(),
        Value::List(items) => {
            context.flatten(items, keyword).into_iter().filter_map(|item| command(context, item, keyword)).collect()
        }
        _ => {
            context.wrong(&entry.node, keyword, "a string or a list of strings");
            Vec::new()
        }
    }
}

fn command(context: &Context<'_>, item: &Node, keyword: &str) -> Option<String> {
    if item.is_broken() {
        return None;
    }
    if item.text().is_some() {
        return context.string(item, keyword);
    }
    let message = format!("a command of `{keyword}` must be a string, not {}", item.kind());
    let first_key = item.map().and_then(|map| map.iter().next());
    match (first_key, &item.value) {
        (Some(first), _) => {
            context.sink.error_with_hint(first.place, message, "the command holds `: `: quote it as a whole, or use `|`");
        }
        (None, Value::Null) => {
            context.sink.error_with_hint(item.place, message, "take the `-` away, or write `\"\"`");
        }
        _ => context.sink.error_with_hint(item.place, message, "quote it"),
    }
    None
}
