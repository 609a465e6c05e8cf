//! Which jobs may start now: GitLab's rules over stages and `needs`, without a database or a clock.
//!
//! A change looks at the jobs that need the changed one and at one set of counters per stage, never at all jobs, so
//! that a pipeline of a thousand jobs costs a thousand small steps and not a million.

use crate::status::{JobStatus, PipelineStatus, pipeline_status};

/// When a job runs, with what stands before it known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All before it ended well.
    OnSuccess,
    /// One before it failed.
    OnFailure,
    /// In any case.
    Always,
    /// Somebody starts it.
    Manual,
}

impl Condition {
    /// GitLab's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnSuccess => "on_success",
            Self::OnFailure => "on_failure",
            Self::Always => "always",
            Self::Manual => "manual",
        }
    }

    /// Reads GitLab's word; anything else is the default.
    pub fn parse(text: &str) -> Self {
        [Self::OnFailure, Self::Always, Self::Manual]
            .into_iter()
            .find(|condition| condition.as_str() == text)
            .unwrap_or(Self::OnSuccess)
    }
}

/// A job as the rules see it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Position of its stage.
    pub stage: usize,
    /// Its status.
    pub status: JobStatus,
    /// Whether its failure does not count.
    pub allow_failure: bool,
    /// When it runs.
    pub when: Condition,
    /// Positions of the jobs it needs; `None` when it waits for all earlier stages.
    pub needs: Option<Vec<usize>>,
}

/// What stands before a job, when it is all over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prior {
    Success,
    Failed,
    Canceled,
    Skipped,
}

/// How many jobs have which status; the second index is `allow_failure`.
#[derive(Clone, Copy, Debug, Default)]
struct Counts([[u32; 2]; JobStatus::ALL.len()]);

impl Counts {
    fn add(&mut self, status: JobStatus, allowed: bool, by: i32) {
        let count = &mut self.0[status as usize][usize::from(allowed)];
        *count = count.saturating_add_signed(by);
    }

    fn join(&mut self, other: &Self) {
        for (ours, theirs) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *ours += theirs;
        }
    }

    fn present(&self) -> Vec<(JobStatus, bool)> {
        let all = JobStatus::ALL.into_iter().flat_map(|status| [(status, false), (status, true)]);
        all.filter(|(status, allowed)| self.0[*status as usize][usize::from(*allowed)] > 0).collect()
    }

    /// GitLab's composite status, `None` while something is not over.
    fn prior(&self) -> Option<Prior> {
        let present = self.present();
        let any = |wanted: &dyn Fn(JobStatus, bool) -> bool| present.iter().any(|(status, allowed)| wanted(*status, *allowed));
        let ignored = |status, allowed| status == JobStatus::Manual && allowed;
        if any(&|status, allowed| !status.is_final() && !ignored(status, allowed)) {
            None
        } else if present.is_empty() {
            Some(Prior::Success)
        } else if !any(&|status, allowed| status != JobStatus::Skipped && !ignored(status, allowed)) {
            Some(Prior::Skipped)
        } else if any(&|status, allowed| status == JobStatus::Failed && !allowed) {
            Some(Prior::Failed)
        } else if any(&|status, allowed| status == JobStatus::Canceled && !allowed) {
            Some(Prior::Canceled)
        } else {
            Some(Prior::Success)
        }
    }

    /// The same for the needs of a job: one that did not run at all is as bad as if all had not.
    fn prior_of_needs(&self, when: Condition) -> Option<Prior> {
        let is_out =
            |(status, allowed): &(JobStatus, bool)| *status == JobStatus::Skipped || (*status == JobStatus::Manual && *allowed);
        let out = self.present().iter().any(is_out);
        match self.prior() {
            Some(_) if out => Some(Prior::Skipped),
            None if out && when != Condition::Always => Some(Prior::Skipped),
            other => other,
        }
    }
}

/// What becomes of a created job.
fn next(when: Condition, prior: Prior, by_needs: bool) -> JobStatus {
    let well = prior == Prior::Success || (prior == Prior::Skipped && !by_needs);
    match when {
        Condition::OnSuccess if well => JobStatus::Pending,
        Condition::Manual if well => JobStatus::Manual,
        Condition::OnFailure if prior == Prior::Failed => JobStatus::Pending,
        Condition::Always if prior != Prior::Canceled => JobStatus::Pending,
        _ => JobStatus::Skipped,
    }
}

/// The jobs of a pipeline and how they wait for each other.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    dependents: Vec<Vec<usize>>,
    /// Per stage: created jobs that wait for all earlier stages.
    waiting: Vec<Vec<usize>>,
    counts: Vec<Counts>,
}

