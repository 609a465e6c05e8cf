//! What is wrong with a file, and where.
//!
//! All passes write into one [`Sink`], so that a user sees every mistake at once. The sink counts: a hostile file can
//! not make it grow without end. Messages that differ only in the job that took over a template are told once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// More than this many are counted but not kept.
const MOST: usize = 200;

/// Lines longer than this are not shown below their message.
const LONGEST_LINE: usize = 2000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// There is no pipeline.
    Error,
    /// There is a pipeline, and it is not all the file asks for.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// File, relative to the top of the repository.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong: lower case, no final dot.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line it is about, and the bytes of it.
    pub(crate) excerpt: Option<Excerpt>,
}

/// A line of source, and the part of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub line: String,
    pub start: usize,
    pub end: usize,
}

/// Findings in the order of files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|one| one.severity == Severity::Error)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, one) in self.0.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{}:{}: {}", one.file, one.line, one.column, one.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A piece of a file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub file: u32,
    pub start: u32,
    pub end: u32,
}

struct Source {
    path: String,
    text: String,
}

#[derive(Default)]
struct Found {
    sources: Vec<Source>,
    list: Vec<(Place, Diagnostic)>,
    seen: HashSet<(Place, String)>,
    unhandled: BTreeMap<(Place, String), Vec<String>>,
    dropped: usize,
    errors: usize,
}

/// Where the passes write what they find.
#[derive(Default)]
pub(crate) struct Sink(RefCell<Found>);

impl Sink {
    /// Takes a file in, for places in it.
    pub fn add_source(&self, path: &str, text: &str) -> u32 {
        let mut found = self.0.borrow_mut();
        found.sources.push(Source { path: path.to_owned(), text: text.to_owned() });
        u32::try_from(found.sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// `file:line` of a place, for messages that name a second place.
    pub fn line_of(&self, place: Place) -> String {
        let found = self.0.borrow();
        let (line, _, _) = found.locate(place);
        let path = found.sources.get(place.file as usize).map_or("", |source| source.path.as_str());
        format!("{path}:{line}")
    }

    /// No pipeline.
    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), None);
    }

    /// No pipeline, and what to do about it.
    pub fn error_with_hint(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), Some(hint.into()));
    }

    /// A pipeline that is not all the file asks for.
    pub fn warning(&self, place: Place, message: impl Into<String>, hint: Option<&str>) {
        self.add(Severity::Warning, place, message.into(), hint.map(str::to_owned));
    }

    /// A keyword that GitLab knows and gantry does not act on; told once for all jobs that have it from the same place.
    pub fn unhandled(&self, place: Place, message: impl Into<String>, job: &str) {
        let mut found = self.0.borrow_mut();
        let jobs = found.unhandled.entry((place, message.into())).or_default();
        if jobs.last().is_none_or(|last| last != job) {
            jobs.push(job.to_owned());
        }
    }

    /// Whether there can be no pipeline any more.
    pub fn has_errors(&self) -> bool {
        self.0.borrow().errors > 0
    }

    /// Whether there are so many errors that hints help nobody any more.
    pub fn is_full(&self) -> bool {
        self.0.borrow().errors >= MOST / 4
    }

    fn add(&self, severity: Severity, place: Place, message: String, hint: Option<String>) {
        let mut found = self.0.borrow_mut();
        if severity == Severity::Error {
            found.errors += 1;
        }
        if !found.seen.insert((place, message.clone())) {
            return;
        }
        // Each kind has its own bound: a thousand warnings must not push out the one line that explains the failure.
        let of_this_kind = found.list.iter().filter(|(_, one)| one.severity == severity).count();
        if of_this_kind >= MOST {
            found.dropped += 1;
            return;
        }
        let diagnostic = found.diagnostic(severity, place, message, hint);
        found.list.push((place, diagnostic));
    }

    /// All that was found, in the order of files and lines.
    pub fn finish(self) -> Diagnostics {
        let unhandled = std::mem::take(&mut self.0.borrow_mut().unhandled);
        for ((place, message), jobs) in unhandled {
            self.warning(place, format!("{message}{}", name_jobs(&jobs)), None);
        }
        let mut found = self.0.into_inner();
        found.list.sort_by_key(|(place, one)| (place.file, place.start, one.severity));
        let dropped = found.dropped;
        let mut list: Vec<Diagnostic> = found.list.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if let Some(last) = list.last_mut().filter(|_| dropped > 0) {
            let hint = last.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
            last.hint = Some(format!("{hint}{dropped} more are not shown"));
        }
        Diagnostics(list)
    }
}

impl Found {
    /// Line, column and the line's text.
    fn locate(&self, place: Place) -> (usize, usize, Option<Excerpt>) {
        let Some(source) = self.sources.get(place.file as usize) else { return (1, 1, None) };
        let text = source.text.as_str();
        let mut start = (place.start as usize).min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind(['\n', '\r']).map_or(0, |at| at + 1);
        let line_number = 1 + before.matches('\n').count() + lone_returns(before);
        let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |at| start + at);
        let column = text[line_start..start].chars().count() + 1;
        let mut end = (place.end as usize).clamp(start, line_end);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let line = &text[line_start..line_end];
        let excerpt = (line.len() <= LONGEST_LINE).then(|| Excerpt {
            line: line.to_owned(),
            start: start - line_start,
            end: line[..end - line_start].trim_end().len().max(start - line_start),
        });
        (line_number, column, excerpt)
    }

    fn diagnostic(&self, severity: Severity, place: Place, message: String, hint: Option<String>) -> Diagnostic {
        let (line, column, excerpt) = self.locate(place);
        let file = self.sources.get(place.file as usize).map(|source| source.path.clone()).unwrap_or_default();
        Diagnostic { severity, file, line, column, message, hint, excerpt }
    }
}

/// Line breaks of old Macs, which YAML still takes.
fn lone_returns(text: &str) -> usize {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|&(at, &byte)| byte == b'\r' && bytes.get(at + 1).is_some_and(|&next| next != b'\n')).count()
}

fn name_jobs(jobs: &[String]) -> String {
    match jobs {
        [] => String::new(),
        [one] if one.is_empty() => String::new(),
        [one] => format!(" (job `{one}`)"),
        [one, two] => format!(" (jobs `{one}` and `{two}`)"),
        [one, rest @ ..] => format!(" (job `{one}` and {} more)", rest.len()),
    }
}

impl Sink {
    /// Bytes `start..end` of a scalar's text as a place, where the file has that text as it is.
    pub fn within(&self, place: Place, text: &str, start: usize, end: usize) -> Place {
        let found = self.0.borrow();
        let whole =
            found.sources.get(place.file as usize).and_then(|source| source.text.get(place.start as usize..place.end as usize));
        let Some(at) = whole.and_then(|whole| whole.find(text)) else { return place };
        let offset = |bytes: usize| u32::try_from(bytes).map_or(place.end, |bytes| place.start.saturating_add(bytes));
        Place { file: place.file, start: offset(at + start), end: offset(at + end) }
    }
}
