//! The source: every strategy, submodules, logins, and what an earlier job may have left.

use super::Pod;
use crate::gitlab::repositories::Repositories;
use job::{Secret, Variable};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs git as somebody; what it printed.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(directory: &Path, file: &str, text: &str) -> String {
    std::fs::write(directory.join(file), text).unwrap();
    git(directory, &["add", "--all"]);
    git(directory, &["commit", "--quiet", &format!("--message={file}")]);
    git(directory, &["rev-parse", "HEAD"])
}

fn repository(directory: &Path, file: &str) -> String {
    std::fs::create_dir_all(directory).unwrap();
    git(directory, &["init", "--quiet", "--initial-branch=main"]);
    commit(directory, file, &format!("{file}\n"))
}

fn set(pod: &mut Pod, variables: &[(&str, &str)]) {
    pod.job.variables.extend(variables.iter().map(|(name, value)| Variable::public(*name, *value)));
}

/// The next job in the same place.
async fn again(pod: &mut Pod) {
    pod.gitlab = crate::gitlab::Gitlab::start().await;
}

async fn succeed(pod: &Pod) -> String {
    let (run, ..) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!(run, 0, "{trace}");
    trace
}

#[tokio::test]
async fn each_strategy_leaves_the_directory_it_promises() {
    let mut pod = Pod::new(&["echo \"in $CI_PROJECT_DIR\"", "pwd", "ls -A"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "clone")]);
    let trace = succeed(&pod).await;
    for line in [
        "Fetching changes with git depth set to 20...",
        "Initialized empty Git repository in",
        "Created fresh repository.",
        "as detached HEAD (ref is main)...",
        "Skipping Git submodules setup",
    ] {
        assert!(trace.contains(line), "{line} is not in\n{trace}");
    }
    std::fs::write(pod.path("builds/project/left"), "x").unwrap();
    again(&mut pod).await;
    set(&mut pod, &[("GIT_STRATEGY", "none")]);
    let trace = succeed(&pod).await;
    assert!(trace.contains("Skipping Git repository setup") && trace.contains("\nleft\n"), "{trace}");
    again(&mut pod).await;
    set(&mut pod, &[("GIT_STRATEGY", "clone")]);
    let trace = succeed(&pod).await;
    assert!(!trace.contains("\nleft\n") && trace.contains("\nREADME\n"), "{trace}");
    again(&mut pod).await;
    set(&mut pod, &[("GIT_STRATEGY", "empty")]);
    let trace = succeed(&pod).await;
    let empty = pod.path("builds/project-empty").display().to_string();
    assert!(trace.contains(&format!("\nin {empty}\n")) && !trace.contains("README"), "{trace}");
}

#[tokio::test]
async fn a_word_that_is_no_strategy_is_said_and_the_default_taken() {
    let mut pod = Pod::new(&["cat README"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "pull")]);
    let trace = succeed(&pod).await;
    assert!(trace.contains("WARNING: GIT_STRATEGY: expected one of") && trace.contains("\nfrom git\n"), "{trace}");
}

#[tokio::test]
async fn a_shallow_clone_becomes_whole_when_the_depth_goes() {
    let mut pod = Pod::new(&["echo \"commits $(git rev-list --count HEAD)\""]).await;
    for number in 0..4 {
        pod.job.git.sha = commit(&pod.path("origin"), "more", &number.to_string());
    }
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    pod.job.git.depth = 2;
    assert!(succeed(&pod).await.contains("\ncommits 2\n"));
    again(&mut pod).await;
    pod.job.git.depth = 0;
    let trace = succeed(&pod).await;
    assert!(trace.contains("\ncommits 5\n") && trace.contains("Fetching changes...\u{1b}"), "{trace}");
}

