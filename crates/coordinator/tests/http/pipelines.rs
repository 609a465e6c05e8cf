//! Pipelines: order, payload and variables.

use crate::server::{Server, job};
use ci_yaml::pipeline::{AllowFailure, Image, Need, PipelineJob, Service, When, YamlVariable};
use coordinator::{Error, JobStatus, PipelineStatus, User};
use gitlab_api::UpdateJob;
use std::time::{Duration, Instant};

fn variable(key: &str, value: &str) -> YamlVariable {
    YamlVariable { key: key.into(), value: value.into(), raw: false }
}

#[tokio::test]
async fn an_exit_code_decides_whether_a_failure_counts() {
    for (codes, told, status) in [
        (vec![42], Some(42), PipelineStatus::Success),
        (vec![42], Some(3), PipelineStatus::Failed),
        (vec![42], None, PipelineStatus::Failed),
    ] {
        let server = Server::start().await;
        let flaky = PipelineJob { allow_failure: AllowFailure::ExitCodes(codes), ..job("flaky", "one") };
        let pipeline = server.pipeline(&["one", "two"], vec![flaky, job("next", "two")]);
        let taken = server.take().await;
        let reason = Some("script_failure".to_owned());
        server.update(&taken, "failed", UpdateJob { exit_code: told, failure_reason: reason, ..UpdateJob::default() }).await;
        if status == PipelineStatus::Success {
            let next = server.take().await;
            server.end(&next, "success").await;
        }
        let state = server.coordinator.pipeline(pipeline).unwrap();
        assert_eq!(state.status, status, "{told:?}");
        assert_eq!((state.jobs[0].exit_code, state.jobs[0].failure_reason.as_deref()), (told, Some("script_failure")));
        assert_eq!(state.jobs[0].allow_failure, status == PipelineStatus::Success);
    }
}

#[tokio::test]
async fn a_named_manual_job_runs_and_an_unnamed_one_blocks() {
    let server = Server::start().await;
    let jobs = || vec![job("build", "one"), PipelineJob { when: When::Manual, ..job("ship", "two") }, job("after", "three")];
    let stages = ["one", "two", "three"];
    let blocked = server.pipeline(&stages, jobs());
    server.end(&server.take().await, "success").await;
    let state = server.coordinator.pipeline(blocked).unwrap();
    assert_eq!((state.status, state.jobs[1].manual), (PipelineStatus::Manual, true));
    let mut new = server.new_pipeline(&stages, jobs());
    new.only = vec!["ship".into()];
    let named = server.coordinator.create_pipeline(new).unwrap();
    server.end(&server.take().await, "success").await;
    let ship = server.take().await;
    assert!(ship.variables.iter().any(|one| one.key == "CI_JOB_MANUAL" && one.value == "true"));
    server.end(&ship, "success").await;
    let state = server.coordinator.pipeline(named).unwrap();
    assert_eq!((state.status, state.iid, state.jobs.len()), (PipelineStatus::Success, 2, 2));
}

#[tokio::test]
async fn a_pipeline_that_cannot_be_made_leaves_nothing() {
    let server = Server::start().await;
    assert!(matches!(server.coordinator.create_pipeline(server.new_pipeline(&["one"], vec![])), Err(Error::Empty)));
    let mut new = server.new_pipeline(&["one"], vec![job("a", "one")]);
    new.only = vec!["b".into()];
    assert!(matches!(server.coordinator.create_pipeline(new), Err(Error::UnknownJob { .. })));
    let need = Need { job: "gone".into(), artifacts: true, optional: false };
    let lost = PipelineJob { needs: Some(vec![need]), ..job("a", "one") };
    let new = server.new_pipeline(&["one"], vec![lost]);
    assert!(matches!(server.coordinator.create_pipeline(new), Err(Error::MissingNeed { .. })));
    let mut new = server.new_pipeline(&["one"], vec![job("a", "one")]);
    new.context.project = 99;
    assert!(matches!(server.coordinator.create_pipeline(new), Err(Error::NoProject(99))));
    assert!(server.request().await.is_none());
    for path in ["", "a//b", "../x", "a/../b", "a b", "api/x"] {
        assert!(matches!(server.coordinator.create_project(path, &server.repository), Err(Error::ProjectPath(_))), "{path}");
    }
}

