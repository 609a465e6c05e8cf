//! `needs` and `dependencies`: who waits for whom, and whose artifacts are taken.

mod graph;

pub(crate) use graph::resolve;

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::parallel;
use crate::pipeline::Need;
use crate::yaml::{Entry, Map, Node, Value};

/// Keys of an entry that names another pipeline.
const OTHER_PIPELINES: &[&str] = &["pipeline", "project"];

/// A need, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct PlacedNeed {
    pub place: Place,
    pub need: Need,
}

/// Reads `needs` of a job or of a rule.
pub(crate) fn read(context: &Context<'_>, entry: &Entry, job: &str) -> Vec<PlacedNeed> {
    let items = match &entry.node.value {
        Value::List(items) => context.flatten(items, "needs"),
        Value::Map(_) => vec![&entry.node],
        _ => {
            context.wrong(&entry.node, "needs", "a list");
            return Vec::new();
        }
    };
    items.into_iter().flat_map(|item| one(context, item, job)).collect()
}

fn one(context: &Context<'_>, item: &Node, job: &str) -> Vec<PlacedNeed> {
    match &item.value {
        Value::Text(text) => {
            vec![PlacedNeed { place: item.place, need: Need { job: text.to_string(), artifacts: true, optional: false } }]
        }
        Value::Map(map) => of_map(context, item, map, job),
        _ => {
            context.wrong(item, "needs", "the name of a job, or a map");
            Vec::new()
        }
    }
}

fn of_map(context: &Context<'_>, item: &Node, map: &Map, job: &str) -> Vec<PlacedNeed> {
    if let Some(other) = map.iter().find(|entry| OTHER_PIPELINES.contains(&&*entry.key)) {
        let message = format!("`needs:{}` is not handled yet: no artifacts come from there", other.key);
        context.sink.unhandled(other.place, message, job);
        return Vec::new();
    }
    context.check_keys(map, ("needs", job), &["job", "artifacts", "optional", "parallel", "ref"], &[]);
    let Some(entry) = map.get("job") else {
        context.sink.error(item.place, "this need names no `job`");
        return Vec::new();
    };
    let Some(name) = context.string(&entry.node, "needs:job") else { return Vec::new() };
    let flag = |key: &str| map.get(key).and_then(|entry| context.boolean(&entry.node, &format!("needs:{key}")));
    let need =
        Need { job: name.clone(), artifacts: flag("artifacts").unwrap_or(true), optional: flag("optional").unwrap_or(false) };
    let place = entry.node.place;
    let matrix =
        map.get("parallel").and_then(|entry| context.as_map(&entry.node, "needs:parallel")).and_then(|map| map.get("matrix"));
    match matrix {
        Some(matrix) => parallel::of_matrix(context, matrix, &name)
            .into_iter()
            .map(|copy| PlacedNeed { place, need: Need { job: copy.name, ..need.clone() } })
            .collect(),
        None => vec![PlacedNeed { place, need }],
    }
}

/// Reads `dependencies`.
pub(crate) fn read_dependencies(context: &Context<'_>, job: &Map) -> Option<Vec<(Place, String)>> {
    let entry = job.get("dependencies").filter(|entry| !entry.node.is_null())?;
    let Some(items) = entry.node.list() else {
        context.wrong(&entry.node, "dependencies", "a list of jobs");
        return None;
    };
    let items = context.flatten(items, "dependencies");
    Some(items.into_iter().filter_map(|item| Some((item.place, context.string(item, "dependencies")?))).collect())
}
