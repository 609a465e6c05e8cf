//! A GitLab in this process that pods of the node reach, with one project, and managers that ask it for jobs.

use crate::bench::{Bench, Program, gantry, wait_for};
use coordinator::{Commit, Coordinator, JobState, NewPipeline, PipelineContext, PipelineId, ProjectId};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

pub struct GitLab<'a> {
    pub bench: &'a Bench,
    pub coordinator: Coordinator,
    project: ProjectId,
    sha: String,
    config: String,
}

struct OneFile<'a>(&'a str);

impl ci_yaml::Files for OneFile<'_> {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok((path == ".gitlab-ci.yml").then(|| self.0.to_owned()))
    }
}

impl<'a> GitLab<'a> {
    /// GitLab, and the configuration of its managers with `kubernetes` as more lines of that table.
    pub fn start(bench: &'a Bench, kubernetes: &str) -> Self {
        let repository = bench.path("repository");
        let sha = commit(&repository);
        let _inside = bench.runtime.enter();
        let coordinator = Coordinator::open(&bench.path("coordinator")).unwrap();
        let (gateway, port) = (bench.gateway, bench.ports[0]);
        let listener = bench.runtime.block_on(tokio::net::TcpListener::bind((gateway, port))).unwrap();
        let url = format!("http://{gateway}:{port}");
        coordinator.set_url(&url);
        let router = coordinator.router();
        bench.runtime.spawn(async move { axum::serve(listener, router).await });
        let token = coordinator.register_runner("test").unwrap();
        let project = coordinator.create_project("group/project", &repository).unwrap();
        let config = format!(
            "concurrent = 4\ncheck_interval = 1\n[[runners]]\nname = \"test\"\nurl = \"{url}\"\ntoken = \"{token}\"\n\
             executor = \"kubernetes\"\noutput_limit = 200000\n[runners.kubernetes]\nimage = \"host\"\n{kubernetes}\n"
        );
        std::fs::write(bench.path("config.toml"), &config).unwrap();
        Self { bench, coordinator, project, sha, config }
    }

    /// A manager in a process of its own; the name is that of its log.
    pub fn manager(&self, name: &str) -> Program {
        assert!(self.config.contains("[[runners]]"));
        let mut command = gantry();
        command.args(["run", "-c"]).arg(self.bench.path("config.toml")).env("KUBECONFIG", &self.bench.kubeconfig);
        Program::start(command, &self.bench.path(name))
    }

    /// A pipeline of one job with this script.
    pub fn job(&self, script: &str) -> PipelineId {
        let lines: String = script.lines().map(|line| format!("      {line}\n")).collect();
        let yaml = format!("build:\n  script:\n    - |\n{lines}");
        let input = ci_yaml::Input { path: ".gitlab-ci.yml", files: &OneFile(&yaml), variables: &[], overrides: &[] };
        let pipeline = ci_yaml::compile(&input).unwrap_or_else(|wrong| panic!("{}", wrong.render(false))).pipeline;
        let context = PipelineContext {
            project: self.project,
            sha: self.sha.clone(),
            ref_name: "main".to_owned(),
            default_branch: "main".to_owned(),
            commit: Commit { message: "test".to_owned(), ..Commit::default() },
            source: "push".to_owned(),
            ..PipelineContext::default()
        };
        self.coordinator.create_pipeline(NewPipeline { context, pipeline, only: Vec::new() }).unwrap()
    }

    pub fn state(&self, pipeline: PipelineId) -> JobState {
        self.coordinator.pipeline(pipeline).unwrap().jobs.remove(0)
    }

    pub fn trace(&self, pipeline: PipelineId) -> String {
        let bytes = self.coordinator.read_trace(self.state(pipeline).id, 0, usize::MAX >> 8).unwrap_or_default();
        String::from_utf8_lossy(&coordinator::log::without_stamps(&bytes)).into_owned()
    }

    /// Waits until the job has printed a line of its own.
    pub fn prints(&self, pipeline: PipelineId, line: &str) {
        wait_for(line, || self.trace(pipeline).lines().any(|one| one.trim_end() == line).then_some(()));
    }

    /// Waits for the end of the job.
    pub fn ends(&self, pipeline: PipelineId) -> JobState {
        wait_for("the end of the job", || Some(self.state(pipeline)).filter(|job| job.status.is_final()))
    }

    /// Shell words that wait until [`Self::open_gate`], printing a dot for each look.
    pub fn gate(&self) -> String {
        let (gateway, port) = (self.bench.gateway, self.bench.ports[1]);
        format!("until (exec 3<>/dev/tcp/{gateway}/{port}) 2>/dev/null; do echo .; sleep 0.1; done")
    }

    /// Lets jobs pass their gate as long as the answer lives.
    pub fn open_gate(&self) -> TcpListener {
        TcpListener::bind((self.bench.gateway, self.bench.ports[1])).unwrap()
    }
}

/// A repository with one commit; its SHA.
fn commit(directory: &Path) -> String {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.arg("-C").arg(directory).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    std::fs::create_dir(directory).unwrap();
    git(&["init", "-q", "-b", "main"]);
    std::fs::write(directory.join("hello.txt"), "hello from the repository\n").unwrap();
    git(&["add", "."]);
    git(&["-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "-m", "test"]);
    git(&["rev-parse", "HEAD"])
}
