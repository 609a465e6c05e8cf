//! `spec:inputs`: parameters of a file, and `$[[ inputs.name ]]` where they go.
//!
//! Values are put in after the file was read and before anything else looks at it. A text that is nothing but one
//! `$[[ … ]]` becomes the value with its type; inside of a longer text the value is written out.

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::expression::compile_pattern;
use crate::variables::Scope;
use crate::yaml::{Entry, Map, Node, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Functions of one `$[[ … ]]`, as in GitLab.
const MOST_FUNCTIONS: usize = 3;

/// The inputs that a file declares.
#[derive(Clone, Default)]
pub(crate) struct Spec {
    inputs: Rc<Vec<Declared>>,
}

struct Declared {
    name: Rc<str>,
    kind: &'static str,
    default: Option<Node>,
    options: Option<Vec<Node>>,
    pattern: Option<Node>,
}

/// Values of a file's inputs.
pub(crate) struct Values(HashMap<Rc<str>, Node>);

impl Spec {
    /// Reads a header document.
    pub fn read(context: &Context<'_>, header: &Map) -> Spec {
        let inputs = header.get("spec").and_then(|entry| entry.node.map()).and_then(|spec| spec.get("inputs"));
        let Some(map) = inputs.filter(|entry| !entry.node.is_null()).and_then(|entry| context.as_map(&entry.node, "spec:inputs"))
        else {
            return Spec::default();
        };
        Spec { inputs: Rc::new(map.iter().map(|entry| declared(context, entry)).collect()) }
    }

    /// Gives each input its value; what is missing, unknown or of another kind is an error.
    pub fn values(&self, context: &Context<'_>, given: Option<&Entry>, place: Place) -> Values {
        let mut values = HashMap::new();
        let map = given.and_then(|entry| context.as_map(&entry.node, "inputs"));
        for entry in map.into_iter().flat_map(Map::iter) {
            if !self.inputs.iter().any(|input| input.name == entry.key) {
                let names: Vec<&str> = self.inputs.iter().map(|input| &*input.name).collect();
                let message = format!("the file declares no input `{}`", entry.key);
                match context.nearest(&entry.key, names.into_iter()) {
                    Some(near) => context.sink.error_with_hint(entry.place, message, format!("did you mean `{near}`?")),
                    None => context.sink.error(entry.place, message),
                }
            }
        }
        for input in self.inputs.iter() {
            let own = map.and_then(|map| map.get(&input.name)).map(|entry| &entry.node);
            let value = match own.or(input.default.as_ref()) {
                Some(value) => value.clone(),
                None => {
                    context.sink.error(place, format!("the input `{}` has no value and no default", input.name));
                    Node::new(place, Value::Broken)
                }
            };
            input.check(context, &value);
            values.insert(input.name.clone(), value);
        }
        Values(values)
    }
}

fn declared(context: &Context<'_>, entry: &Entry) -> Declared {
    let mut input = Declared { name: entry.key.clone(), kind: "string", default: None, options: None, pattern: None };
    if entry.node.is_null() {
        return input;
    }
    let Some(map) = context.as_map(&entry.node, "spec:inputs") else { return input };
    let unhandled = [("rules", "its default and options do not depend on other inputs")];
    context.check_keys(map, ("spec:inputs", ""), &["default", "description", "type", "options", "regex"], &unhandled);
    if let Some(kind) = map.get("type") {
        let kinds = ["string", "number", "boolean", "array"];
        input.kind = context.choice(&kind.node, "spec:inputs:type", &kinds).unwrap_or("string");
    }
    input.default = map.get("default").map(|entry| match entry.node.value {
        // `default:` with nothing behind it is an empty string.
        Value::Null => Node::new(entry.node.place, Value::Text("".into())),
        _ => entry.node.clone(),
    });
    input.options = map.get("options").and_then(|entry| entry.node.list().map(<[Node]>::to_vec));
    input.pattern = map.get("regex").map(|entry| entry.node.clone());
    input
}

impl Declared {
    fn check(&self, context: &Context<'_>, value: &Node) {
        let fits = match self.kind {
            "number" => matches!(value.value, Value::Int(_) | Value::Float(_)),
            "boolean" => matches!(value.value, Value::Bool(_)),
            "array" => matches!(value.value, Value::List(_)),
            _ => matches!(value.value, Value::Text(_)),
        };
        if value.is_broken() {
            return;
        }
        if !fits {
            let message = format!("the input `{}` must be of the type {}, not {}", self.name, self.kind, value.kind());
            context.sink.error(value.place, message);
            return;
        }
        let text = value.scalar_text();
        if let Some(options) = &self.options
            && !options.iter().any(|option| option.scalar_text() == text)
        {
            let options: Vec<String> = options.iter().filter_map(Node::scalar_text).collect();
            let message = format!("the input `{}` must be one of {}", self.name, options.join(", "));
            context.sink.error(value.place, message);
        }
        if let (Some(pattern), Some(text)) = (&self.pattern, &text) {
            self.check_pattern(context, pattern, value.place, text);
        }
    }

    fn check_pattern(&self, context: &Context<'_>, pattern: &Node, place: Place, text: &str) {
        let Some(written) = context.string(pattern, "spec:inputs:regex") else { return };
        let body = written.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).unwrap_or(&written);
        match compile_pattern(body, "") {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => context.sink.error(place, format!("the input `{}` does not match {written}", self.name)),
            Err(_) => context.sink.error(pattern.place, "`spec:inputs:regex` is not a valid pattern"),
        }
    }
}