impl Graph {
    /// Takes the jobs as they are.
    pub fn new(nodes: Vec<Node>) -> Self {
        let stages = nodes.iter().map(|node| node.stage + 1).max().unwrap_or(0);
        let mut graph = Self {
            dependents: vec![Vec::new(); nodes.len()],
            waiting: vec![Vec::new(); stages],
            counts: vec![Counts::default(); stages],
            nodes,
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            graph.counts[node.stage].add(node.status, node.allow_failure, 1);
            match &node.needs {
                Some(needs) => needs.iter().for_each(|need| graph.dependents[*need].push(index)),
                None if node.status == JobStatus::Created => graph.waiting[node.stage].push(index),
                None => {}
            }
        }
        graph
    }

    /// Everything that can be decided from scratch; answers the jobs that changed.
    pub fn start(&mut self) -> Vec<(usize, JobStatus)> {
        let mut changes = Vec::new();
        for index in 0..self.nodes.len() {
            if self.nodes[index].needs.is_some() {
                self.decide_by_needs(index, &mut changes);
            }
        }
        let first = changes.iter().map(|(index, _)| *index).collect();
        self.settle(first, &mut changes);
        changes
    }

    /// A job has this status now; answers the jobs that changed because of it.
    pub fn set(&mut self, index: usize, status: JobStatus, allow_failure: bool) -> Vec<(usize, JobStatus)> {
        self.put(index, status, allow_failure);
        let mut changes = Vec::new();
        if status.is_final() || status == JobStatus::Manual {
            self.settle(vec![index], &mut changes);
        }
        changes
    }

    /// A job has this status now, and nothing follows from it: for cancelling all at once.
    pub fn put(&mut self, index: usize, status: JobStatus, allow_failure: bool) {
        let node = &mut self.nodes[index];
        self.counts[node.stage].add(node.status, node.allow_failure, -1);
        (node.status, node.allow_failure) = (status, allow_failure);
        self.counts[node.stage].add(status, allow_failure, 1);
    }

    /// Status of a job.
    pub fn status(&self, index: usize) -> JobStatus {
        self.nodes[index].status
    }

    /// Status of the whole.
    pub fn pipeline_status(&self) -> PipelineStatus {
        let mut all = Counts::default();
        self.counts.iter().for_each(|counts| all.join(counts));
        pipeline_status(&all.present())
    }

    fn settle(&mut self, mut queue: Vec<usize>, changes: &mut Vec<(usize, JobStatus)>) {
        loop {
            while let Some(index) = queue.pop() {
                for dependent in self.dependents[index].clone() {
                    if self.decide_by_needs(dependent, changes) {
                        queue.push(dependent);
                    }
                }
            }
            self.decide_by_stages(&mut queue, changes);
            if queue.is_empty() {
                return;
            }
        }
    }

    fn decide_by_needs(&mut self, index: usize, changes: &mut Vec<(usize, JobStatus)>) -> bool {
        let node = &self.nodes[index];
        if node.status != JobStatus::Created {
            return false;
        }
        let mut counts = Counts::default();
        for need in node.needs.iter().flatten() {
            counts.add(self.nodes[*need].status, self.nodes[*need].allow_failure, 1);
        }
        let Some(prior) = counts.prior_of_needs(node.when) else { return false };
        self.decide(index, prior, true, changes);
        true
    }

    fn decide_by_stages(&mut self, queue: &mut Vec<usize>, changes: &mut Vec<(usize, JobStatus)>) {
        let mut before = Counts::default();
        for stage in 0..self.waiting.len() {
            if !self.waiting[stage].is_empty() {
                let Some(prior) = before.prior() else { return };
                for index in std::mem::take(&mut self.waiting[stage]) {
                    if self.nodes[index].status == JobStatus::Created {
                        self.decide(index, prior, false, changes);
                        queue.push(index);
                    }
                }
            }
            before.join(&self.counts[stage]);
        }
    }

    fn decide(&mut self, index: usize, prior: Prior, by_needs: bool, changes: &mut Vec<(usize, JobStatus)>) {
        let (when, allowed) = (self.nodes[index].when, self.nodes[index].allow_failure);
        let status = next(when, prior, by_needs);
        self.put(index, status, allowed);
        changes.push((index, status));
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition as W, Graph, Node};
    use crate::status::{JobStatus as S, PipelineStatus as P};

    fn node(stage: usize, when: W, allow_failure: bool, needs: Option<&[usize]>) -> Node {
        Node { stage, status: S::Created, allow_failure, when, needs: needs.map(<[usize]>::to_vec) }
    }

    /// Runs to the end; job `n` ends as `outcomes[n]` says.
    fn play(nodes: Vec<Node>, outcomes: &[S]) -> (Vec<S>, P, Vec<usize>) {
        let allowed: Vec<bool> = nodes.iter().map(|node| node.allow_failure).collect();
        let count = nodes.len();
        let mut graph = Graph::new(nodes);
        let mut ready: std::collections::VecDeque<_> = graph.start().into();
        let mut order = Vec::new();
        while let Some((index, status)) = ready.pop_front() {
            if status == S::Pending {
                order.push(index);
                ready.extend(graph.set(index, outcomes[index], allowed[index]));
            }
        }
        ((0..count).map(|index| graph.status(index)).collect(), graph.pipeline_status(), order)
    }