#[tokio::test]
async fn refspecs_and_extra_flags_decide_what_comes() {
    let mut pod = Pod::new(&["git for-each-ref --format='has %(refname)'"]).await;
    git(&pod.path("origin"), &["tag", "v1"]);
    git(&pod.path("origin"), &["branch", "other"]);
    set(&mut pod, &[("GIT_FETCH_EXTRA_FLAGS", "--no-tags --quiet")]);
    pod.job.git.refspecs = vec!["+refs/heads/main:refs/remotes/origin/main".into(), "+refs/heads/main:refs/pipelines/7".into()];
    let trace = succeed(&pod).await;
    let mut refs: Vec<_> = trace.lines().filter_map(|line| line.strip_prefix("has ")).collect();
    refs.sort_unstable();
    assert_eq!(refs, ["refs/pipelines/7", "refs/remotes/origin/main"], "{trace}");
}

#[tokio::test]
async fn a_job_may_leave_the_tree_alone() {
    let mut pod = Pod::new(&["cat README", "git rev-parse origin/main"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    succeed(&pod).await;
    let new = commit(&pod.path("origin"), "README", "newer\n");
    pod.job.git.sha.clone_from(&new);
    again(&mut pod).await;
    set(&mut pod, &[("GIT_CHECKOUT", "false")]);
    let trace = succeed(&pod).await;
    assert!(
        trace.contains("Skipping Git checkout") && trace.contains("\nfrom git\n") && trace.contains(&format!("\n{new}\n")),
        "{trace}"
    );
}

#[tokio::test]
async fn repositories_of_long_hashes_are_cloned_and_fetched() {
    let mut pod = Pod::new(&["git rev-parse HEAD"]).await;
    let origin = pod.path("long");
    std::fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "--quiet", "--initial-branch=main", "--object-format=sha256"]);
    pod.job.git.sha = commit(&origin, "a", "a");
    assert_eq!(pod.job.git.sha.len(), 64);
    pod.job.git.object_format = "sha256".into();
    pod.job.git.repo_url = Secret::new(format!("file://{}", origin.display()));
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    for round in ["b", "c"] {
        let trace = succeed(&pod).await;
        assert!(trace.contains(&format!("\n{}\n", pod.job.git.sha)), "{trace}");
        again(&mut pod).await;
        pod.job.git.sha = commit(&origin, round, round);
    }
}

