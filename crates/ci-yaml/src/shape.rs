//! Values of a certain shape: a string, a list of strings, a choice. What has another shape is an error with its place.

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::yaml::{Map, Node, Value};

impl Context<'_> {
    /// Says that a value has the wrong shape.
    pub fn wrong(&self, node: &Node, what: &str, expected: &str) {
        if !node.is_broken() {
            self.sink.error(node.place, format!("`{what}` must be {expected}, not {}", node.kind()));
        }
    }

    /// A string.
    pub fn string(&self, node: &Node, what: &str) -> Option<String> {
        let text = node.text().filter(|text| self.spend_text(text)).map(str::to_owned);
        if node.text().is_some() {
            return text;
        }
        if text.is_none() {
            let hint = "quote it";
            match node.value {
                Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                    let message = format!("`{what}` must be a string, not {}", node.kind());
                    self.sink.error_with_hint(node.place, message, hint);
                }
                _ => self.wrong(node, what, "a string"),
            }
        }
        text
    }

    /// A list of strings.
    pub fn strings(&self, node: &Node, what: &str) -> Vec<String> {
        match node.list() {
            Some(items) => items.iter().filter_map(|item| self.string(item, what)).collect(),
            None => {
                self.wrong(node, what, "a list of strings");
                Vec::new()
            }
        }
    }

    /// True or false.
    pub fn boolean(&self, node: &Node, what: &str) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.wrong(node, what, "true or false");
        None
    }

    /// One of several words.
    pub fn choice(&self, node: &Node, what: &str, words: &[&'static str]) -> Option<&'static str> {
        let found = node.text().and_then(|text| words.iter().find(|word| **word == text)).copied();
        if found.is_none() && !node.is_broken() {
            let message = format!("`{what}` must be one of {}", words.join(", "));
            let near = node.text().and_then(|text| self.nearest(text, words.iter().copied()));
            match near {
                Some(near) => self.sink.error_with_hint(node.place, message, format!("did you mean `{near}`?")),
                None => self.sink.error(node.place, message),
            }
        }
        found
    }

    /// A map.
    pub fn as_map<'n>(&self, node: &'n Node, what: &str) -> Option<&'n Map> {
        let map = node.map();
        if map.is_none() {
            self.wrong(node, what, "a map");
        }
        map
    }

    /// Lists in lists become one list, to ten levels.
    pub fn flatten<'n>(&self, items: &'n [Node], what: &str) -> Vec<&'n Node> {
        let mut flat = Vec::new();
        self.flatten_into(items, what, 0, &mut flat);
        flat
    }

    fn flatten_into<'n>(&self, items: &'n [Node], what: &str, depth: usize, flat: &mut Vec<&'n Node>) {
        for item in items {
            match item.list() {
                Some(inner) if depth < 10 => self.flatten_into(inner, what, depth + 1, flat),
                Some(_) => self.sink.error(item.place, format!("`{what}` has lists in lists, more than ten levels deep")),
                None if self.spend(1) => flat.push(item),
                None => return,
            }
        }
    }

    /// A piece of a scalar's text, as a place; the whole scalar where the text is not as it stands in the file.
    pub fn within(&self, node: &Node, text: &str, start: usize, end: usize) -> Place {
        self.sink.within(node.place, text, start, end)
    }
}
