//! Text becomes a tree: parser events, aliases, merge keys, duplicate keys.
//!
//! The parser only says what stands where. All that gives it meaning is here, as Psych does it: a merge key replaces
//! what stands above it, the last of two equal keys counts, an alias may not refer to itself.

use super::scalar::{Plain, plain};
use super::{DEEPEST, Entry, MOST_NODES, Map, Node, Value};
use crate::diagnostic::{Place, Sink};
use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StructureStyle, Tag};
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of one file, as GitLab's `max_yaml_size_bytes`.
const LARGEST: usize = 2 * 1024 * 1024;

/// One document of a file.
pub(crate) struct Document {
    pub root: Node,
}

/// Reads all documents of a file; `None` when it is no YAML (the sink knows why).
pub(crate) fn load(path: &str, text: &str, sink: &Sink) -> (u32, Option<Vec<Document>>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > LARGEST {
        let file = sink.add_source(path, "");
        let message = format!("file is too large: {} bytes, at most {LARGEST} are read", text.len());
        sink.error(Place { file, start: 0, end: 0 }, message);
        return (file, None);
    }
    let file = sink.add_source(path, text);
    let mut loader =
        Loader { file, text, sink, stack: Vec::new(), anchors: HashMap::new(), documents: Vec::new(), copied: 0, full: false };
    let options = granit_parser::options! {
        bom_inside_document_as_content: true,
        block_scalar_eof_without_line_feed: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => loader.event(event, span),
            Err(error) => {
                loader.scan_error(&error);
                return (file, None);
            }
        }
        if loader.full {
            return (file, None);
        }
    }
    (file, Some(loader.documents))
}

/// A list or map that is not closed yet.
enum Frame {
    List { place: Place, items: Vec<Node>, anchor: usize, block: bool, reference: bool },
    Map { place: Place, map: Map, anchor: usize, block: bool, key: Option<Key> },
}

struct Key {
    text: Rc<str>,
    place: Place,
    merge: bool,
}

struct Loader<'a> {
    file: u32,
    text: &'a str,
    sink: &'a Sink,
    stack: Vec<Frame>,
    /// What anchors stand for; `None` while their node is still open.
    anchors: HashMap<usize, Option<Node>>,
    documents: Vec<Document>,
    /// Keys that `<<` has copied.
    copied: usize,
    /// A bound was met: reading ends.
    full: bool,
}

