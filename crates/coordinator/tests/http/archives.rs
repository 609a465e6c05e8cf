//! Archives up and down, with right and wrong tokens.

use crate::server::{Server, job, leaves, quick};
use ci_yaml::pipeline::{Artifacts, Need, PipelineJob, YamlVariable};
use coordinator::Settings;
use gitlab_api::JobResponse;
use gitlab_api::artifacts::UploadQuery;
use gitlab_client::ArtifactError;
use job::Secret;

async fn upload(server: &Server, job: &JobResponse, content: &[u8]) -> Result<(), ArtifactError> {
    let archive = server.directory.path().join("up.zip");
    std::fs::write(&archive, content).unwrap();
    let query = UploadQuery { artifact_format: "zip".into(), artifact_type: "archive".into(), expire_in: "1 week".into() };
    server.client.upload_artifact((job.id, &Secret::new(job.token.clone())), &query, "out.zip", &archive).await
}

async fn download(server: &Server, id: u64, token: &str) -> Result<Vec<u8>, ArtifactError> {
    let into = server.directory.path().join("down.zip");
    server.client.download_artifact((id, &Secret::new(token)), true, &into).await?;
    Ok(std::fs::read(&into).unwrap())
}

fn needs(job: PipelineJob, list: &[(&str, bool)]) -> PipelineJob {
    let need = |(name, artifacts): &(&str, bool)| Need { job: (*name).into(), artifacts: *artifacts, optional: false };
    PipelineJob { needs: Some(list.iter().map(need).collect()), ..job }
}

