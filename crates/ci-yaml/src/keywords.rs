//! Which keywords there are, which of them gantry acts on, and the word that somebody may have meant.

use crate::compile::Context;
use crate::yaml::{Entry, Map};

/// Keywords of the top level.
const TOP: &[&str] =
    &["after_script", "before_script", "cache", "default", "image", "include", "services", "stages", "variables", "workflow"];

/// Keywords of a job that the compiler reads.
pub(crate) const JOB: &[&str] = &[
    "after_script",
    "allow_failure",
    "artifacts",
    "before_script",
    "dependencies",
    "except",
    "extends",
    "image",
    "inherit",
    "needs",
    "only",
    "parallel",
    "rules",
    "script",
    "services",
    "stage",
    "start_in",
    "tags",
    "timeout",
    "variables",
    "when",
];

/// Keywords of a job that GitLab acts on and gantry does not yet, and what that means here.
pub(crate) const UNHANDLED: &[(&str, &str)] = &[
    ("cache", "nothing is kept between pipelines"),
    ("coverage", "the log is not searched for it"),
    ("dast_configuration", "it has no effect"),
    ("environment", "the job runs, and no deployment is recorded"),
    ("hooks", "these scripts do not run"),
    ("id_tokens", "these variables are not set"),
    ("identity", "the job has no workload identity"),
    ("inputs", "their values are not filled in"),
    ("interruptible", "no pipeline is cancelled by a newer one"),
    ("manual_confirmation", "there is no question before the job starts"),
    ("pages", "no site is published"),
    ("publish", "no site is published"),
    ("release", "no release is made"),
    ("resource_group", "jobs of one group may run at once"),
    ("retry", "a failed job is not run again"),
    ("secrets", "these variables are not set"),
];

/// Keywords that replace `script`: a job that has one of them cannot be run here.
pub(crate) const NOT_RUN: &[(&str, &str)] = &[("trigger", "no pipeline is started by it"), ("run", "steps are not run")];

/// Whether an entry of the top level is a job.
pub(crate) fn is_job(name: &str) -> bool {
    !name.starts_with('.') && !TOP.contains(&name) && name != "spec"
}

/// Looks for entries that are neither a keyword nor a job.
pub(crate) fn check_top(context: &Context<'_>, top: &Map) {
    for entry in top.iter() {
        if !is_job(&entry.key) {
            if &*entry.key == "spec" {
                let message = "`spec` belongs into a document of its own, before a line `---`";
                context.sink.error(entry.place, message);
            }
            continue;
        }
        if entry.key.is_empty() {
            context.sink.error(entry.place, "a job needs a name");
        } else if entry.key.chars().count() > 255 {
            context.sink.error(entry.place, "a job's name has at most 255 characters");
        } else if entry.node.map().is_none() {
            let message = format!("`{}` is no keyword, and a job must be a map, not {}", entry.key, entry.node.kind());
            match context.nearest(&entry.key, TOP.iter().copied()) {
                Some(near) => context.sink.error_with_hint(entry.place, message, format!("did you mean `{near}`?")),
                None => context.sink.error(entry.place, message),
            }
        }
    }
}

/// Says that a keyword is not among those that are known here.
pub(crate) fn unknown(context: &Context<'_>, entry: &Entry, of: &str, known: &[&str]) {
    let message = format!("`{}` is no keyword of {of}", entry.key);
    match context.nearest(&entry.key, known.iter().copied()) {
        Some(near) => context.sink.error_with_hint(entry.place, message, format!("did you mean `{near}`?")),
        None => context.sink.error(entry.place, message),
    }
}

impl Context<'_> {
    /// Checks the keys of a map: what gantry reads, what it names in a warning, and what is unknown.
    pub fn check_keys(&self, map: &Map, of: (&str, &str), known: &[&'static str], unhandled: &[(&'static str, &str)]) {
        let (of, job) = of;
        for entry in map.iter() {
            if known.contains(&&*entry.key) {
                continue;
            }
            match unhandled.iter().find(|(word, _)| *word == &*entry.key) {
                Some((word, means)) => {
                    self.sink.unhandled(entry.place, format!("`{of}:{word}` is not handled yet: {means}"), job);
                }
                None => {
                    let all: Vec<&str> = known.iter().copied().chain(unhandled.iter().map(|(word, _)| *word)).collect();
                    unknown(self, entry, &format!("`{of}`"), &all);
                }
            }
        }
    }
}

impl Context<'_> {
    /// The known word that is most like this one, if it is like it at all. Comparing is dear, so it ends where there are
    /// many errors already.
    pub fn nearest<'w>(&self, word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
        let length = word.chars().count();
        if length > 60 || self.sink.is_full() {
            return None;
        }
        let lower = word.to_lowercase();
        let is_near = |distance: usize, candidate: &str| distance * 3 <= candidate.chars().count().max(3);
        known
            .take(1000)
            .filter(|candidate| is_near(candidate.chars().count().abs_diff(length), candidate))
            .map(|candidate| (strsim::osa_distance(&lower, &candidate.to_lowercase()), candidate))
            .filter(|(distance, candidate)| is_near(*distance, candidate))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, candidate)| candidate)
    }
}