/// Puts values into a file.
pub(crate) struct Filler<'a> {
    pub context: &'a Context<'a>,
    pub scope: &'a Scope<'a>,
    pub values: &'a Values,
}

impl Filler<'_> {
    /// The map with all `$[[ … ]]` replaced.
    pub fn map(&self, map: &Map) -> Map {
        let mut filled = Map::default();
        for entry in map.iter() {
            let node = self.node(&entry.node);
            let key = match self.text(&entry.key, entry.place) {
                Some(value) => value.scalar_text().map_or_else(|| entry.key.clone(), Rc::from),
                None => entry.key.clone(),
            };
            filled.insert(Entry { key, node, ..entry.clone() });
        }
        filled
    }

    fn node(&self, node: &Node) -> Node {
        if !self.context.spend(1) {
            return node.clone();
        }
        let value = match &node.value {
            Value::Text(text) => return self.text(text, node.place).unwrap_or_else(|| node.clone()),
            Value::List(items) => Value::List(Rc::new(items.iter().map(|item| self.node(item)).collect())),
            Value::Reference(items) => Value::Reference(Rc::new(items.iter().map(|item| self.node(item)).collect())),
            Value::Map(map) => Value::Map(Rc::new(self.map(map))),
            _ => return node.clone(),
        };
        Node::new(node.place, value)
    }

    /// `None` when there is nothing to replace.
    fn text(&self, text: &str, place: Place) -> Option<Node> {
        if !text.contains("$[[") || !self.context.spend_text(text) {
            return None;
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("$[[") {
            let Some(length) = rest[at..].find("]]") else { break };
            let inner = &rest[at + 3..at + length];
            let start = text.len() - rest.len() + at;
            let block = self.context.sink.within(place, text, start, start + length + 2);
            let value = self.block(inner.trim(), block);
            if at == 0 && start == 0 && length + 2 == text.len() {
                return Some(Node::new(place, value.value));
            }
            filled.push_str(&rest[..at]);
            match value.scalar_text() {
                Some(value) if self.context.spend_text(&value) => filled.push_str(&value),
                Some(_) => return None,
                None => filled.push_str(&written_out(&value)),
            }
            rest = &rest[at + length + 2..];
        }
        filled.push_str(rest);
        Some(Node::new(place, Value::Text(filled.into())))
    }

    fn block(&self, inner: &str, place: Place) -> Node {
        let broken = Node::new(place, Value::Broken);
        let mut parts = inner.split('|').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let Some(name) = name.strip_prefix("inputs.") else {
            self.context.sink.error(place, format!("`{name}` cannot be put in here: only `inputs.NAME` can"));
            return broken;
        };
        let Some(value) = self.values.0.get(name) else {
            let message = format!("the file declares no input `{name}`");
            match self.context.nearest(name, self.values.0.keys().map(|key| &**key)) {
                Some(near) => self.context.sink.error_with_hint(place, message, format!("did you mean `{near}`?")),
                None => self.context.sink.error(place, message),
            }
            return broken;
        };
        let mut value = value.clone();
        for (number, function) in parts.enumerate() {
            if number >= MOST_FUNCTIONS {
                self.context.sink.error(place, format!("more than {MOST_FUNCTIONS} functions follow each other"));
                return broken;
            }
            match value.text().and_then(|text| self.apply(function, text)) {
                Some(text) => value = Node::new(value.place, Value::Text(text.into())),
                None => {
                    self.context.sink.error(place, format!("`{function}` is no function that this input can go through"));
                    return broken;
                }
            }
        }
        value
    }

    fn apply(&self, function: &str, text: &str) -> Option<String> {
        match function {
            "expand_vars" => return Some(self.scope.expand(text)),
            "posix_escape" => return Some(posix_escape(text)),
            _ => {}
        }
        let (offset, length) = function.strip_prefix("truncate(")?.strip_suffix(')')?.split_once(',')?;
        let (offset, length): (usize, usize) = (offset.trim().parse().ok()?, length.trim().parse().ok()?);
        Some(text.chars().skip(offset).take(length).collect())
    }
}

/// A shell reads it as one word with the same characters.
fn posix_escape(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    let plain = |one: char| one.is_ascii_alphanumeric() || "_-.,:+/@".contains(one);
    text.chars().fold(String::new(), |mut escaped, one| {
        match one {
            '\n' => escaped.push_str("'\n'"),
            one if plain(one) => escaped.push(one),
            one => escaped.extend(['\\', one]),
        }
        escaped
    })
}

/// A list inside of a text.
fn written_out(node: &Node) -> String {
    match &node.value {
        Value::List(items) => format!("[{}]", items.iter().map(written_out).collect::<Vec<_>>().join(", ")),
        Value::Text(text) => format!("{:?}", &**text),
        _ => node.scalar_text().unwrap_or_default(),
    }
}
