//! YAML as GitLab reads it, with the place of every node.
//!
//! GitLab loads with Psych, so what a plain scalar means is Psych's YAML 1.1: `0777` is a number in base 8, `yes` is
//! true. Trees share what an alias repeats, and each node knows how large it would be written out: that is how a file
//! that doubles itself thirty times is refused before it costs anything.

mod load;
mod scalar;

pub(crate) use load::load;

use crate::diagnostic::Place;
use std::collections::HashMap;
use std::rc::Rc;

/// Nodes of one file with every alias written out.
pub(crate) const MOST_NODES: u32 = 1_000_000;

/// Lists and maps in each other, as GitLab's `max_yaml_depth`.
pub(crate) const DEEPEST: u16 = 100;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
    size: u32,
    depth: u16,
    references: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// What an error has already been told about: no pass says more.
    Broken,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    List(Rc<Vec<Node>>),
    Map(Rc<Map>),
    /// `!reference`.
    Reference(Rc<Vec<Node>>),
}

impl Node {
    pub fn new(place: Place, value: Value) -> Node {
        let (size, depth) = match &value {
            Value::List(items) | Value::Reference(items) => measure(items.iter()),
            Value::Map(map) => measure(map.iter().map(|entry| &entry.node)),
            _ => (1, 0),
        };
        let references = match &value {
            Value::Reference(_) => true,
            Value::List(items) => items.iter().any(|item| item.references),
            Value::Map(map) => map.iter().any(|entry| entry.node.references),
            _ => false,
        };
        Node { place, value, size, depth, references }
    }

    /// Nodes with every alias written out.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Lists and maps in each other.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Whether a `!reference` is in it.
    pub fn has_references(&self) -> bool {
        self.references
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.value, Value::Broken)
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub fn list(&self) -> Option<&[Node]> {
        if let Value::List(items) = &self.value { Some(items) } else { None }
    }

    pub fn map(&self) -> Option<&Map> {
        if let Value::Map(map) = &self.value { Some(map) } else { None }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null | Value::Broken)
    }

    /// A scalar as Ruby's `to_s` writes it; `None` for lists and maps.
    pub fn scalar_text(&self) -> Option<String> {
        Some(match &self.value {
            Value::Null | Value::Broken => String::new(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => scalar::float_text(*value),
            Value::Text(text) => text.to_string(),
            Value::List(_) | Value::Map(_) | Value::Reference(_) => return None,
        })
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null | Value::Broken => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Reference(_) => "a !reference",
        }
    }
}

fn measure<'a>(children: impl Iterator<Item = &'a Node>) -> (u32, u16) {
    children.fold((1, 1), |(size, depth): (u32, u16), child| {
        (size.saturating_add(child.size), depth.max(child.depth.saturating_add(1)))
    })
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Rc<str>,
    pub place: Place,
    pub node: Node,
    /// Whether `<<` brought it here.
    pub merged: bool,
}

/// Keys and values in order; a key once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    entries: Vec<Entry>,
    index: HashMap<Rc<str>, usize>,
}

impl Map {
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.index.get(key).map(|&at| &self.entries[at])
    }

    /// Sets a key; one that is there keeps its position, as in Ruby.
    pub fn insert(&mut self, entry: Entry) {
        match self.index.get(&entry.key) {
            Some(&at) => self.entries[at] = entry,
            None => {
                self.index.insert(entry.key.clone(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.index.remove(key)?;
        let entry = self.entries.remove(at);
        for position in self.index.values_mut() {
            if *position > at {
                *position -= 1;
            }
        }
        Some(entry)
    }
}
