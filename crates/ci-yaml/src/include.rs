//! `include`: other files of the repository below this one.
//!
//! As in GitLab: later files win over earlier ones, the file that includes wins over all it includes, and what an
//! included file includes lies below that file. Files that are not in the repository cannot be had here, and a pipeline
//! without them would be another one, so that is an error.

use crate::compile::Context;
use crate::diagnostic::Place;
use crate::inputs::{Filler, Spec};
use crate::merge::deep_merge;
use crate::rules;
use crate::variables::Scope;
use crate::yaml::{self, Entry, Map, Node, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Includes of one pipeline, as in GitLab.
const MOST: usize = 150;

/// Bytes of all files together.
const LARGEST: usize = 16 * 1024 * 1024;

/// Keys of `include` that say where a file is, besides `local`.
const ELSEWHERE: &[&str] = &["project", "remote", "template", "component", "artifact"];

/// Reads the first file and all it includes into one map; `None` when there is nothing to go on with.
pub(crate) fn load(context: &Context<'_>) -> Option<Map> {
    let mut includes =
        Includes { context, scope: Scope::new(context.input), files: HashMap::new(), open: Vec::new(), count: 0, bytes: 0 };
    let path = context.input.path;
    let text = match context.input.files.read(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let file = context.sink.add_source(path, "");
            context.sink.error(Place { file, start: 0, end: 0 }, format!("there is no file {path}"));
            return None;
        }
        Err(reason) => {
            let file = context.sink.add_source(path, "");
            context.sink.error(Place { file, start: 0, end: 0 }, format!("{path} cannot be read: {reason}"));
            return None;
        }
    };
    includes.bytes = text.len();
    let file = parse(context, path, &text)?;
    includes.open.push(path.to_owned());
    let map = includes.fill(&file, None, Place::default());
    Some(includes.with_includes(&map))
}

fn parse(context: &Context<'_>, path: &str, text: &str) -> Option<File> {
    let (file, documents) = yaml::load(path, text, &context.sink);
    let mut documents = documents?.into_iter();
    let top = Place { file, start: 0, end: 0 };
    let first = documents.next();
    let second = documents.next();
    if documents.next().is_some() {
        context.sink.error(top, "there are more than two documents in this file");
        return None;
    }
    let mut spec = None;
    let root = match (first, second) {
        (Some(header), Some(second)) if header.root.map().is_some_and(|map| map.get("spec").is_some()) => {
            spec = header.root.map().map(|header| Spec::read(context, header));
            second.root
        }
        (Some(first), second) => {
            if let Some(second) = second {
                context.sink.warning(second.root.place, "GitLab does not read this second document", None);
            }
            first.root
        }
        (None, _) => Node::new(top, Value::Null),
    };
    match root.value {
        Value::Map(map) => Some(File { map, spec }),
        Value::Null => {
            context.sink.error(top, format!("{path} is empty"));
            None
        }
        _ => {
            context.sink.error(root.place, format!("a file must be a map, not {}", root.kind()));
            None
        }
    }
}

/// A file as it stands: its map, and the inputs that its header declares.
#[derive(Clone)]
struct File {
    map: Rc<Map>,
    spec: Option<Spec>,
}

struct Includes<'a> {
    context: &'a Context<'a>,
    scope: Scope<'a>,
    files: HashMap<String, Option<File>>,
    /// Files that are being read, the outermost first.
    open: Vec<String>,
    count: usize,
    bytes: usize,
}

