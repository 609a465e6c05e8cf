//! Which jobs of a file a pipeline gets, when only some were asked for.
//!
//! A named job brings what it waits for: its `needs`, and without `needs` the jobs of all earlier stages, for that is
//! what it would find done in GitLab. Manual jobs of earlier stages and those that run after a failure only are not
//! brought, because the named job does not depend on them; a named manual job is started.

use crate::Error;
use ci_yaml::pipeline::{Pipeline, PipelineJob, When};
use std::collections::HashMap;

/// Positions in `pipeline.jobs`, in order.
///
/// # Errors
/// When a name or a need is not there.
pub fn select(pipeline: &Pipeline, only: &[String]) -> Result<Vec<usize>, Error> {
    let by_name: HashMap<&str, usize> = pipeline.jobs.iter().enumerate().map(|(index, job)| (job.name.as_str(), index)).collect();
    let stage: HashMap<&str, usize> = pipeline.stages.iter().enumerate().map(|(index, stage)| (stage.as_str(), index)).collect();
    let position = |job: &PipelineJob| stage.get(job.stage.as_str()).copied().unwrap_or(0);
    let mut queue = if only.is_empty() {
        (0..pipeline.jobs.len()).collect()
    } else {
        only.iter().map(|name| find(pipeline, &by_name, name)).collect::<Result<Vec<_>, _>>()?
    };
    let mut chosen = vec![false; pipeline.jobs.len()];
    // All jobs of stages before this one are chosen already.
    let mut whole_stages = 0;
    while let Some(index) = queue.pop() {
        if std::mem::replace(&mut chosen[index], true) {
            continue;
        }
        let job = &pipeline.jobs[index];
        for need in job.needs.iter().flatten() {
            match by_name.get(need.job.as_str()) {
                Some(needed) => queue.push(*needed),
                None if need.optional => {}
                None => return Err(Error::MissingNeed { job: job.name.clone(), need: need.job.clone() }),
            }
        }
        if job.needs.is_none() && !only.is_empty() && position(job) > whole_stages {
            let earlier = pipeline.jobs.iter().enumerate().filter(|(_, other)| {
                (whole_stages..position(job)).contains(&position(other)) && !matches!(other.when, When::Manual | When::OnFailure)
            });
            queue.extend(earlier.map(|(index, _)| index));
            whole_stages = position(job);
        }
    }
    let chosen: Vec<usize> = (0..pipeline.jobs.len()).filter(|index| chosen[*index]).collect();
    match in_a_cycle(pipeline, &chosen, &by_name) {
        // Such jobs would wait for ever.
        Some(index) => Err(Error::Cycle(pipeline.jobs[index].name.clone())),
        None => Ok(chosen),
    }
}

/// A job that is left when all jobs without unmet needs are taken away, again and again.
fn in_a_cycle(pipeline: &Pipeline, chosen: &[usize], by_name: &HashMap<&str, usize>) -> Option<usize> {
    let needs = |index: usize| {
        let needs = pipeline.jobs[index].needs.iter().flatten();
        needs.filter_map(|need| by_name.get(need.job.as_str()).copied())
    };
    let mut dependents = vec![Vec::new(); pipeline.jobs.len()];
    let mut unmet = vec![0_usize; pipeline.jobs.len()];
    for index in chosen.iter().copied() {
        for need in needs(index) {
            dependents[need].push(index);
            unmet[index] += 1;
        }
    }
    let mut free: Vec<usize> = chosen.iter().copied().filter(|index| unmet[*index] == 0).collect();
    while let Some(index) = free.pop() {
        for dependent in &dependents[index] {
            unmet[*dependent] -= 1;
            if unmet[*dependent] == 0 {
                free.push(*dependent);
            }
        }
    }
    chosen.iter().copied().find(|index| unmet[*index] > 0)
}

fn find(pipeline: &Pipeline, by_name: &HashMap<&str, usize>, name: &str) -> Result<usize, Error> {
    if let Some(index) = by_name.get(name) {
        return Ok(*index);
    }
    if pipeline.excluded.iter().any(|excluded| excluded == name) {
        return Err(Error::ExcludedJob(name.to_owned()));
    }
    let near = pipeline.jobs.iter().find(|job| job.name.eq_ignore_ascii_case(name)).map(|job| job.name.clone());
    Err(Error::UnknownJob { name: name.to_owned(), near })
}

#[cfg(test)]
mod tests {
    use super::select;
    use crate::Error;
    use ci_yaml::pipeline::{Need, Pipeline, PipelineJob, When};

    fn sample() -> Pipeline {
        let job = |name: &str, stage: &str| PipelineJob { name: name.into(), stage: stage.into(), ..PipelineJob::default() };
        let need = |name: &str, optional| Need { job: name.into(), artifacts: true, optional };
        Pipeline {
            stages: ["build", "test", "deploy"].map(str::to_owned).to_vec(),
            jobs: vec![
                job("compile", "build"),
                PipelineJob { when: When::Manual, ..job("rare", "build") },
                job("unit", "test"),
                PipelineJob { needs: Some(vec![need("compile", false), need("gone", true)]), ..job("quick", "test") },
                PipelineJob { needs: Some(vec![need("quick", false)]), when: When::Manual, ..job("ship", "deploy") },
                PipelineJob { needs: Some(vec![]), ..job("lint", "test") },
            ],
            excluded: vec!["nightly".into()],
        }
    }

    #[test]
    fn a_named_job_brings_what_it_waits_for() {
        let pipeline = sample();
        for (only, expected) in
            [(vec![], vec![0, 1, 2, 3, 4, 5]), (vec!["ship"], vec![0, 3, 4]), (vec!["unit"], vec![0, 2]), (vec!["lint"], vec![5])]
        {
            let names: Vec<String> = only.into_iter().map(str::to_owned).collect();
            assert_eq!(select(&pipeline, &names).unwrap(), expected, "{names:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_told_apart_from_one_left_out() {
        let pipeline = sample();
        let select = |name: &str| select(&pipeline, &[name.to_owned()]).unwrap_err().to_string();
        assert_eq!(select("Unit"), "there is no job \"Unit\" in the pipeline, did you mean \"unit\"?");
        assert_eq!(select("nightly"), "the job \"nightly\" is left out of this pipeline by its rules");
    }

    #[test]
    fn jobs_that_wait_for_each_other_are_refused() {
        let mut pipeline = sample();
        let need = |name: &str| Some(vec![Need { job: name.into(), artifacts: true, optional: false }]);
        pipeline.jobs[0].needs = need("ship");
        assert!(matches!(select(&pipeline, &[]), Err(Error::Cycle(name)) if name == "compile"));
        pipeline.jobs[0].needs = need("compile");
        assert!(matches!(select(&pipeline, &["ship".into()]), Err(Error::Cycle(_))));
        assert_eq!(select(&pipeline, &["lint".into()]).unwrap(), [5]);
    }

    #[test]
    fn a_need_that_is_not_there_is_an_error_unless_optional() {
        let mut pipeline = sample();
        pipeline.jobs.remove(0);
        assert!(matches!(select(&pipeline, &[]), Err(Error::MissingNeed { need, .. }) if need == "compile"));
    }
}