#[tokio::test]
async fn what_a_killed_or_hostile_job_left_neither_stops_nor_runs() {
    let mut pod = Pod::new(&["cat README"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    succeed(&pod).await;
    let repository = pod.path("builds/project/.git");
    let ran = pod.path("ran");
    for lock in ["index.lock", "shallow.lock", "HEAD.lock", "config.lock", "refs/remotes/origin/main.lock"] {
        std::fs::write(repository.join(lock), "").unwrap();
    }
    let evil = format!("#!/bin/sh\ntouch {}\n", ran.display());
    std::fs::create_dir_all(repository.join("hooks")).unwrap();
    let hook = repository.join("hooks/post-checkout");
    std::fs::write(&hook, &evil).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(repository.join("config"), format!("[core]\n\tfsmonitor = {}\n", hook.display())).unwrap();
    pod.job.git.sha = commit(&pod.path("origin"), "README", "newer\n");
    again(&mut pod).await;
    let trace = succeed(&pod).await;
    assert!(trace.contains("\nnewer\n") && !ran.exists(), "{trace}");
}

#[tokio::test]
async fn settings_are_kept_where_the_runner_says_so() {
    let mut pod = Pod::new(&["git config test.kept || echo gone", "git config --get-all include.path"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    pod.settings.clean_git_config = Some(false);
    succeed(&pod).await;
    git(&pod.path("builds/project"), &["config", "test.kept", "kept"]);
    again(&mut pod).await;
    let trace = succeed(&pod).await;
    assert!(trace.contains("\nkept\n") && trace.matches("ext.conf\n").count() == 1, "{trace}");
    again(&mut pod).await;
    pod.settings.clean_git_config = None;
    assert!(succeed(&pod).await.contains("\ngone\n"));
}

#[tokio::test]
async fn a_clone_path_counts_below_the_builds_directory_only() {
    let mut pod = Pod::new(&["cat README", "pwd"]).await;
    set(&mut pod, &[("GIT_CLONE_PATH", "$CI_BUILDS_DIR/else/where")]);
    let trace = succeed(&pod).await;
    let place = pod.path("builds/else/where").display().to_string();
    assert!(trace.contains(&format!("\n{place}\n")) && trace.contains("\nfrom git\n"), "{trace}");
    again(&mut pod).await;
    set(&mut pod, &[("GIT_CLONE_PATH", "$CI_BUILDS_DIR/../else")]);
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_configuration_error"), "{}", pod.gitlab.trace());
    assert!(pod.gitlab.trace().contains("has to be within"), "{}", pod.gitlab.trace());
}

/// A project with a submodule that has one itself, all behind a login.
async fn with_submodules(script: &[&str], address: impl Fn(&Repositories, &str) -> String) -> (Pod, Repositories) {
    let mut pod = Pod::new(script).await;
    let root = pod.path("served");
    for (name, file) in [("deep", "deep-file"), ("other", "other-file"), ("sub", "sub-file"), ("project", "README")] {
        repository(&root.join(name), file);
    }
    let server = Repositories::start(&root).await;
    let add = |to: &str, what: &str| {
        let (directory, url) = (root.join(to), root.join(what).display().to_string());
        git(&directory, &["submodule", "--quiet", "add", &url, &format!("path-{what}")]);
        git(&directory, &["config", "--file", ".gitmodules", &format!("submodule.path-{what}.url"), &address(&server, what)]);
        git(&directory, &["add", "--all"]);
        git(&directory, &["commit", "--quiet", "--message=add"]);
        git(&directory, &["rev-parse", "HEAD"])
    };
    add("sub", "deep");
    add("project", "sub");
    pod.job.git.sha = add("project", "other");
    pod.job.git.repo_url = Secret::new(server.url("project"));
    pod.job.variables.push(Variable { masked: true, ..Variable::internal("CI_JOB_TOKEN", "job-token-7") });
    (pod, server)
}

#[tokio::test]
async fn submodules_come_with_the_projects_login_and_fetch_in_scripts() {
    let script = [
        "cat path-sub/sub-file path-other/other-file",
        "ls path-sub/path-deep",
        "! grep -r job-token .git \"$CI_PROJECT_DIR.tmp/.gitlab-runner.ext.conf\"",
        "git fetch --quiet origin && git -C path-sub fetch --quiet origin && echo fetched",
        "git remote get-url origin",
    ];
    let (mut pod, server) = with_submodules(&script, Repositories::plain_url).await;
    set(&mut pod, &[("GIT_SUBMODULE_STRATEGY", "normal")]);
    pod.settings.correlation_id = "request-9".into();
    let trace = succeed(&pod).await;
    for line in [
        "Updating/initializing submodules with git depth set to 20...",
        "Updated submodules",
        "Configuring submodules to use parent git credentials...",
        "Gitaly correlation ID: request-9",
        "\nsub-file\nother-file\n",
        "\nfetched\n",
    ] {
        assert!(trace.contains(line), "{line} is not in\n{trace}");
    }
    assert!(!trace.contains("\ndeep-file\n") && trace.contains(&format!("\n{}\n", server.plain_url("project"))), "{trace}");
    for name in ["project", "sub"] {
        let ids = server.headers(name, "X-Gitaly-Correlation-ID");
        assert!(ids.len() > 1 && ids.iter().all(|id| id == "request-9"), "{name}: {ids:?}");
    }
    assert!(server.headers("project", "User-Agent")[0].starts_with("gitlab-runner 1.0 linux/"));
}

#[tokio::test]
async fn submodules_of_submodules_come_when_asked_for_and_are_cleaned_the_next_time() {
    let (mut pod, _server) =
        with_submodules(&["cat path-sub/path-deep/deep-file", "ls path-sub path-sub/path-deep"], Repositories::plain_url).await;
    set(&mut pod, &[("GIT_SUBMODULE_STRATEGY", "recursive"), ("GIT_SUBMODULE_DEPTH", "1"), ("GIT_STRATEGY", "fetch")]);
    let trace = succeed(&pod).await;
    assert!(trace.contains("submodules recursively with git depth set to 1...") && trace.contains("\ndeep-file\n"), "{trace}");
    let project = pod.path("builds/project");
    for file in ["path-sub/left", "path-sub/path-deep/left"] {
        std::fs::write(project.join(file), "x").unwrap();
    }
    std::fs::write(project.join("path-sub/sub-file"), "changed\n").unwrap();
    std::fs::write(project.join(".git/modules/path-sub/index.lock"), "").unwrap();
    again(&mut pod).await;
    let trace = succeed(&pod).await;
    assert!(!trace.contains("\nleft\n") && trace.contains("\ndeep-file\n"), "{trace}");
    assert_eq!(std::fs::read_to_string(project.join("path-sub/sub-file")).unwrap(), "sub-file\n");
}

#[tokio::test]
async fn only_the_submodules_that_are_asked_for_come() {
    let (mut pod, server) = with_submodules(&["ls path-sub path-other"], Repositories::plain_url).await;
    let paths = ("GIT_SUBMODULE_PATHS", ":(exclude)path-sub");
    set(&mut pod, &[("GIT_SUBMODULE_STRATEGY", "normal"), paths, ("GIT_SUBMODULE_UPDATE_FLAGS", "--jobs 2 --quiet")]);
    let trace = succeed(&pod).await;
    assert!(trace.contains("other-file") && !trace.contains("sub-file"), "{trace}");
    assert!(server.headers("sub", "User-Agent").is_empty());
}

#[tokio::test]
async fn addresses_for_ssh_can_be_made_https() {
    let (mut pod, _server) = with_submodules(&["cat path-sub/sub-file"], |_, name| format!("git@127.0.0.1:{name}")).await;
    set(
        &mut pod,
        &[("GIT_SUBMODULE_STRATEGY", "normal"), ("GIT_SUBMODULE_FORCE_HTTPS", "true"), ("CI_SERVER_HOST", "127.0.0.1")],
    );
    let trace = succeed(&pod).await;
    assert!(trace.contains("\nsub-file\n"), "{trace}");
}

#[tokio::test]
async fn submodules_that_fail_once_are_tried_again() {
    let (mut pod, server) = with_submodules(&["cat path-sub/sub-file"], Repositories::plain_url).await;
    set(&mut pod, &[("GIT_SUBMODULE_STRATEGY", "normal")]);
    server.fail_for("sub", 2);
    let trace = succeed(&pod).await;
    assert!(trace.contains("Updating submodules failed. Retrying...") && trace.contains("\nsub-file\n"), "{trace}");
}

#[tokio::test]
async fn an_unknown_submodule_strategy_fails_the_job() {
    let mut pod = Pod::new(&["echo not to be seen"]).await;
    set(&mut pod, &[("GIT_SUBMODULE_STRATEGY", "sometimes")]);
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(pod.gitlab.trace().contains("unknown GIT_SUBMODULE_STRATEGY \"sometimes\""), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn a_refused_login_ends_the_job_and_asks_nobody() {
    let (mut pod, server) = with_submodules(&["echo not to be seen"], Repositories::plain_url).await;
    pod.job.git.repo_url = Secret::new(server.url("project").replace("job-token-7", "wrong-token-9"));
    pod.job.variables.push(Variable::internal("CI_JOB_TOKEN", "wrong-token-9"));
    let (_, _, verdict) = pod.finish().await;
    let trace = pod.gitlab.trace();
    assert_eq!((verdict.failure_reason.as_deref(), verdict.exit_code), (Some("script_failure"), Some(1)), "{trace}");
    assert!(trace.contains("Authentication failed") && trace.contains("ERROR: git fetch failed"), "{trace}");
    assert!(!trace.contains("wrong-token-9") && !trace.contains("not to be seen\n"), "{trace}");
}

#[tokio::test]
async fn a_failed_fetch_is_tried_as_often_as_asked_for_on_a_clean_tree() {
    let (mut pod, server) = with_submodules(&["cat README", "ls -A"], Repositories::plain_url).await;
    std::fs::create_dir_all(pod.path("builds/project")).unwrap();
    std::fs::write(pod.path("builds/project/left"), "x").unwrap();
    set(
        &mut pod,
        &[("GIT_STRATEGY", "fetch"), ("GET_SOURCES_ATTEMPTS", "3"), ("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false")],
    );
    server.fail_for("project", 2);
    let trace = succeed(&pod).await;
    assert_eq!(trace.matches("Getting source from Git repository").count(), 3, "{trace}");
    assert_eq!(trace.matches("Deleting all tracked and untracked files due to source fetch failure").count(), 1, "{trace}");
    assert!(trace.contains("\nREADME\n") && !trace.contains("\nleft\n"), "{trace}");
}

#[tokio::test]
async fn hooks_run_in_the_helper_around_the_source() {
    let mut pod = Pod::new(&["cat order"]).await;
    let hook = |name: &str, line: String| job::Hook { name: name.into(), script: vec![line] };
    let order = pod.path("order").display().to_string();
    let note = |word: &str| format!("echo {word} $WORD >> {order}");
    set(&mut pod, &[("WORD", "said")]);
    pod.job.hooks = vec![
        hook("pre_get_sources_script", note("pre-job")),
        hook("post_get_sources_script", format!("{}; [ -e README ]", note("post-job"))),
    ];
    pod.settings.pre_get_sources_script = format!("[ ! -e README ]; {}", note("pre-runner"));
    pod.settings.post_get_sources_script = format!("{}; cp {order} order", note("post-runner"));
    let trace = succeed(&pod).await;
    assert!(trace.contains("\npre-runner said\npre-job said\npost-job said\npost-runner said\n"), "{trace}");
    assert!(trace.contains("$ echo pre-job $WORD >> "), "{trace}");
    again(&mut pod).await;
    pod.job.hooks = vec![hook("pre_get_sources_script", "exit 4".into())];
    let (_, _, verdict) = pod.finish().await;
    assert_eq!(verdict.failure_reason.as_deref(), Some("script_failure"));
    assert!(pod.gitlab.trace().contains("ERROR: pre_get_sources_script failed"), "{}", pod.gitlab.trace());
}

#[tokio::test]
async fn large_files_are_fetched_after_the_checkout_where_there_are_some() {
    let mut pod = Pod::new(&["true"]).await;
    let program = pod.path("bin/git-lfs");
    std::fs::create_dir(pod.path("bin")).unwrap();
    std::fs::write(&program, "#!/bin/sh\necho \"git-lfs $* skip=$GIT_LFS_SKIP_SMUDGE\"\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    pod.programs = Some(pod.path("bin"));
    assert!(!succeed(&pod).await.contains("git-lfs pull"), "the repository has none");
    pod.job.git.sha = commit(&pod.path("origin"), ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    again(&mut pod).await;
    let trace = succeed(&pod).await;
    assert!(trace.contains("git-lfs pull skip=1"), "{trace}");
    again(&mut pod).await;
    set(&mut pod, &[("GIT_LFS_SKIP_SMUDGE", "1")]);
    assert!(!succeed(&pod).await.contains("git-lfs pull"), "the job wants none");
}

#[tokio::test]
async fn a_job_brings_settings_of_its_own_for_git() {
    let mut pod = Pod::new(&["cat README"]).await;
    let origin = pod.path("origin").display().to_string();
    pod.job.git.repo_url = Secret::new("https://elsewhere.invalid/project");
    let rule = format!("url.file://{origin}.insteadOf");
    set(
        &mut pod,
        &[("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", &rule), ("GIT_CONFIG_VALUE_0", "https://elsewhere.invalid/project")],
    );
    assert!(succeed(&pod).await.contains("\nfrom git\n"));
}

#[tokio::test]
async fn the_runner_can_have_the_directory_cleaned_at_the_end() {
    let mut pod = Pod::new(&["touch left"]).await;
    set(&mut pod, &[("GIT_STRATEGY", "fetch")]);
    pod.settings.feature_flags.insert("FF_ENABLE_JOB_CLEANUP".into(), true);
    succeed(&pod).await;
    assert!(!pod.path("builds/project/left").exists() && pod.path("builds/project/.git").exists());
    again(&mut pod).await;
    set(&mut pod, &[("GIT_STRATEGY", "clone")]);
    succeed(&pod).await;
    assert!(!pod.path("builds/project").exists());
}