impl Loader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) {
        let place = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, (tag.as_deref(), place)),
            Event::SequenceStart(style, anchor, tag) => {
                let reference = tag.as_deref().is_some_and(is_reference);
                let place = if reference { self.with_tag(place, span) } else { place };
                self.check_tag(tag.as_deref(), place);
                let block = style == StructureStyle::Block;
                self.open(Frame::List { place, items: Vec::new(), anchor, block, reference }, anchor, place);
            }
            Event::MappingStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                if tag.as_deref().is_some_and(is_reference) {
                    self.not_a_list(place);
                }
                let block = style == StructureStyle::Block;
                self.open(Frame::Map { place, map: Map::default(), anchor, block, key: None }, anchor, place);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(place),
            Event::Alias(id) => self.alias(id, place),
            Event::UnresolvedAlias(name) => {
                self.sink.error(place, format!("anchor `&{name}` is not defined above this line"));
                self.attach(Node::new(place, Value::Broken));
            }
            _ => {}
        }
    }

    fn place(&self, span: Span) -> Place {
        let at = |marker: &granit_parser::Marker| {
            u32::try_from(marker.byte_offset().unwrap_or(0).min(self.text.len())).unwrap_or(u32::MAX)
        };
        Place { file: self.file, start: at(&span.start), end: at(&span.end) }
    }

    /// The place with its tag.
    fn with_tag(&self, place: Place, span: Span) -> Place {
        let start = span.tag_start().and_then(|marker| u32::try_from(marker.byte_offset()?).ok());
        Place { start: start.unwrap_or(place.start), ..place }
    }

    fn scan_error(&self, error: &ScanError) {
        let marker = error.marker();
        let start = u32::try_from(marker.byte_offset().unwrap_or(self.text.len()).min(self.text.len())).unwrap_or(u32::MAX);
        let place = Place { file: self.file, start, end: start.saturating_add(1) };
        let info = error.info();
        let before = &self.text.as_bytes()[..start as usize];
        let line = before.iter().rev().take_while(|&&byte| byte != b'\n');
        let tab = self.text.as_bytes().get(start as usize) == Some(&b'\t') || line.clone().any(|&byte| byte == b'\t');
        if tab {
            self.sink.error_with_hint(place, format!("not YAML: {info}"), "indent with spaces: YAML takes no tabs there");
        } else if info.contains("mapping values are not allowed") {
            self.sink.error_with_hint(place, format!("not YAML: {info}"), "quote the value if it holds `: `");
        } else {
            self.sink.error(place, format!("not YAML: {info}"));
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, (tag, place): (Option<&Tag>, Place)) {
        self.check_tag(tag, place);
        if tag.is_some_and(is_reference) {
            self.not_a_list(place);
            return self.finish(Node::new(place, Value::Broken), anchor);
        }
        let string = tag.is_some_and(|tag| tag.core_suffix() == Some("str") || tag.suffix() == "binary");
        let is_plain = !string && style == ScalarStyle::Plain
            || tag.is_some_and(|tag| matches!(tag.core_suffix(), Some("int" | "float" | "bool")));
        if self.wants_key() {
            let merge = text == "<<" && is_plain;
            self.take_key(Key { text: text.into(), place, merge });
            if anchor != 0 {
                self.anchors.insert(anchor, Some(Node::new(place, Value::Text(text.into()))));
            }
            return;
        }
        if matches!(self.stack.last(), Some(Frame::List { block: true, .. })) {
            check_indent(self.text, self.sink, place);
        }
        let value = if !is_plain {
            Value::Text(text.into())
        } else {
            match plain(text) {
                Plain::Value(value) => value,
                Plain::Date => {
                    self.sink.error_with_hint(place, "a date is not allowed here", "quote it, so that it is a string");
                    Value::Text(text.into())
                }
            }
        };
        self.finish(Node::new(place, value), anchor);
    }

    fn not_a_list(&self, place: Place) {
        let hint = "write `!reference [job, keyword]`";
        self.sink.error_with_hint(place, "`!reference` takes a list of keys", hint);
    }

    fn check_tag(&self, tag: Option<&Tag>, place: Place) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema() && !is_reference(tag) && tag.handle() == "!") {
            self.sink.warning(place, format!("the tag `!{}` has no meaning here", tag.suffix()), None);
        }
    }

    fn open(&mut self, frame: Frame, anchor: usize, place: Place) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        if self.stack.len() >= usize::from(DEEPEST) {
            self.sink.error(place, format!("nested too deep: at most {DEEPEST} lists and maps in each other"));
            self.full = true;
        }
        self.stack.push(frame);
    }

    fn close(&mut self, end: Place) {
        match self.stack.pop() {
            Some(Frame::List { mut place, items, anchor, reference, .. }) => {
                place.end = place.end.max(if reference { end.end } else { 0 });
                let value = if reference { Value::Reference(Rc::new(items)) } else { Value::List(Rc::new(items)) };
                self.finish(Node::new(place, value), anchor);
            }
            Some(Frame::Map { place, map, anchor, .. }) => self.finish(Node::new(place, Value::Map(Rc::new(map))), anchor),
            None => {}
        }
    }

    fn alias(&mut self, id: usize, place: Place) {
        match self.anchors.get(&id) {
            Some(Some(node)) => {
                let node = node.clone();
                if self.wants_key() {
                    let Some(text) = node.scalar_text() else {
                        return self.no_key(place);
                    };
                    return self.take_key(Key { text: text.into(), place, merge: false });
                }
                self.attach(node);
            }
            _ => {
                self.sink.error(place, "this alias stands inside of what it refers to");
                self.attach(Node::new(place, Value::Broken));
            }
        }
    }

    fn finish(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(node.clone()));
        }
        self.attach(node);
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Map { key: None, .. }))
    }

    fn take_key(&mut self, taken: Key) {
        if let Some(Frame::Map { key, block, .. }) = self.stack.last_mut() {
            if *block {
                check_indent(self.text, self.sink, taken.place);
            }
            *key = Some(taken);
        }
    }

    fn no_key(&mut self, place: Place) {
        self.sink.error(place, "a key must be a single value");
        self.take_key(Key { text: "".into(), place, merge: false });
    }

    /// Puts a finished node where it belongs.
    fn attach(&mut self, node: Node) {
        if node.size() > MOST_NODES || self.stack.len() + usize::from(node.depth()) > usize::from(DEEPEST) {
            let message = if node.size() > MOST_NODES {
                format!("with its aliases written out this is more than {MOST_NODES} values")
            } else {
                format!("nested too deep: at most {DEEPEST} lists and maps in each other")
            };
            self.sink.error(node.place, message);
            self.full = true;
            return;
        }
        if self.wants_key() {
            return self.no_key(node.place);
        }
        match self.stack.last_mut() {
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { map, key, .. }) => {
                let Some(key) = key.take() else { return };
                if key.merge {
                    self.copied += merge_keys(map, &key, &node, self.sink);
                    if self.copied > MOST_NODES as usize {
                        self.sink.error(key.place, format!("`<<` copies more than {MOST_NODES} keys in this file"));
                        self.full = true;
                    }
                } else {
                    insert(map, key, node, self.sink);
                }
            }
            None => self.documents.push(Document { root: node }),
        }
    }
}

