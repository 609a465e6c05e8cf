//! Needs become edges between jobs of this pipeline, and are checked as such.

use super::PlacedNeed;
use crate::compile::Context;
use crate::diagnostic::Place;
use crate::job::Draft;
use crate::pipeline::{Need, PipelineJob};
use crate::stages::Stages;
use std::collections::{HashMap, HashSet};

/// Where a need stands, the job it leads to, and what is needed of it.
struct Edge {
    place: Place,
    target: usize,
    need: Need,
}

struct Graph<'a> {
    context: &'a Context<'a>,
    stages: &'a Stages,
    drafts: &'a [Draft],
    /// Jobs by name, and all copies by the name in the file.
    by_name: HashMap<&'a str, Vec<usize>>,
    /// Whether no pass before this one found an error: only then is it certain which jobs `rules` leave out.
    sound: bool,
}

/// Finishes the jobs: needs and dependencies name jobs that are there.
pub(crate) fn resolve(context: &Context<'_>, stages: &Stages, drafts: Vec<Draft>) -> Vec<PipelineJob> {
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        by_name.entry(draft.entry.as_str()).or_default().push(at);
    }
    for (at, draft) in drafts.iter().enumerate().filter(|(_, draft)| draft.entry != draft.job.name) {
        by_name.entry(draft.job.name.as_str()).or_insert_with(|| vec![at]);
    }
    let graph = Graph { context, stages, drafts: &drafts, by_name, sound: !context.sink.has_errors() };
    let edges: Vec<Option<Vec<Edge>>> = (0..drafts.len()).map(|at| graph.needs(at)).collect();
    graph.check_circles(&edges);
    let dependencies: Vec<Option<Vec<String>>> = (0..drafts.len()).map(|at| graph.dependencies(at)).collect();
    let mut jobs = Vec::new();
    for ((draft, edges), dependencies) in drafts.into_iter().zip(edges).zip(dependencies) {
        if draft.excluded {
            continue;
        }
        let needs = edges.map(|edges| edges.into_iter().map(|edge| edge.need).collect());
        jobs.push(PipelineJob { needs, dependencies, ..draft.job });
    }
    jobs
}

impl Graph<'_> {
    /// Edges of one job, each with the job it leads to.
    fn needs(&self, at: usize) -> Option<Vec<Edge>> {
        let draft = &self.drafts[at];
        let mut edges = Vec::new();
        let mut seen = HashSet::new();
        for placed in draft.needs.as_ref()? {
            let PlacedNeed { place, need } = placed;
            let Some(targets) = self.by_name.get(need.job.as_str()) else {
                if !need.optional {
                    self.unknown(*place, &need.job, "needs");
                }
                continue;
            };
            if !self.context.spend(targets.len()) {
                return None;
            }
            for &target in targets {
                if self.is_reachable(at, target, placed) && seen.insert(target) {
                    let job = self.drafts[target].job.name.clone();
                    edges.push(Edge { place: *place, target, need: Need { job, ..need.clone() } });
                }
            }
        }
        Some(edges)
    }

    /// Whether the edge is there; says why not where that is a mistake.
    fn is_reachable(&self, from: usize, to: usize, placed: &PlacedNeed) -> bool {
        let (draft, target) = (&self.drafts[from], &self.drafts[to]);
        let (own, other) = (self.stages.position(&draft.job.stage), self.stages.position(&target.job.stage));
        // A stage that is not there was told already.
        if other > own && other != usize::MAX {
            let message = format!(
                "`{}` is in the stage `{}`, which comes after `{}`, the stage of `{}`",
                target.job.name, target.job.stage, draft.job.stage, draft.entry
            );
            self.context.sink.error(placed.place, message);
            return false;
        }
        if self.sound && target.excluded && !placed.need.optional && !draft.excluded {
            let message = format!("`{}` needs `{}`, which is not in this pipeline", draft.entry, target.job.name);
            let hint = format!("{}; with `optional: true` the job runs without it", target.why_excluded);
            self.context.sink.error_with_hint(placed.place, message, hint);
        }
        !target.excluded
    }

    fn unknown(&self, place: Place, name: &str, what: &str) {
        let message = format!("`{what}` names `{name}`, and there is no such job");
        match self.context.nearest(name, self.drafts.iter().map(|draft| draft.entry.as_str())) {
            Some(near) => self.context.sink.error_with_hint(place, message, format!("did you mean `{near}`?")),
            None => self.context.sink.error(place, message),
        }
    }

    /// Looks for a way from a job back to itself. Depth first, without recursion: a chain may be as long as the file.
    fn check_circles(&self, edges: &[Option<Vec<Edge>>]) {
        let of = |at: usize| edges[at].as_deref().unwrap_or_default();
        // 0: not seen, 1: on the way, 2: done.
        let mut state = vec![0u8; edges.len()];
        for start in 0..edges.len() {
            if state[start] != 0 {
                continue;
            }
            let mut way: Vec<(usize, usize)> = vec![(start, 0)];
            state[start] = 1;
            while let Some((at, next)) = way.last_mut() {
                let Some(edge) = of(*at).get(*next) else {
                    state[*at] = 2;
                    way.pop();
                    continue;
                };
                *next += 1;
                match state[edge.target] {
                    0 => {
                        state[edge.target] = 1;
                        way.push((edge.target, 0));
                    }
                    1 => {
                        self.circle(edge.place, edge.target, &way);
                        return;
                    }
                    _ => {}
                }
            }
        }
    }

    fn circle(&self, place: Place, target: usize, way: &[(usize, usize)]) {
        let names = way.iter().map(|(at, _)| *at).skip_while(|at| *at != target).chain([target]);
        let names: Vec<&str> = names.map(|at| self.drafts[at].job.name.as_str()).collect();
        self.context.sink.error(place, format!("`needs` goes in a circle: {}", names.join(" → ")));
    }

    fn dependencies(&self, at: usize) -> Option<Vec<String>> {
        let draft = &self.drafts[at];
        let mut names = Vec::new();
        for (place, name) in draft.dependencies.as_ref()? {
            let Some(targets) = self.by_name.get(name.as_str()) else {
                self.unknown(*place, name, "dependencies");
                continue;
            };
            if !self.context.spend(targets.len()) {
                return None;
            }
            if let Some(needs) = &draft.needs
                && !needs.iter().any(|placed| placed.need.job == *name)
            {
                self.context.sink.error(*place, format!("`dependencies` names `{name}`, which is not among the job's `needs`"));
            }
            for target in targets.iter().map(|&target| &self.drafts[target]) {
                let earlier = self.stages.position(&target.job.stage) < self.stages.position(&draft.job.stage);
                if !earlier && draft.needs.is_none() {
                    let message = format!("`dependencies` names `{name}`, which is not in an earlier stage");
                    self.context.sink.error(*place, message);
                } else if !target.excluded {
                    names.push(target.job.name.clone());
                }
            }
        }
        Some(names)
    }
}
