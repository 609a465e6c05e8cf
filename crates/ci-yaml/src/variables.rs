//! `variables`, and what a name means when `rules` asks for it.
//!
//! Values stay as written, because the runner expands them. Only conditions and paths of includes need a value now, and
//! [`Scope`] works it out on demand: later layers win, references are followed, circles are left as they are.

pub(crate) mod circle;

use crate::Input;
use crate::compile::Context;
use crate::pipeline::YamlVariable;
use crate::yaml::{Entry, Map, Node, Value};
use std::cell::Cell;
use std::collections::HashMap;

/// An expanded value longer than this is used as it is written.
const LONGEST: usize = 64 * 1024;

/// Where variables stand: only those of the whole file take a description and options.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    File,
    Job,
}

/// Variables of the whole file.
pub(crate) fn read_globals(context: &Context<'_>, top: &Map) -> Vec<YamlVariable> {
    match top.get("variables").filter(|entry| !entry.node.is_null()) {
        Some(entry) => read(context, &entry.node, Level::File),
        None => Vec::new(),
    }
}

/// Reads a map of variables.
pub(crate) fn read(context: &Context<'_>, node: &Node, level: Level) -> Vec<YamlVariable> {
    let Some(map) = context.as_map(node, "variables") else { return Vec::new() };
    map.iter().filter_map(|entry| variable(context, entry, level)).collect()
}

fn variable(context: &Context<'_>, entry: &Entry, level: Level) -> Option<YamlVariable> {
    let key = entry.key.to_string();
    match &entry.node.value {
        Value::Map(map) => {
            let known: &[&str] = match level {
                Level::File => &["value", "description", "options", "expand"],
                Level::Job => &["value", "expand"],
            };
            context.check_keys(map, ("variables", ""), known, &[]);
            let expand = map.get("expand").and_then(|entry| context.boolean(&entry.node, "variables:expand"));
            let value = match map.get("value") {
                Some(value) => scalar(context, &value.node, &key)?,
                None => String::new(),
            };
            check_options(context, map, &value);
            Some(YamlVariable { key, value, raw: expand == Some(false) })
        }
        Value::Null => {
            context.sink.error_with_hint(entry.place, format!("the variable `{key}` has no value"), "write `\"\"`");
            None
        }
        _ => Some(YamlVariable { value: scalar(context, &entry.node, &key)?, key, raw: false }),
    }
}

fn scalar(context: &Context<'_>, node: &Node, key: &str) -> Option<String> {
    if !node.text().is_none_or(|text| context.spend_text(text)) {
        return None;
    }
    let text = node.scalar_text();
    if text.is_none() {
        context.sink.error(node.place, format!("the variable `{key}` must be a string, not {}", node.kind()));
    }
    text
}

fn check_options(context: &Context<'_>, map: &Map, value: &str) {
    let Some(options) = map.get("options") else { return };
    let allowed = context.strings(&options.node, "variables:options");
    if !allowed.iter().any(|option| option == value) {
        let place = map.get("value").map_or(options.place, |entry| entry.node.place);
        context.sink.error(place, format!("the value is not among its `options`: {}", allowed.join(", ")));
    }
}

struct Variable {
    value: String,
    raw: bool,
}

/// Variables that conditions see: layers, the uppermost wins, and what was given for this pipeline wins over all.
pub(crate) struct Scope<'a> {
    below: Option<&'a Scope<'a>>,
    own: HashMap<String, Variable>,
    overrides: HashMap<String, Variable>,
    /// Bytes that expansion has copied.
    copied: Cell<usize>,
}

impl<'a> Scope<'a> {
    /// The lowest layer.
    pub fn new(input: &Input<'_>) -> Scope<'a> {
        let layer = |list: &[(String, String)]| {
            list.iter().map(|(key, value)| (key.clone(), Variable { value: value.clone(), raw: false })).collect()
        };
        Scope { below: None, own: layer(input.variables), overrides: layer(input.overrides), copied: Cell::new(0) }
    }

    /// A layer on top.
    pub fn above(below: &'a Scope<'a>) -> Scope<'a> {
        Scope { below: Some(below), own: HashMap::new(), overrides: HashMap::new(), copied: Cell::new(0) }
    }