fn insert(map: &mut Map, key: Key, node: Node, sink: &Sink) {
    if let Some(earlier) = map.get(&key.text) {
        // A key that came from `<<` is meant to be replaced; one written twice is a slip.
        if earlier.place.file == key.place.file && !earlier.merged {
            let message = format!("`{}` is here twice; the first, at {}, does not count", key.text, sink.line_of(earlier.place));
            sink.warning(key.place, message, None);
        }
    }
    map.insert(Entry { key: key.text, place: key.place, node, merged: false });
}

/// `<<`: replaces what stands above it, as Psych does. Returns how many keys were copied.
fn merge_keys(map: &mut Map, key: &Key, node: &Node, sink: &Sink) -> usize {
    let sources: Vec<&Node> = match &node.value {
        Value::List(items) => items.iter().rev().collect(),
        _ => vec![node],
    };
    let mut copied = 0;
    for source in sources {
        if copied > MOST_NODES as usize {
            break;
        }
        let Some(merged) = source.map() else {
            if source.is_broken() {
                continue;
            }
            sink.error(key.place, format!("`<<` merges a map or a list of maps, not {}", source.kind()));
            continue;
        };
        copied += merged.len() + 1;
        for entry in merged.iter() {
            if let Some(own) = map.get(&entry.key).filter(|own| !own.merged) {
                let message = format!("`<<` replaces `{}` of {}, as in GitLab", entry.key, sink.line_of(own.place));
                sink.warning(key.place, message, Some("put `<<` above the keys that shall win"));
            }
            map.insert(Entry { merged: true, ..entry.clone() });
        }
    }
    copied
}

fn is_reference(tag: &Tag) -> bool {
    tag.handle() == "!" && tag.suffix() == "reference"
}

/// The parser takes a tab before a key and after a dash; GitLab's does not.
fn check_indent(text: &str, sink: &Sink, place: Place) {
    let before = &text.as_bytes()[..place.start as usize];
    let indent = before.iter().rev().take_while(|&&byte| byte != b'\n' && byte != b'\r');
    let mut tab = None;
    for (back, &byte) in indent.enumerate() {
        match byte {
            b'\t' => tab = Some(place.start as usize - back - 1),
            b' ' => {}
            b'-' => break,
            _ => return,
        }
    }
    if let Some(at) = tab.and_then(|at| u32::try_from(at).ok()) {
        let place = Place { file: place.file, start: at, end: at + 1 };
        sink.error_with_hint(place, "not YAML: a tab stands where a line is indented", "indent with spaces");
    }
}
