//! `!reference [job, keyword, …]`: the value of another entry, looked up after `extends`.

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::yaml::{Entry, MOST_NODES, Map, Node, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// References through references, as in GitLab.
const DEEPEST: usize = 10;

/// Lists and maps in each other after references were filled in.
const DEEPEST_VALUE: usize = 150;

/// Fills in all references.
pub(crate) fn resolve(context: &Context<'_>, top: &Map) -> Map {
    let mut references = References { context, top, open: Vec::new(), reached: 0, known: HashMap::new() };
    let mut resolved = Map::default();
    for entry in top.iter() {
        let node = references.node(&entry.node, 0).unwrap_or_else(|| entry.node.clone());
        resolved.insert(Entry { node, ..entry.clone() });
    }
    resolved
}

struct References<'a> {
    context: &'a Context<'a>,
    top: &'a Map,
    open: Vec<Vec<Rc<str>>>,
    /// How many references were open at most since this was last set.
    reached: usize,
    /// What a reference stands for, and how many references deep that is.
    known: HashMap<Vec<Rc<str>>, (Node, usize)>,
}

impl References<'_> {
    /// The node with references filled in; `None` when it holds none, so that what is shared stays shared.
    fn node(&mut self, node: &Node, depth: usize) -> Option<Node> {
        if !node.has_references() || !self.context.spend(1) {
            return None;
        }
        if depth > DEEPEST_VALUE {
            self.context.sink.error(node.place, "nested too deep after `!reference` was filled in");
            return None;
        }
        match &node.value {
            Value::Reference(path) => Some(self.look_up(node.place, path, depth)),
            Value::List(items) => {
                let changed: Vec<Option<Node>> = items.iter().map(|item| self.node(item, depth + 1)).collect();
                if changed.iter().all(Option::is_none) {
                    return None;
                }
                let items = items.iter().zip(changed).map(|(old, new)| new.unwrap_or_else(|| old.clone())).collect();
                Some(Node::new(node.place, Value::List(Rc::new(items))))
            }
            Value::Map(map) => {
                let mut filled: Option<Map> = None;
                for entry in map.iter() {
                    if let Some(node) = self.node(&entry.node, depth + 1) {
                        filled.get_or_insert_with(|| (**map).clone()).insert(Entry { node, ..entry.clone() });
                    }
                }
                filled.map(|map| Node::new(node.place, Value::Map(Rc::new(map))))
            }
            _ => None,
        }
    }

    fn look_up(&mut self, place: Place, path: &[Node], depth: usize) -> Node {
        let nothing = Node::new(place, Value::Broken);
        let names: Option<Vec<Rc<str>>> = path.iter().map(|part| part.scalar_text().map(Rc::from)).collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            self.context.sink.error(place, "`!reference` takes a list of keys, as in `!reference [job, script]`");
            return nothing;
        };
        if self.open.contains(&names) {
            self.context.sink.error(place, format!("{} goes in a circle", shown(&names)));
            return nothing;
        }
        let below = self.known.get(&names).map_or(0, |(_, levels)| *levels);
        if self.open.len() + below >= DEEPEST {
            self.context.sink.error(place, format!("{} is more than {DEEPEST} references deep", shown(&names)));
            return nothing;
        }
        if let Some((known, levels)) = self.known.get(&names) {
            self.reached = self.reached.max(self.open.len() + levels);
            return known.clone();
        }
        let Some(found) = self.find(&names) else {
            self.context.sink.error(place, format!("{} leads nowhere", shown(&names)));
            return nothing;
        };
        let outer = self.reached;
        self.open.push(names.clone());
        self.reached = self.open.len();
        let filled = self.node(&found, depth).unwrap_or(found);
        self.open.pop();
        let levels = self.reached - self.open.len();
        self.reached = self.reached.max(outer);
        if filled.size() > MOST_NODES {
            self.context.sink.error(place, format!("{} stands for more than {MOST_NODES} values", shown(&names)));
            return nothing;
        }
        self.known.insert(names, (filled.clone(), levels));
        filled
    }

    fn find(&mut self, names: &[Rc<str>]) -> Option<Node> {
        let (first, rest) = names.split_first()?;
        let mut node = self.top.get(first)?.node.clone();
        for name in rest {
            node = node.map()?.get(name)?.node.clone();
        }
        Some(node)
    }
}

fn shown(names: &[Rc<str>]) -> String {
    format!("`!reference [{}]`", names.join(", "))
}
