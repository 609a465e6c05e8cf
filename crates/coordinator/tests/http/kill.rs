//! The process dies without warning, in the middle of everything.

use crate::server::{client, job, job_request, serve};
use ci_yaml::pipeline::Pipeline;
use coordinator::{Coordinator, JobStatus, NewPipeline, PipelineContext};
use gitlab_api::UpdateJob;
use gitlab_client::{Patch, PatchOutcome, UpdateOutcome};
use job::Secret;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PLACE: &str = "COORDINATOR_TEST_STATE";

/// Not a test of its own: the process that is killed. It does nothing unless it is told where.
#[tokio::test]
async fn server_process() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let coordinator = Coordinator::open(Path::new(&place)).unwrap();
    let (url, serving) = serve(&coordinator).await;
    println!("\nserving {url}");
    serving.await.unwrap();
}

fn start(place: &Path) -> (Child, String) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "kill::server_process", "--nocapture"]).env(PLACE, place).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("serving ").map(str::to_owned)).unwrap();
    (child, url)
}

#[tokio::test]
async fn a_killed_process_has_kept_what_it_promised() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let coordinator = Coordinator::open(&state).unwrap();
    let runner = Secret::new(coordinator.register_runner("test").unwrap());
    let project = coordinator.create_project("a/b", place.path()).unwrap();
    let context = PipelineContext { project, sha: "0".repeat(40), ref_name: "main".into(), ..PipelineContext::default() };
    let jobs = (0..6).map(|number| job(&format!("job {number}"), if number < 5 { "one" } else { "two" })).collect();
    let pipeline = Pipeline { stages: vec!["one".into(), "two".into()], jobs, ..Pipeline::default() };
    let id = coordinator.create_pipeline(NewPipeline { context, pipeline, only: Vec::new() }).unwrap();
    drop(coordinator);
    let mut promised: Vec<(u64, Secret, Vec<u8>)> = Vec::new();
    for round in 0..5_u8 {
        let (mut child, url) = start(&state);
        let client = client(&url);
        let update = |state: &str| UpdateJob { state: state.into(), ..UpdateJob::default() };
        if let Some((job, token, _)) = promised.last() {
            assert_eq!(client.update_job(*job, token, &update("success")).await.unwrap().0, UpdateOutcome::Accepted);
        }
        let taken = client.request_job(&runner, &job_request("")).await.unwrap().job.expect("a job waits");
        let token = Secret::new(taken.token.clone());
        assert_eq!(client.update_job(taken.id, &token, &update("running")).await.unwrap().0, UpdateOutcome::Accepted);
        let bytes = vec![b'0' + round; 1000 * usize::from(round + 1)];
        let (outcome, _) = client.patch_trace(taken.id, &token, Patch::at(0, bytes.clone())).await.unwrap();
        assert_eq!(outcome, PatchOutcome::Accepted);
        promised.push((taken.id, token.clone(), bytes.clone()));
        // More is under way when it dies.
        let busy = tokio::spawn(async move {
            let mut at = bytes.len() as u64;
            while client.patch_trace(taken.id, &token, Patch::at(at, vec![b'x'; 500_000])).await.is_ok() {
                at += 500_000;
            }
        });
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        busy.await.unwrap();
    }
    let coordinator = Coordinator::open(&state).unwrap();
    for (job, _, bytes) in promised {
        let stored = coordinator.read_trace(job, 0, usize::MAX).unwrap();
        let rest = stored.strip_prefix(bytes.as_slice()).expect("what was promised comes first");
        assert!(rest.iter().all(|byte| *byte == b'x'));
    }
    let statuses: Vec<_> = coordinator.pipeline(id).unwrap().jobs.into_iter().map(|job| job.status).collect();
    assert_eq!(&statuses[..4], [JobStatus::Success; 4]);
    assert_eq!(statuses[4..], [JobStatus::Running, JobStatus::Created]);
}
