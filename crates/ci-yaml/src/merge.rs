//! Two maps become one, as GitLab's `deep_merge`: maps are merged, everything else is replaced.

use crate::compile::Context;
use crate::yaml::{Entry, Map, Node, Value};
use std::rc::Rc;

/// `over` laid on `base`.
pub(crate) fn deep_merge(context: &Context<'_>, base: &Map, over: &Map) -> Map {
    let mut merged = base.clone();
    if !context.spend(base.len() + over.len()) {
        return merged;
    }
    for entry in over.iter() {
        let node = match (base.get(&entry.key).and_then(|below| below.node.map()), entry.node.map()) {
            (Some(below), Some(above)) => Node::new(entry.node.place, Value::Map(Rc::new(deep_merge(context, below, above)))),
            _ => entry.node.clone(),
        };
        merged.insert(Entry { node, ..entry.clone() });
    }
    merged
}
