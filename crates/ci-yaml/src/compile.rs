//! The passes, in order:
//!
//! 1. `include` – text to a tree, all files merged into one
//! 2. `extends` – entries take over keys of others
//! 3. `!reference` – values copied from elsewhere
//! 4. stages, variables, `default`, `workflow` – what holds for all jobs
//! 5. jobs – each keyword family read, copies made by `parallel`, `rules` decided
//! 6. `needs`, `dependencies` – who waits for whom
//!
//! A pass goes on after an error where what follows still makes sense, so that all mistakes are told at once. What an
//! error left without a value is `Broken`, and nobody complains about it twice.

use crate::diagnostic::{Diagnostics, Place, Sink};
use crate::job::{Draft, JobReader};
use crate::pipeline::Pipeline;
use crate::stages::Stages;
use crate::variables::Scope;
use crate::yaml::Map;
use crate::{Input, default, extends, include, keywords, needs, reference, variables, workflow};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;

/// Steps of work for one pipeline; a file that asks for more is hostile.
const STEPS: usize = 2_000_000;

/// Jobs of one pipeline.
const MOST_JOBS: usize = 20_000;

/// A pipeline, and what it leaves out.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What is to be run.
    pub pipeline: Pipeline,
    /// What was found on the way.
    pub warnings: Diagnostics,
}

/// What all passes share.
pub(crate) struct Context<'a> {
    pub input: &'a Input<'a>,
    pub sink: Sink,
    steps: Cell<usize>,
    files: OnceCell<Result<Vec<String>, String>>,
    exists: RefCell<HashMap<String, bool>>,
}

impl Context<'_> {
    /// Counts work; false when there was too much of it. The error is written once.
    pub fn spend(&self, steps: usize) -> bool {
        let spent = self.steps.get();
        if spent > STEPS {
            return false;
        }
        self.steps.set(spent + steps);
        if spent + steps > STEPS {
            self.sink.error(Place::default(), "this file multiplies itself: working it out takes too many steps");
        }
        spent + steps <= STEPS
    }

    /// Counts the copying of text.
    pub fn spend_text(&self, text: &str) -> bool {
        self.spend(1 + text.len() / 64)
    }

    /// All files of the repository, asked for once.
    pub fn files(&self) -> &Result<Vec<String>, String> {
        self.files.get_or_init(|| self.input.files.list())
    }

    /// Whether a file matches a pattern of `rules:exists`.
    pub fn file_exists(&self, pattern: &str, place: Place) -> bool {
        let pattern = pattern.trim_start_matches("./");
        if let Some(&known) = self.exists.borrow().get(pattern) {
            return known;
        }
        let found = if pattern.contains(['*', '?', '[', '{']) {
            match self.files() {
                Ok(files) if !self.spend(files.len() / 8) => false,
                Ok(files) => files.iter().any(|file| fast_glob::glob_match(pattern, file)),
                Err(reason) => {
                    self.sink.warning(place, format!("`rules:exists` counts as met for `{pattern}`: {reason}"), None);
                    true
                }
            }
        } else {
            !pattern.split('/').any(|part| part == "..") && matches!(self.input.files.read(pattern), Ok(Some(_)) | Err(_))
        };
        self.exists.borrow_mut().insert(pattern.to_owned(), found);
        found
    }

    fn exhausted(&self) -> bool {
        self.steps.get() > STEPS
    }
}

/// Compiles the file and all that it includes.
///
/// Errors are complete: every mistake that can be seen without guessing is among them, each with its place.
pub fn compile(input: &Input<'_>) -> Result<Compiled, Diagnostics> {
    let context = Context {
        input,
        sink: Sink::default(),
        steps: Cell::new(0),
        files: OnceCell::new(),
        exists: RefCell::new(HashMap::new()),
    };
    let pipeline = run_passes(&context);
    let failed = context.sink.has_errors();
    let found = context.sink.finish();
    match pipeline {
        Some(pipeline) if !failed => Ok(Compiled { pipeline, warnings: found }),
        _ => Err(found),
    }
}

fn run_passes(context: &Context<'_>) -> Option<Pipeline> {
    let included = include::load(context)?;
    let extended = extends::resolve(context, &included);
    let top = reference::resolve(context, &extended);
    if context.exhausted() {
        return None;
    }
    keywords::check_top(context, &top);
    let stages = Stages::read(context, &top);
    let globals = variables::read_globals(context, &top);
    let defaults = default::Defaults::read(context, &top);
    let given = Scope::new(context.input);
    let mut scope = Scope::above(&given);
    scope.set(&globals);
    let workflow = workflow::decide(context, &top, &scope);
    scope.set(&workflow.variables);

    let reader = JobReader {
        context,
        stages: &stages,
        globals: &globals,
        workflow: &workflow,
        defaults: &defaults,
        given: &given,
        scope: &scope,
    };
    let drafts = read_jobs(&reader, &top);
    if context.exhausted() {
        return None;
    }
    if drafts.is_empty() && !context.sink.has_errors() {
        context.sink.error_with_hint(
            Place::default(),
            "there is no job here",
            "a job is an entry with a `script`, and its name does not begin with a dot",
        );
    }
    let pipeline = assemble(context, &stages, drafts);
    check_not_empty(context, &pipeline);
    Some(pipeline)
}

fn read_jobs(reader: &JobReader<'_>, top: &Map) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for entry in top.iter().filter(|entry| keywords::is_job(&entry.key)) {
        reader.read(entry, &mut drafts);
        if reader.context.exhausted() {
            break;
        }
        if drafts.len() > MOST_JOBS {
            reader.context.sink.error(entry.place, format!("this pipeline has more than {MOST_JOBS} jobs"));
            break;
        }
    }
    drafts
}

fn assemble(context: &Context<'_>, stages: &Stages, drafts: Vec<Draft>) -> Pipeline {
    let excluded: Vec<String> = drafts.iter().filter(|draft| draft.excluded).map(|draft| draft.job.name.clone()).collect();
    let jobs = needs::resolve(context, stages, drafts);
    let used = |stage: &String| jobs.iter().any(|job| job.stage == *stage);
    Pipeline { stages: stages.names().iter().filter(|stage| used(stage)).cloned().collect(), jobs, excluded }
}

/// GitLab makes no pipeline without jobs, and none of jobs in `.pre` and `.post` alone.
fn check_not_empty(context: &Context<'_>, pipeline: &Pipeline) {
    if context.sink.has_errors() {
        return;
    }
    if pipeline.jobs.is_empty() {
        let message = format!("no pipeline: rules leave out all of its jobs ({})", pipeline.excluded.join(", "));
        context.sink.error(Place::default(), message);
    } else if pipeline.jobs.iter().all(|job| job.stage == ".pre" || job.stage == ".post") {
        context.sink.error(Place::default(), "no pipeline: its only jobs are in the stages .pre and .post");
    }
}
