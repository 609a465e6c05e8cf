//! `default`, its older form at the top level, and `inherit`.

use crate::compile::Context;
use crate::keywords::UNHANDLED;
use crate::yaml::{Entry, Map, Value};
use std::collections::HashSet;

/// Keywords that have defaults.
const KNOWN: &[&str] = &[
    "after_script",
    "artifacts",
    "before_script",
    "cache",
    "hooks",
    "id_tokens",
    "identity",
    "image",
    "interruptible",
    "retry",
    "services",
    "tags",
    "timeout",
];

/// Those that may also stand at the top level.
const OLD: &[&str] = &["image", "services", "cache", "before_script", "after_script"];

/// What jobs take over.
pub(crate) struct Defaults {
    entries: Vec<Entry>,
}

/// What of it a job does not want.
pub(crate) struct Inherit {
    defaults: Filter,
    variables: Filter,
}

enum Filter {
    All,
    None,
    Only(HashSet<String>),
}

impl Filter {
    fn takes(&self, name: &str) -> bool {
        match self {
            Filter::All => true,
            Filter::None => false,
            Filter::Only(names) => names.contains(name),
        }
    }
}

impl Defaults {
    /// Reads both forms.
    pub fn read(context: &Context<'_>, top: &Map) -> Defaults {
        let mut entries: Vec<Entry> = Vec::new();
        if let Some(default) = top.get("default").filter(|entry| !entry.node.is_null())
            && let Some(map) = context.as_map(&default.node, "default")
        {
            context.check_keys(map, ("default", ""), KNOWN, &[]);
            entries.extend(map.iter().filter(|entry| KNOWN.contains(&&*entry.key)).cloned());
        }
        for keyword in OLD {
            let Some(entry) = top.get(keyword) else { continue };
            if entries.iter().any(|known| known.key == entry.key) {
                let message = format!("`{keyword}` is at the top level and in `default`: keep one of them");
                context.sink.error(entry.place, message);
            } else {
                entries.push(entry.clone());
            }
        }
        Defaults { entries }
    }

    /// Adds to a job what it does not say itself.
    pub fn apply(&self, job: &mut Map, inherit: &Inherit) {
        for entry in &self.entries {
            let missing = job.get(&entry.key).is_none_or(|own| own.node.is_null());
            if missing && inherit.defaults.takes(&entry.key) {
                job.insert(entry.clone());
            }
        }
    }
}

impl Inherit {
    /// Reads a job's `inherit`.
    pub fn read(context: &Context<'_>, job: &Map) -> Inherit {
        let mut inherit = Inherit { defaults: Filter::All, variables: Filter::All };
        let Some(map) = job.get("inherit").and_then(|entry| context.as_map(&entry.node, "inherit")) else { return inherit };
        context.check_keys(map, ("inherit", ""), &["default", "variables"], &[]);
        if let Some(entry) = map.get("default") {
            inherit.defaults = filter(context, entry);
            if let Some(items) = entry.node.list() {
                for item in items.iter().filter(|item| item.text().is_some_and(|text| !KNOWN.contains(&text))) {
                    let message = format!("`{}` has no default", item.text().unwrap_or_default());
                    context.sink.error(item.place, message);
                }
            }
        }
        if let Some(entry) = map.get("variables") {
            inherit.variables = filter(context, entry);
        }
        inherit
    }

    /// Whether the job takes over a variable of the file.
    pub fn takes_variable(&self, name: &str) -> bool {
        self.variables.takes(name)
    }
}

fn filter(context: &Context<'_>, entry: &Entry) -> Filter {
    match &entry.node.value {
        Value::Bool(true) => Filter::All,
        Value::Bool(false) => Filter::None,
        Value::List(_) => Filter::Only(context.strings(&entry.node, "inherit").into_iter().collect()),
        _ => {
            context.wrong(&entry.node, &format!("inherit:{}", entry.key), "true, false or a list");
            Filter::All
        }
    }
}

/// Names the keywords of a job that have no effect here.
pub(crate) fn warn_unhandled(context: &Context<'_>, job: &Map, name: &str) {
    for (keyword, means) in UNHANDLED {
        let Some(entry) = job.get(keyword) else { continue };
        let empty = match &entry.node.value {
            Value::Null | Value::Bool(false) | Value::Int(0) => true,
            Value::List(items) => items.is_empty(),
            Value::Map(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            context.sink.unhandled(entry.place, format!("`{keyword}` is not handled yet: {means}"), name);
        }
    }
}