    #[test]
    fn a_job_behind_one_other_runs_or_not_as_gitlab_says() {
        use S::{Canceled, Failed, Manual, Skipped, Success};
        // How the first ended, whether that is allowed, when the second runs: what becomes of it by stage, by need.
        for (first, allowed, when, by_stage, by_need) in [
            (Success, false, W::OnSuccess, Success, Success),
            (Success, false, W::OnFailure, Skipped, Skipped),
            (Success, false, W::Always, Success, Success),
            (Success, false, W::Manual, Manual, Manual),
            (Failed, false, W::OnSuccess, Skipped, Skipped),
            (Failed, false, W::OnFailure, Success, Success),
            (Failed, false, W::Always, Success, Success),
            (Failed, false, W::Manual, Skipped, Skipped),
            (Failed, true, W::OnSuccess, Success, Success),
            (Failed, true, W::OnFailure, Skipped, Skipped),
            (Failed, true, W::Always, Success, Success),
            (Canceled, false, W::OnSuccess, Skipped, Skipped),
            (Canceled, false, W::Always, Skipped, Skipped),
            (Canceled, true, W::OnSuccess, Success, Success),
        ] {
            for (needs, expected) in [(None, by_stage), (Some(&[0_usize][..]), by_need)] {
                let nodes = vec![node(0, W::OnSuccess, allowed, None), node(1, when, false, needs)];
                let (ended, ..) = play(nodes, &[first, Success]);
                assert_eq!(ended[1], expected, "{first:?} allowed={allowed} {when:?} needs={needs:?}");
            }
        }
    }

    #[test]
    fn a_job_behind_a_skipped_or_left_manual_one_runs_by_stage_but_not_by_need() {
        for (first, allowed) in [(W::OnFailure, false), (W::Manual, true)] {
            let by_stage = play(vec![node(0, first, allowed, None), node(1, W::OnSuccess, false, None)], &[S::Success; 2]);
            assert_eq!(by_stage.0[1], S::Success, "{first:?}");
            let by_need = play(vec![node(0, first, allowed, None), node(1, W::OnSuccess, false, Some(&[0]))], &[S::Success; 2]);
            assert_eq!((by_need.0[1], by_need.1), (S::Skipped, P::Skipped), "{first:?}");
            let always = play(vec![node(0, first, allowed, None), node(1, W::Always, false, Some(&[0]))], &[S::Success; 2]);
            assert_eq!(always.0[1], S::Success, "{first:?}");
        }
    }

    #[test]
    fn a_manual_job_that_counts_blocks_the_stages_after_it() {
        let nodes =
            vec![node(0, W::Manual, false, None), node(1, W::OnSuccess, false, None), node(1, W::OnSuccess, false, Some(&[]))];
        let (ended, status, _) = play(nodes, &[S::Success; 3]);
        assert_eq!((ended, status), (vec![S::Manual, S::Created, S::Success], P::Manual));
    }

    #[test]
    fn a_job_with_needs_does_not_wait_for_its_stage() {
        let mut graph = Graph::new(vec![
            node(0, W::OnSuccess, false, None),
            node(0, W::OnSuccess, false, None),
            node(1, W::OnSuccess, false, Some(&[0])),
            node(1, W::OnSuccess, false, None),
            node(2, W::OnSuccess, false, Some(&[])),
        ]);
        let at_once: Vec<_> = graph.start().into_iter().map(|(index, _)| index).collect();
        assert_eq!(at_once, [4, 0, 1]);
        assert_eq!(graph.set(0, S::Success, false), [(2, S::Pending)]);
        assert_eq!(graph.set(1, S::Success, false), [(3, S::Pending)]);
    }

    #[test]
    fn a_failure_skips_all_that_follows_and_runs_what_waits_for_it() {
        let nodes = vec![
            node(0, W::OnSuccess, false, None),
            node(1, W::OnSuccess, false, None),
            node(2, W::OnSuccess, false, Some(&[1])),
            node(3, W::OnFailure, false, None),
            node(3, W::Always, false, None),
        ];
        let (ended, status, order) = play(nodes, &[S::Failed, S::Success, S::Success, S::Success, S::Success]);
        assert_eq!(ended, [S::Failed, S::Skipped, S::Skipped, S::Success, S::Success]);
        assert_eq!((status, order), (P::Failed, vec![0, 3, 4]));
    }

    #[test]
    fn twenty_thousand_jobs_are_scheduled_in_seconds() {
        let nodes: Vec<_> = (0..20_000).map(|index| node(index / 500, W::OnSuccess, false, None)).collect();
        let begin = std::time::Instant::now();
        let (ended, status, _) = play(nodes, &vec![S::Success; 20_000]);
        assert!(ended.iter().all(|one| *one == S::Success) && status == P::Success);
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    }
}
