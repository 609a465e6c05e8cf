//! `extends`: an entry takes over the keys of others.
//!
//! Parents are merged in order, the entry's own keys on top. An entry is worked out once, however many others extend it.

use crate::compile::Context;
use crate::merge::deep_merge;
use crate::yaml::{Entry, Map, Node, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Levels of parents, as in GitLab.
const DEEPEST: usize = 11;

/// Resolves all entries of the top level.
pub(crate) fn resolve(context: &Context<'_>, top: &Map) -> Map {
    let mut extends = Extends { context, top, done: HashMap::new(), open: Vec::new() };
    let mut resolved = Map::default();
    for entry in top.iter() {
        let node = extends.entry(entry).unwrap_or_else(|| entry.node.clone());
        resolved.insert(Entry { node, ..entry.clone() });
    }
    resolved
}

struct Extends<'a> {
    context: &'a Context<'a>,
    top: &'a Map,
    done: HashMap<Rc<str>, (Node, usize)>,
    open: Vec<Rc<str>>,
}

impl Extends<'_> {
    /// The entry with its parents' keys; `None` when it extends nothing.
    fn entry(&mut self, entry: &Entry) -> Option<Node> {
        let own = entry.node.map()?;
        own.get("extends")?;
        self.merged(entry, own).map(|(node, _)| node)
    }

    /// Also says how many levels of parents there are.
    fn merged(&mut self, entry: &Entry, own: &Map) -> Option<(Node, usize)> {
        if let Some(done) = self.done.get(&entry.key) {
            return Some(done.clone());
        }
        let Some(extends) = own.get("extends") else { return Some((entry.node.clone(), 0)) };
        self.open.push(entry.key.clone());
        let mut base = Map::default();
        let mut levels = 0;
        let names = self.names(&extends.node);
        let mut broken = names.is_empty();
        for name in names {
            match self.parent(&name) {
                Some((parent, below)) => {
                    levels = levels.max(below + 1);
                    base = deep_merge(self.context, &base, &parent);
                }
                None => broken = true,
            }
        }
        if levels > DEEPEST {
            self.context.sink.error(extends.place, format!("`extends` goes through more than {DEEPEST} levels"));
            levels = 0;
        }
        self.open.pop();
        let mut merged = deep_merge(self.context, &base, own);
        if broken {
            // Left behind as a sign that keys may be missing for a reason that was told.
            merged.insert(Entry { node: Node::new(extends.place, Value::Broken), ..extends.clone() });
        } else {
            merged.remove("extends");
        }
        let node = Node::new(entry.node.place, Value::Map(Rc::new(merged)));
        self.done.insert(entry.key.clone(), (node.clone(), levels));
        Some((node, levels))
    }

    fn names(&self, node: &Node) -> Vec<Node> {
        let names = match &node.value {
            Value::Text(_) => vec![node.clone()],
            Value::List(items) => items.to_vec(),
            _ => Vec::new(),
        };
        if names.is_empty() || names.iter().any(|name| name.text().is_none()) {
            let message = "`extends` must be the name of an entry, or a list of names";
            self.context.sink.error(node.place, message);
            return Vec::new();
        }
        names
    }

    fn parent(&mut self, name: &Node) -> Option<(Rc<Map>, usize)> {
        let text = name.text()?;
        if let Some(at) = self.open.iter().position(|open| &**open == text) {
            let circle: Vec<&str> = self.open[at..].iter().map(|name| &**name).chain([text]).collect();
            self.context.sink.error(name.place, format!("`extends` goes in a circle: {}", circle.join(" → ")));
            return None;
        }
        if self.open.len() > DEEPEST + 1 {
            self.context.sink.error(name.place, format!("`extends` goes through more than {DEEPEST} levels"));
            return None;
        }
        let Some(entry) = self.top.get(text) else {
            let message = format!("`extends` names `{text}`, which is not there");
            match self.context.nearest(text, self.top.iter().map(|entry| &*entry.key)) {
                Some(near) => self.context.sink.error_with_hint(name.place, message, format!("did you mean `{near}`?")),
                None => self.context.sink.error(name.place, message),
            }
            return None;
        };
        let entry = entry.clone();
        let Some(own) = entry.node.map() else {
            self.context.sink.error(name.place, format!("`extends` names `{text}`, which is {}", entry.node.kind()));
            return None;
        };
        let (node, levels) = self.merged(&entry, own)?;
        match node.value {
            Value::Map(map) => Some((map, levels)),
            _ => None,
        }
    }
}
