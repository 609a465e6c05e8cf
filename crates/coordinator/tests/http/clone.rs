//! The repository as git itself fetches it.

use crate::server::{Server, git, git_output, job};
use ci_yaml::pipeline::{PipelineJob, YamlVariable};
use gitlab_api::JobResponse;
use std::path::Path;

/// Three commits on `main`, and one on no branch, which is the one to check out.
fn fill(repository: &Path) -> String {
    for number in 1..=3 {
        std::fs::write(repository.join("file"), number.to_string()).unwrap();
        git(repository, &["add", "file"]);
        git(repository, &["commit", "-q", "-m", &format!("commit {number}")]);
    }
    std::fs::write(repository.join("file"), "working tree").unwrap();
    git(repository, &["add", "file"]);
    let tree = git(repository, &["write-tree"]);
    git(repository, &["commit-tree", &tree, "-p", "main", "-m", "snapshot"])
}

async fn take(server: &Server, sha: &str, jobs: Vec<PipelineJob>) -> JobResponse {
    let mut new = server.new_pipeline(&["test"], jobs);
    new.context.sha = sha.to_owned();
    server.coordinator.create_pipeline(new).unwrap();
    server.take().await
}

fn fetch(directory: &Path, url: &str, job: &JobResponse) -> std::process::Output {
    std::fs::create_dir_all(directory).unwrap();
    git(directory, &["init", "-q"]);
    let depth = format!("--depth={}", job.git_info.depth);
    let mut arguments = vec!["fetch", "-q", url];
    arguments.extend((job.git_info.depth > 0).then_some(depth.as_str()));
    arguments.extend(job.git_info.refspecs.iter().map(String::as_str));
    git_output(directory, &arguments)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_payload_leads_git_to_the_commit_even_when_it_is_on_no_branch() {
    let server = Server::start().await;
    let sha = fill(&server.repository);
    let deep = YamlVariable { key: "GIT_DEPTH".into(), value: "0".into(), raw: false };
    let all = PipelineJob { variables: vec![deep], ..job("all", "test") };
    let taken = take(&server, &sha, vec![job("shallow", "test"), all]).await;
    assert_eq!(taken.git_info.depth, 20);
    assert_eq!(taken.git_info.refspecs[1], "+refs/heads/main:refs/remotes/origin/main");
    let place = server.directory.path().join("clone");
    let (taken, whole) = (taken, server.take().await);
    assert_eq!(whole.git_info.depth, 0);
    blocking(move || {
        for (job, place) in [(&taken, place.join("shallow")), (&whole, place.join("all"))] {
            let fetched = fetch(&place, &job.git_info.repo_url, job);
            assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
            git(&place, &["checkout", "-q", "--detach", &job.git_info.sha]);
            assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "working tree");
            assert_eq!(git(&place, &["rev-list", "--count", "refs/remotes/origin/main"]), "3");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_needs_the_token_of_a_job_that_runs_and_nobody_can_push() {
    let server = Server::start().await;
    let sha = fill(&server.repository);
    let taken = take(&server, &sha, vec![job("a", "test")]).await;
    let good = taken.git_info.repo_url.clone();
    let other_project = server.directory.path().join("other");
    git(server.directory.path(), &["init", "-q", "other"]);
    server.coordinator.create_project("other/project", &other_project).unwrap();
    let place = server.directory.path().to_owned();
    let (token, url) = (taken.token.clone(), good.clone());
    blocking(move || {
        let clone = |url: &str, name: &str| git_output(&place, &["clone", "-q", url, name]).status.success();
        assert!(clone(&url, "good"));
        assert!(!clone(&url.replace(&token, "wrong"), "wrong"));
        assert!(!clone(&url.replace(&format!("gitlab-ci-token:{token}@"), ""), "nobody"));
        assert!(!clone(&url.replace("gitlab-ci-token", "somebody"), "somebody"));
        assert!(!clone(&url.replace("group/sub/project", "other/project"), "other-project"));
        assert!(!clone(&url.replace("group/sub/project", "../../etc"), "outside"));
        let push = git_output(&place.join("good"), &["push", "-q", &url, "HEAD:refs/heads/evil"]);
        assert!(!push.status.success());
    })
    .await;
    server.end(&taken, "success").await;
    let place = server.directory.path().to_owned();
    let over = blocking(move || git_output(&place, &["clone", "-q", &good, "over"])).await;
    assert!(!over.status.success(), "the job is over");
}

#[tokio::test]
async fn only_the_smart_protocol_is_served() {
    let server = Server::start().await;
    let sha = fill(&server.repository);
    let taken = take(&server, &sha, vec![job("a", "test")]).await;
    let http = reqwest::Client::new();
    for (path, expected) in [
        ("group/sub/project.git/info/refs?service=git-upload-pack", 200),
        ("group/sub/project.git/info/refs?service=git-receive-pack", 403),
        ("group/sub/project.git/info/refs", 404),
        ("group/sub/project.git/HEAD", 404),
        ("group/sub/project.git/objects/info/packs", 404),
        ("group/sub/project", 404),
        ("", 404),
    ] {
        let url = format!("{}/{path}", server.url);
        let answer = http.get(url).basic_auth("gitlab-ci-token", Some(&taken.token)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path}");
    }
    let anonymous = http.get(format!("{}/group/sub/project.git/info/refs?service=git-upload-pack", server.url));
    let answer = anonymous.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    assert!(answer.headers().contains_key("WWW-Authenticate"));
}