#[tokio::test]
async fn an_archive_goes_from_job_to_job_and_to_nobody_else() {
    let server = Server::start().await;
    server.pipeline(&["one", "two"], vec![leaves(job("make", "one"), "out/"), job("use", "two")]);
    let make = server.take().await;
    let wanted = &make.artifacts[0];
    assert_eq!((wanted.paths.as_slice(), wanted.expire_in.as_str()), (["out/".to_owned()].as_slice(), "1 week"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    upload(&server, &make, b"first try").await.unwrap();
    upload(&server, &make, &content).await.unwrap();
    server.end(&make, "success").await;
    assert!(matches!(upload(&server, &make, b"late").await, Err(ArtifactError::Refused { status: 403, .. })));
    let user = server.take().await;
    let given = &user.dependencies[0];
    assert_eq!((given.id, given.name.as_str(), given.artifacts_file.filename.as_str()), (make.id, "make", "out.zip"));
    assert_eq!(given.artifacts_file.size, content.len() as u64);
    assert!(download(&server, make.id, &given.token).await.unwrap() == content, "byte for byte");
    assert!(download(&server, make.id, &user.token).await.unwrap() == content, "a running job of the pipeline");
    server.pipeline(&["one"], vec![job("other", "one")]);
    let other = server.take().await;
    for token in ["", "wrong", other.token.as_str()] {
        assert!(matches!(download(&server, make.id, token).await, Err(ArtifactError::Refused { status: 403, .. })), "{token}");
    }
    assert!(matches!(download(&server, user.id, &user.token).await, Err(ArtifactError::NotFound)));
    assert!(matches!(download(&server, 999, &user.token).await, Err(ArtifactError::NotFound)));
    assert!(matches!(
        upload(&server, &JobResponse { token: "wrong".into(), ..other }, b"x").await,
        Err(ArtifactError::Refused { status: 403, .. })
    ));
    let kept = std::fs::read_dir(server.directory.path().join(format!("state/artifacts/{}", make.id))).unwrap().count();
    assert_eq!(kept, 1, "the first try is gone");
}

#[tokio::test]
async fn a_job_gets_the_archives_that_needs_and_dependencies_say() {
    let server = Server::start().await;
    let two = |name: &str| job(name, "two");
    let only_b = PipelineJob { dependencies: Some(vec!["b".into()]), ..two("dependencies") };
    let none = PipelineJob { dependencies: Some(Vec::new()), ..two("none") };
    server.pipeline(
        &["one", "two"],
        vec![
            leaves(job("a", "one"), "x"),
            leaves(job("b", "one"), "x"),
            job("empty", "one"),
            two("all"),
            only_b,
            none,
            needs(two("needs"), &[("a", true), ("b", false), ("empty", true)]),
        ],
    );
    for _ in 0..3 {
        let job = server.take().await;
        if job.job_info.name != "empty" {
            upload(&server, &job, b"zip").await.unwrap();
        }
        server.end(&job, "success").await;
    }
    for _ in 0..4 {
        let job = server.take().await;
        let names: Vec<_> = job.dependencies.iter().map(|one| one.name.as_str()).collect();
        let expected: &[&str] = match job.job_info.name.as_str() {
            "all" => &["a", "b"],
            "dependencies" => &["b"],
            "needs" => &["a"],
            _ => &[],
        };
        assert_eq!(names, expected, "{}", job.job_info.name);
    }
}

#[tokio::test]
async fn an_archive_that_is_too_large_or_broken_off_leaves_nothing() {
    let server = Server::with(Settings { artifact_limit: 1000, ..quick() }).await;
    server.pipeline(&["one"], vec![job("a", "one")]);
    let job = server.take().await;
    assert!(matches!(upload(&server, &job, &[b'x'; 200_000]).await, Err(ArtifactError::TooLarge)));
    assert!(matches!(upload(&server, &job, &[b'x'; 1001]).await, Err(ArtifactError::TooLarge)));
    let http = reqwest::Client::new();
    let head = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n";
    for (kind, query, body) in [
        ("multipart/form-data; boundary=B", "", format!("{head}cut off")),
        ("multipart/form-data; boundary=B", "", "no form".to_owned()),
        ("application/json", "", "{}".to_owned()),
        ("multipart/form-data; boundary=B", "?artifact_format=../x", format!("{head}x\r\n--B--\r\n")),
    ] {
        let url = format!("{}/api/v4/jobs/{}/artifacts{query}", server.url, job.id);
        let request = http.post(url).header("JOB-TOKEN", &job.token).header("Content-Type", kind);
        assert_eq!(request.body(body).send().await.unwrap().status().as_u16(), 400, "{kind} {query}");
    }
    upload(&server, &job, &[b'x'; 1000]).await.unwrap();
    let incoming = std::fs::read_dir(server.directory.path().join("state/artifacts/incoming")).unwrap().count();
    assert_eq!(incoming, 0);
}

#[tokio::test]
async fn variables_of_a_dotenv_report_reach_the_jobs_that_get_its_archives() {
    let server = Server::start().await;
    let artifacts = Artifacts { dotenv: vec!["build.env".into()], ..Artifacts::default() };
    let make = PipelineJob { artifacts: Some(artifacts), ..job("make", "one") };
    let none = PipelineJob { dependencies: Some(Vec::new()), ..job("none", "two") };
    let variable = YamlVariable { key: "VERSION".into(), value: "of the file".into(), ..YamlVariable::default() };
    let user = PipelineJob { variables: vec![variable], ..job("use", "two") };
    server.pipeline(&["one", "two"], vec![make, user, none, needs(job("apart", "two"), &[("make", false)])]);
    let make = server.take().await;
    let wanted = &make.artifacts[0];
    let said = (wanted.artifact_type.as_str(), wanted.artifact_format.as_str(), wanted.when.as_str());
    assert_eq!((said, wanted.paths.as_slice()), (("dotenv", "gzip", "always"), ["build.env".to_owned()].as_slice()));
    let report = async |text: &str| {
        let packed = server.directory.path().join("dotenv.gz");
        let mut encoder = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let query = UploadQuery { artifact_format: "gzip".into(), artifact_type: "dotenv".into(), ..UploadQuery::default() };
        server.client.upload_artifact((make.id, &Secret::new(make.token.clone())), &query, "dotenv.gz", &packed).await
    };
    assert!(report("no variable").await.is_err());
    assert!(report(&format!("A={}", "x".repeat(6000))).await.is_err());
    report("VERSION=1\nFIRST=try").await.unwrap();
    report("VERSION=2\nURL=http://x/?a=b").await.unwrap();
    server.end(&make, "success").await;
    for _ in 0..3 {
        let job = server.take().await;
        let value = |key: &str| job.variables.iter().rfind(|one| one.key == key).map(|one| one.value.clone());
        let values = (value("VERSION"), value("URL"), value("FIRST"));
        let text = |text: &str| Some(text.to_owned());
        let expected = if job.job_info.name == "use" { (text("2"), text("http://x/?a=b"), None) } else { (None, None, None) };
        assert_eq!(values, expected, "{}", job.job_info.name);
        assert!(job.dependencies.is_empty(), "a report is no archive");
        server.end(&job, "success").await;
    }
}