    /// Sets variables of this layer.
    pub fn set(&mut self, variables: &[YamlVariable]) {
        for one in variables {
            self.own.insert(one.key.clone(), Variable { value: one.value.clone(), raw: one.raw });
        }
    }

    /// Sets one that nobody wrote into the file.
    pub fn set_predefined(&mut self, key: &str, value: &str) {
        self.own.insert(key.to_owned(), Variable { value: value.to_owned(), raw: true });
    }

    fn find(&self, name: &str) -> Option<&Variable> {
        self.find_override(name).or_else(|| self.find_layer(name))
    }

    fn find_override(&self, name: &str) -> Option<&Variable> {
        self.overrides.get(name).or_else(|| self.below.and_then(|below| below.find_override(name)))
    }

    fn find_layer(&self, name: &str) -> Option<&Variable> {
        self.own.get(name).or_else(|| self.below.and_then(|below| below.find_layer(name)))
    }

    /// Bytes that were copied since this was last asked, so that the work can be bounded.
    pub fn take_copied(&self) -> usize {
        self.copied.take()
    }

    /// A variable's value with all references in it followed.
    pub fn value(&self, name: &str) -> Option<String> {
        let mut known = HashMap::new();
        self.resolve(name, &mut Vec::new(), &mut known)
    }

    /// Text with `$NAME` and `${NAME}` replaced; unknown names become nothing.
    pub fn expand(&self, text: &str) -> String {
        self.expand_with(text, &mut Vec::new(), &mut HashMap::new())
    }

    fn resolve<'s>(&'s self, name: &str, open: &mut Vec<&'s str>, known: &mut HashMap<String, String>) -> Option<String> {
        if let Some(value) = known.get(name) {
            return Some(value.clone());
        }
        let variable = self.find(name)?;
        if variable.raw || !variable.value.contains(['$', '%']) {
            return Some(variable.value.clone());
        }
        let text = variable.value.as_str();
        // The text stands for the variable: two that share a text would be expanded alike.
        if open.len() > 50 || open.iter().any(|one| std::ptr::eq(*one, text)) {
            return Some(text.to_owned());
        }
        open.push(text);
        let value = self.expand_with(text, open, known);
        open.pop();
        known.insert(name.to_owned(), value.clone());
        Some(value)
    }

    fn expand_with<'s>(&'s self, text: &str, open: &mut Vec<&'s str>, known: &mut HashMap<String, String>) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '%']) {
            expanded.push_str(&rest[..at]);
            rest = &rest[at..];
            let (length, name) = reference(rest);
            match name {
                Some(name) => expanded.push_str(&self.resolve(name, open, known).unwrap_or_default()),
                None => expanded.push_str(&rest[..length]),
            }
            rest = &rest[length..];
            if expanded.len() > LONGEST {
                self.copied.set(self.copied.get() + expanded.len());
                return text.to_owned();
            }
        }
        expanded.push_str(rest);
        self.copied.set(self.copied.get() + expanded.len());
        expanded
    }
}

/// How long a reference at the beginning of the text is, and the name in it.
fn reference(text: &str) -> (usize, Option<&str>) {
    let bytes = text.as_bytes();
    let name_at = |start: usize| {
        let length = text[start..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let good = length > 0 && !bytes[start].is_ascii_digit();
        good.then(|| &text[start..start + length])
    };
    match (bytes[0], bytes.get(1)) {
        (b'$', Some(b'$')) | (b'%', Some(b'%')) => (2, None),
        (b'$', Some(b'{')) => match name_at(2) {
            Some(name) if bytes.get(2 + name.len()) == Some(&b'}') => (name.len() + 3, Some(name)),
            _ => (1, None),
        },
        (b'$', Some(_)) => name_at(1).map_or((1, None), |name| (name.len() + 1, Some(name))),
        (b'%', Some(_)) => match name_at(1) {
            Some(name) if bytes.get(1 + name.len()) == Some(&b'%') => (name.len() + 2, Some(name)),
            _ => (1, None),
        },
        _ => (1, None),
    }
}
