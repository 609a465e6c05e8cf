//! Temporary git repositories with a pipeline.

use std::path::Path;
use std::process::Command;

/// A repository with one commit, removed at the end.
pub struct Repository(tempfile::TempDir);

impl Repository {
    /// With this text as `.gitlab-ci.yml`.
    pub fn new(pipeline: &str) -> Self {
        Self::with(&[(".gitlab-ci.yml", pipeline)])
    }

    /// With these files.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        for (name, text) in files {
            repository.write(name, text);
        }
        repository.git(&["add", "--all"]);
        repository.git(&["commit", "--quiet", "--message=a commit"]);
        repository
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and commits nothing.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs git in it.
    pub fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"];
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-C").arg(self.path()).args(identity).args(arguments);
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}