impl Includes<'_> {
    /// The map with what it includes below it.
    fn with_includes(&mut self, map: &Map) -> Map {
        let mut own = map.clone();
        let Some(include) = own.remove("include") else { return own };
        let mut below = Map::default();
        let items = match include.node.list() {
            Some(items) => self.context.flatten(items, "include"),
            None => vec![&include.node],
        };
        for item in items {
            let inputs = item.map().and_then(|map| map.get("inputs"));
            for (place, path) in self.paths(item) {
                if let Some(included) = self.file(place, &path, inputs) {
                    below = deep_merge(self.context, &below, &included);
                }
            }
        }
        deep_merge(self.context, &below, &own)
    }

    /// Paths that one entry of `include` stands for.
    fn paths(&mut self, item: &Node) -> Vec<(Place, String)> {
        match &item.value {
            Value::Text(text) if text.starts_with("http://") || text.starts_with("https://") => {
                self.elsewhere(item.place, "remote");
                Vec::new()
            }
            Value::Text(text) => at(item.place, self.local(item, text)),
            Value::Map(map) => self.paths_of_map(item, map),
            _ => {
                self.context.wrong(item, "include", "a string, a map or a list of them");
                Vec::new()
            }
        }
    }

    fn paths_of_map(&mut self, item: &Node, map: &Map) -> Vec<(Place, String)> {
        let known: Vec<&str> =
            ["local", "rules", "file", "ref", "inputs", "integrity", "job"].iter().chain(ELSEWHERE).copied().collect();
        for entry in map.iter().filter(|entry| !known.contains(&&*entry.key)) {
            crate::keywords::unknown(self.context, entry, "`include`", &known);
        }
        if let Some(rules) = map.get("rules")
            && !self.rules_allow(rules)
        {
            return Vec::new();
        }
        if let Some(elsewhere) = map.iter().find(|entry| ELSEWHERE.contains(&&*entry.key)) {
            self.elsewhere(elsewhere.place, &elsewhere.key);
            return Vec::new();
        }
        match map.get("local") {
            Some(entry) => match self.context.string(&entry.node, "include:local") {
                Some(text) => at(entry.node.place, self.local(&entry.node, &text)),
                None => Vec::new(),
            },
            None => {
                let place = map.iter().next().map_or(item.place, |first| first.place);
                self.context.sink.error(place, "this include names no file: write `local: PATH`");
                Vec::new()
            }
        }
    }

    fn rules_allow(&self, rules: &Entry) -> bool {
        let rules = rules::read(self.context, rules, "", rules::Kind::Include);
        rules::decide(self.context, &rules, &self.scope).is_some_and(|rule| rule.when != Some(crate::timing::Word::Never))
    }

    fn elsewhere(&self, place: Place, kind: &str) {
        let message = format!("`include:{kind}` cannot be followed here: only files of this repository are included");
        self.context.sink.error_with_hint(place, message, "copy the file into the repository and include it with `local`");
    }

    /// Paths that a local path stands for, with its variables and wildcards.
    fn local(&mut self, node: &Node, text: &str) -> Vec<String> {
        let expanded = self.scope.expand(text);
        let path = expanded.trim_start_matches('/');
        let path = path.strip_prefix("./").unwrap_or(path);
        if path.split('/').any(|part| part == "..") || path.is_empty() {
            self.context.sink.error(node.place, format!("`{expanded}` is no path inside of this repository"));
            return Vec::new();
        }
        if !path.ends_with(".yml") && !path.ends_with(".yaml") {
            self.context.sink.error(node.place, format!("`{path}` does not end with .yml or .yaml"));
            return Vec::new();
        }
        if !path.contains('*') {
            return vec![path.to_owned()];
        }
        let matching = match self.context.files() {
            Ok(files) => files.iter().filter(|file| fast_glob::glob_match(path, file)).cloned().collect(),
            Err(reason) => {
                self.context.sink.error(node.place, format!("`{path}` cannot be searched for: {reason}"));
                return Vec::new();
            }
        };
        let mut matching: Vec<String> = matching;
        matching.sort();
        if matching.is_empty() {
            self.context.sink.error(node.place, format!("`{path}` matches no file"));
        }
        matching
    }

    fn file(&mut self, place: Place, path: &str, inputs: Option<&Entry>) -> Option<Map> {
        self.count += 1;
        if self.count > MOST {
            if self.count == MOST + 1 {
                self.context.sink.error(place, format!("more than {MOST} files are included"));
            }
            return None;
        }
        if self.open.iter().any(|open| open == path) {
            let circle = self.open.iter().skip_while(|open| *open != path).map(String::as_str).chain([path]);
            let circle: Vec<&str> = circle.collect();
            self.context.sink.error(place, format!("`include` goes in a circle: {}", circle.join(" → ")));
            return None;
        }
        let file = match self.files.get(path) {
            Some(known) => known.clone(),
            None => {
                let read = self.read(place, path);
                self.files.insert(path.to_owned(), read.clone());
                read
            }
        }?;
        let map = self.fill(&file, inputs, place);
        self.open.push(path.to_owned());
        let merged = self.with_includes(&map);
        self.open.pop();
        Some(merged)
    }

    /// The file's map with its inputs filled in.
    fn fill(&self, file: &File, inputs: Option<&Entry>, place: Place) -> Rc<Map> {
        let Some(spec) = &file.spec else {
            if let Some(inputs) = inputs {
                let message = "the included file has no `spec`, so it takes no inputs";
                self.context.sink.error(inputs.place, message);
            }
            return file.map.clone();
        };
        let values = spec.values(self.context, inputs, inputs.map_or(place, |entry| entry.place));
        Rc::new(Filler { context: self.context, scope: &self.scope, values: &values }.map(&file.map))
    }

    fn read(&mut self, place: Place, path: &str) -> Option<File> {
        let text = match self.context.input.files.read(path) {
            Ok(Some(text)) => text,
            Ok(None) => {
                self.context.sink.error(place, format!("the included file {path} is not there"));
                return None;
            }
            Err(reason) => {
                self.context.sink.error(place, format!("the included file {path} cannot be read: {reason}"));
                return None;
            }
        };
        self.bytes += text.len();
        if self.bytes > LARGEST {
            self.context.sink.error(place, format!("all files together are larger than {LARGEST} bytes"));
            return None;
        }
        parse(self.context, path, &text)
    }
}

fn at(place: Place, paths: Vec<String>) -> Vec<(Place, String)> {
    paths.into_iter().map(|path| (place, path)).collect()
}
