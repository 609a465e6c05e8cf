//! One entry of the file becomes jobs: each keyword family is read, copies are made, rules decide.

use crate::compile::Context;
use crate::default::{self, Defaults, Inherit};
use crate::diagnostic::Place;
use crate::keywords::{JOB, NOT_RUN, UNHANDLED};
use crate::needs::{self, PlacedNeed};
use crate::parallel::{self, Copy};
use crate::pipeline::{AllowFailure, PipelineJob, When, YamlVariable};
use crate::rules::{self, Kind, Rule};
use crate::stages::Stages;
use crate::timing::{self, Word};
use crate::variables::{self, Level, Scope, circle};
use crate::workflow::Workflow;
use crate::yaml::{Entry, Map};
use crate::{artifacts, image, only, script};

/// A job whose needs are not resolved yet.
pub(crate) struct Draft {
    /// The name of its entry in the file; copies of one entry share it.
    pub entry: String,
    pub job: PipelineJob,
    pub needs: Option<Vec<PlacedNeed>>,
    pub dependencies: Option<Vec<(Place, String)>>,
    /// Not part of this pipeline.
    pub excluded: bool,
    /// What kept it out.
    pub why_excluded: &'static str,
}

/// What all jobs are read with.
pub(crate) struct JobReader<'a> {
    pub context: &'a Context<'a>,
    pub stages: &'a Stages,
    pub globals: &'a [YamlVariable],
    pub workflow: &'a Workflow,
    pub defaults: &'a Defaults,
    /// Variables from outside of the file.
    pub given: &'a Scope<'a>,
    /// Those and the variables of the whole file.
    pub scope: &'a Scope<'a>,
}

impl JobReader<'_> {
    /// Reads one entry; adds the jobs it becomes.
    pub fn read(&self, entry: &Entry, drafts: &mut Vec<Draft>) {
        let Some(own) = entry.node.map() else { return };
        let name = &*entry.key;
        let mut map = own.clone();
        let inherit = Inherit::read(self.context, &map);
        self.defaults.apply(&mut map, &inherit);
        self.check_keywords(&map, name);

        let own_variables = map.get("variables").filter(|entry| !entry.node.is_null());
        let own_variables = own_variables.map(|entry| variables::read(self.context, &entry.node, Level::Job)).unwrap_or_default();
        let inherited = self.globals.iter().chain(&self.workflow.variables).filter(|one| inherit.takes_variable(&one.key));
        let not_run = NOT_RUN.iter().find(|(keyword, _)| map.get(keyword).is_some()).is_some();
        let template = Draft {
            entry: name.to_owned(),
            job: self.job(&map, entry, not_run),
            needs: map.get("needs").filter(|entry| !entry.node.is_null()).map(|entry| needs::read(self.context, entry, name)),
            dependencies: needs::read_dependencies(self.context, &map),
            excluded: not_run,
            why_excluded: "it starts no script",
        };
        let rules = map.get("rules").filter(|entry| !entry.node.is_null());
        if let (Some(rules), Some(old)) = (rules, map.get("only").or_else(|| map.get("except"))) {
            let message = format!("`{}` and `rules` cannot stand in one job", old.key);
            self.context.sink.error(rules.place, message);
        }
        let rules = rules.map(|entry| rules::read(self.context, entry, name, Kind::Job));
        let when = map.get("when").filter(|entry| !entry.node.is_null());
        let when = when.and_then(|entry| timing::word(self.context, &entry.node, "when", false));
        timing::check_start_in(self.context, &map, when, name);
        let allow_failure = timing::allow_failure(self.context, &map);

        let inherited: Vec<YamlVariable> = inherited.cloned().collect();
        let all = inherited.len() == self.globals.len() + self.workflow.variables.len();
        let place = map.get("variables").map_or(entry.place, |entry| entry.place);
        let layers = Layers { place, inherited, all, own: own_variables, rules };
        let weight = layers.weight(&template.job);
        for copy in parallel::read(self.context, &map, name) {
            if !self.context.spend(weight) {
                return;
            }
            let mut draft = template.copy(&copy.name);
            draft.job.when = when.and_then(Word::when).unwrap_or_default();
            draft.job.allow_failure = allow_failure.clone().unwrap_or(match when {
                Some(Word::Manual) => AllowFailure::Yes,
                _ => AllowFailure::No,
            });
            self.decide(&mut draft, &map, &layers, &copy);
            drafts.push(draft);
        }
    }

    /// What does not depend on rules and copies.
    fn job(&self, map: &Map, entry: &Entry, not_run: bool) -> PipelineJob {
        let name = &*entry.key;
        let mut commands = script::read(self.context, map, "before_script").unwrap_or_default();
        let own = script::read(self.context, map, "script");
        if own.is_none() && !not_run && !self.is_told(map) {
            let hint = "a template begins with a dot";
            self.context.sink.error_with_hint(entry.place, format!("the job `{name}` has no `script`"), hint);
        }
        commands.extend(own.unwrap_or_default());
        PipelineJob {
            name: name.to_owned(),
            stage: self.stages.of_job(self.context, map, entry.place),
            image: image::read_image(self.context, map, name),
            services: image::read_services(self.context, map, name),
            script: commands,
            after_script: script::read(self.context, map, "after_script").unwrap_or_default(),
            artifacts: artifacts::read(self.context, map, name),
            timeout_seconds: timing::timeout(self.context, map),
            tags: timing::tags(self.context, map),
            ..PipelineJob::default()
        }
    }

    /// Whether an error says already why there is no script.
    fn is_told(&self, map: &Map) -> bool {
        map.get("extends").is_some() || map.get("script").is_some_and(|entry| entry.node.is_broken())
    }

    fn check_keywords(&self, map: &Map, name: &str) {
        default::warn_unhandled(self.context, map, name);
        for (keyword, means) in NOT_RUN {
            if let Some(entry) = map.get(keyword) {
                let message = format!("`{keyword}` is not handled yet: {means}, and the job is left out");
                self.context.sink.unhandled(entry.place, message, name);
            }
        }
        let known = || JOB.iter().copied().chain(UNHANDLED.iter().chain(NOT_RUN).map(|(keyword, _)| *keyword));
        for entry in map.iter().filter(|entry| known().all(|keyword| keyword != &*entry.key)) {
            let known: Vec<&str> = known().collect();
            crate::keywords::unknown(self.context, entry, "a job", &known);
        }
    }

    /// Whether this copy is part of the pipeline, and what the rule that matched changes.
    fn decide(&self, draft: &mut Draft, map: &Map, layers: &Layers, copy: &Copy) {
        let mut scope = Scope::above(if layers.all { self.scope } else { self.given });
        if !layers.all {
            scope.set(&layers.inherited);
        }
        scope.set_predefined("CI_JOB_NAME", &draft.job.name);
        scope.set_predefined("CI_JOB_STAGE", &draft.job.stage);
        scope.set(&layers.own);
        scope.set(&copy.variables);
        let mut from_rule: &[YamlVariable] = &[];
        match layers.rules.as_ref().map(|rules| rules::decide(self.context, rules, &scope)) {
            Some(Some(rule)) => {
                let word = rule.when.or(Word::of(draft.job.when));
                match word.and_then(Word::when) {
                    Some(when) => draft.job.when = when,
                    None => draft.exclude("a rule says `never`"),
                }
                if let Some(allow_failure) = &rule.allow_failure {
                    draft.job.allow_failure = allow_failure.clone();
                }
                if let Some(needs) = &rule.needs {
                    draft.needs = Some(needs.clone());
                }
                from_rule = &rule.variables;
            }
            Some(None) => draft.exclude("no rule of it matches"),
            None => {
                if !only::takes(self.context, map, &scope, self.workflow.has_rules) {
                    draft.exclude("`only` and `except` leave it out");
                }
            }
        }
        let variables = merged(&[&layers.inherited, &layers.own, &copy.variables, from_rule]);
        if let Some(circle) = circle::find(&variables) {
            let message = format!("variables refer to each other in a circle: {}", circle.join(" → "));
            self.context.sink.error(layers.place, message);
        }
        draft.job.variables = variables;
    }
}