#[tokio::test]
async fn a_payload_says_everything_about_its_job() {
    let server = Server::start().await;
    let full = PipelineJob {
        image: Some(Image { name: "alpine:$TAG".into(), user: Some("1000".into()), ..Image::default() }),
        services: vec![Service {
            image: Image { name: "postgres:17".into(), ..Image::default() },
            alias: "db, database".into(),
            command: vec!["postgres".into()],
            variables: vec![variable("POSTGRES_PASSWORD", "x")],
        }],
        after_script: vec!["echo over".into()],
        variables: vec![
            variable("TAG", "3"),
            variable("GIT_DEPTH", "5"),
            variable("TAG", "4"),
            variable("GITLAB_USER_LOGIN", "x"),
        ],
        timeout_seconds: Some(90),
        ..job("full: [a, b]", "one")
    };
    let mut new = server.new_pipeline(&["one"], vec![full]);
    new.context.user = User { login: "ada".into(), ..User::default() };
    new.context.variables = vec![("TAG".into(), "given".into()), ("SECRET".into(), "s".into())];
    server.coordinator.create_pipeline(new).unwrap();
    let payload = server.take().await;
    let raw = payload.clone();
    let job = payload.into_job().unwrap();
    assert!(job.unsupported.is_empty());
    let image = job.image.as_ref().unwrap();
    assert_eq!((image.name.as_str(), image.user.as_deref()), ("alpine:$TAG", Some("1000")));
    assert_eq!(
        (job.services[0].aliases.as_slice(), job.services[0].command.len()),
        (["db".into(), "database".into()].as_slice(), 1)
    );
    assert_eq!((job.steps.len(), job.steps[1].name.as_str(), job.steps[1].allow_failure), (2, "after_script", true));
    assert_eq!((job.timeout, job.git.depth), (Duration::from_secs(90), 5));
    assert!(job.features.trace_sections && job.features.failure_reasons.contains(&"image_pull_failure".to_owned()));
    for (key, expected) in [
        ("TAG", "given"),
        ("GITLAB_USER_LOGIN", "ada"),
        ("CI", "true"),
        ("CI_JOB_GROUP_NAME", "full"),
        ("CI_JOB_IMAGE", "alpine:$TAG"),
        ("CI_JOB_TIMEOUT", "90"),
        ("CI_PIPELINE_IID", "1"),
        ("CI_PROJECT_PATH_SLUG", "group-sub-project"),
        ("CI_REPOSITORY_URL", raw.git_info.repo_url.as_str()),
        ("CI_API_V4_URL", &format!("{}/api/v4", server.url)),
    ] {
        assert_eq!(job.variables.get(key), Some(expected), "{key}");
    }
    let flags = |key: &str| job.variables.find(key).map(|one| (one.public, one.masked)).unwrap();
    assert_eq!(flags("CI_JOB_TOKEN"), (false, true));
    assert_eq!(flags("CI_REPOSITORY_URL"), (false, false));
    assert_eq!(flags("SECRET"), (false, false));
    assert_eq!(flags("CI_JOB_ID"), (true, false));
    let before = server.coordinator.predefined(&server.new_pipeline(&[], vec![]).context).unwrap();
    assert!(before.contains(&("CI_COMMIT_BRANCH".into(), "main".into())) && before.iter().all(|(key, _)| key != "CI_JOB_TOKEN"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_jobs_cost_no_more_each_than_a_hundred() {
    let server = Server::start().await;
    let mut each = Vec::new();
    for count in [100_u32, 1000] {
        let jobs = (0..count).map(|index| job(&format!("job {index}"), if index < count / 2 { "one" } else { "two" })).collect();
        let pipeline = server.pipeline(&["one", "two"], jobs);
        let begin = Instant::now();
        for _ in 0..count {
            let taken = server.take().await;
            server.end(&taken, "success").await;
        }
        each.push(begin.elapsed() / count);
        assert_eq!(server.coordinator.pipeline(pipeline).unwrap().status, PipelineStatus::Success);
        assert!(server.statuses(pipeline).iter().all(|(_, status)| *status == JobStatus::Success));
    }
    println!("a job of 100: {:?}, a job of 1000: {:?}", each[0], each[1]);
    assert!(each[1] < each[0] * 3 + Duration::from_millis(5), "{each:?}");
}
