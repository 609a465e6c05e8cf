//! The repository as git itself fetches it.

use crate::server::{Server, git, git_output, job, wait_for};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_git_compresses_is_understood() {
    let server = Server::start().await;
    let sha = fill(&server.repository);
    for number in 0..150 {
        let tree = git(&server.repository, &["write-tree"]);
        let commit = git(&server.repository, &["commit-tree", &tree, "-m", &number.to_string()]);
        git(&server.repository, &["update-ref", &format!("refs/heads/branch-{number}"), &commit]);
    }
    let taken = take(&server, &sha, vec![job("a", "test")]).await;
    let (place, url) = (server.directory.path().to_owned(), taken.git_info.repo_url.clone());
    let (cloned, heads) = blocking(move || {
        // 150 wants are more than the 1,024 bytes from which git compresses.
        let cloned = git_output(&place, &["clone", "-q", "--mirror", &url, "mirror"]);
        (cloned, git(&place, &["-C", "mirror", "for-each-ref", "refs/heads"]).lines().count())
    })
    .await;
    assert!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    assert_eq!(heads, 151);
}

/// Programs that work on this repository.
fn programs(repository: &Path) -> usize {
    let wanted = format!("GIT_PROJECT_ROOT={}\0", repository.display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let environments = processes.filter_map(|one| std::fs::read(one.path().join("environ")).ok());
    environments.filter(|text| String::from_utf8_lossy(text).contains(&wanted)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_whose_client_goes_away_leaves_no_program() {
    let server = Server::start().await;
    fill(&server.repository);
    // More than all pipes and sockets on the way hold, and nothing that compresses.
    let mut noise = vec![0_u8; 64 * 1024 * 1024];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    std::fs::write(server.repository.join("noise"), noise).unwrap();
    git(&server.repository, &["add", "noise"]);
    git(&server.repository, &["commit", "-q", "-m", "noise"]);
    let sha = git(&server.repository, &["rev-parse", "HEAD"]);
    let taken = take(&server, &sha, vec![job("a", "test")]).await;
    let want = format!("0032want {sha}\n00000009done\n");
    let url = format!("{}/group/sub/project.git/git-upload-pack", server.url);
    let request = reqwest::Client::new().post(url).basic_auth("gitlab-ci-token", Some(&taken.token));
    let request = request.header("Content-Type", "application/x-git-upload-pack-request").body(want);
    let mut answer = request.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.chunk().await.unwrap().is_some());
    assert!(programs(&server.repository) > 0);
    drop(answer);
    let repository = server.repository.clone();
    wait_for("git to be gone", move || programs(&repository) == 0).await;
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