/// What all copies of a job share: variables of the file and of the job, and its rules.
struct Layers {
    /// Where variables of this job stand, or else the job.
    place: Place,
    inherited: Vec<YamlVariable>,
    /// Whether none of the file's variables is left out.
    all: bool,
    own: Vec<YamlVariable>,
    rules: Option<Vec<Rule>>,
}

impl Layers {
    /// What it costs to make one copy.
    fn weight(&self, job: &PipelineJob) -> usize {
        let variables = self.inherited.iter().chain(&self.own).map(|one| one.key.len() + one.value.len() + 32);
        let commands = job.script.iter().chain(&job.after_script).map(|command| command.len() + 32);
        1 + (variables.sum::<usize>() + commands.sum::<usize>()) / 64
    }
}

/// All layers in order; a key once, with the value of the last layer that has it.
fn merged(layers: &[&[YamlVariable]]) -> Vec<YamlVariable> {
    let mut at: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    let mut all: Vec<YamlVariable> = Vec::new();
    for one in layers.iter().flat_map(|layer| layer.iter()) {
        match at.get(one.key.as_str()) {
            Some(&at) => all[at] = one.clone(),
            None => {
                at.insert(&one.key, all.len());
                all.push(one.clone());
            }
        }
    }
    all
}

impl Draft {
    fn copy(&self, name: &str) -> Draft {
        Draft {
            entry: self.entry.clone(),
            job: PipelineJob { name: name.to_owned(), ..self.job.clone() },
            needs: self.needs.clone(),
            dependencies: self.dependencies.clone(),
            excluded: self.excluded,
            why_excluded: self.why_excluded,
        }
    }

    fn exclude(&mut self, why: &'static str) {
        if !self.excluded {
            self.excluded = true;
            self.why_excluded = why;
        }
    }
}

impl Word {
    fn of(when: When) -> Option<Word> {
        Some(match when {
            When::OnSuccess => Word::OnSuccess,
            When::OnFailure => Word::OnFailure,
            When::Always => Word::Always,
            When::Manual => Word::Manual,
            When::Delayed => Word::Delayed,
        })
    }
}
