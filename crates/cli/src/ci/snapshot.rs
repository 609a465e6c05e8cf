//! A snapshot of the working tree as a commit: tracked files as they are now, and untracked ones that are not ignored.
//!
//! The pipeline must see what the user sees, yet nothing of theirs may be written: not the tree, not the index, not
//! the object store. So the snapshot is a bare repository of its own whose object store borrows from theirs
//! (`objects/info/alternates`), and the index is a copy. A tree without changes keeps the real commit, so that
//! `CI_COMMIT_SHA` is the one the user knows.

use anyhow::{Context, Result, anyhow, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The snapshot and what git knows about it.
#[derive(Debug)]
pub struct Snapshot {
    /// Top of the user's working tree.
    pub top: PathBuf,
    /// The bare repository to serve.
    pub repository: PathBuf,
    /// The commit to run.
    pub sha: String,
    /// Its first parent; zeros when there is none.
    pub before_sha: String,
    /// Branch, or tag when exactly that is checked out.
    pub reference: String,
    /// Whether `reference` is a tag.
    pub is_tag: bool,
    /// Branch that the remote calls its default; without a remote `main` or `master`, else the one checked out.
    pub default_branch: String,
    /// Whole message of it.
    pub message: String,
    /// Its author, `Name <mail>`.
    pub author: String,
    /// Its date, ISO 8601.
    pub timestamp: String,
    /// All paths in the snapshot.
    pub paths: Vec<String>,
}

const ZEROS: &str = "0000000000000000000000000000000000000000";

impl Snapshot {
    /// Takes the snapshot of the repository around `directory` into the new directory `into`.
    ///
    /// # Errors
    /// When `directory` is in no git working tree, or git fails.
    pub fn take(directory: &Path, into: &Path) -> Result<Self> {
        let git = |arguments: &[&str]| text(Command::new("git").arg("-C").arg(directory).args(arguments));
        let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"]).context("no git working tree here")?);
        let in_top = |arguments: &[&str]| text(Command::new("git").arg("-C").arg(&top).args(arguments));
        let repository = into.join("repository.git");
        let format = in_top(&["rev-parse", "--show-object-format"])?;
        text(Command::new("git").args(["init", "--quiet", "--bare", "--object-format", &format]).arg(&repository))?;
        borrow_objects(&top, &repository)?;
        let head = in_top(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).ok();
        let tree = write_tree(&top, &repository, into)?;
        let commit = Commit { top: &top, repository: &repository, head: head.as_deref(), tree: &tree };
        let sha = commit.make()?;
        let (reference, is_tag) = reference(&top);
        let name = if is_tag { format!("refs/tags/{reference}") } else { format!("refs/heads/{reference}") };
        text(bare(&repository).args(["update-ref", &name, &sha]))?;
        text(bare(&repository).args(["symbolic-ref", "HEAD", &format!("refs/heads/{reference}")]))?;
        let show = |what: &str| {
            text(bare(&repository).args(["log", "-1", &format!("--format={what}"), head.as_deref().unwrap_or(&sha)]))
        };
        let paths = text(bare(&repository).args(["ls-tree", "-r", "-z", "--name-only", &sha]))?;
        Ok(Self {
            before_sha: text(bare(&repository).args(["rev-parse", "--verify", "--quiet", &format!("{sha}^")]))
                .unwrap_or_else(|_| ZEROS.to_owned()),
            default_branch: default_branch(&in_top).unwrap_or_else(|| reference.clone()),
            message: show("%B")?,
            author: show("%an <%ae>")?,
            timestamp: show("%cI")?,
            paths: paths.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect(),
            top,
            repository,
            sha,
            reference,
            is_tag,
        })
    }

    /// Content of a file of the snapshot; `None` when it has no such file.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        if !self.paths.iter().any(|known| known == path) {
            return Ok(None);
        }
        let output = bare(&self.repository).args(["cat-file", "blob", &format!("{}:{path}", self.sha)]).output()?;
        if !output.status.success() {
            bail!("failed to read {path} from the snapshot: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).map(Some).with_context(|| format!("{path} is not UTF-8"))
    }
}

struct Commit<'a> {
    top: &'a Path,
    repository: &'a Path,
    head: Option<&'a str>,
    tree: &'a str,
}

impl Commit<'_> {
    fn make(&self) -> Result<String> {
        if let Some(head) = self.head
            && text(bare(self.repository).args(["rev-parse", &format!("{head}^{{tree}}")]))? == self.tree
        {
            return Ok(head.to_owned());
        }
        let identity =
            |what: &str| text(Command::new("git").arg("-C").arg(self.top).args(["log", "-1", &format!("--format={what}")]));
        let mut command = bare(self.repository);
        command.args(["commit-tree", self.tree, "-m", "working tree as it is now"]);
        if let Some(head) = self.head {
            command.args(["-p", head]);
        }
        let (name, mail) = (identity("%an").unwrap_or_default(), identity("%ae").unwrap_or_default());
        for (variable, value, default) in [
            ("GIT_AUTHOR_NAME", &name, "gantry"),
            ("GIT_COMMITTER_NAME", &name, "gantry"),
            ("GIT_AUTHOR_EMAIL", &mail, "gantry@localhost"),
            ("GIT_COMMITTER_EMAIL", &mail, "gantry@localhost"),
        ] {
            command.env(variable, if value.is_empty() { default } else { value });
        }
        text(&mut command)
    }
}

/// Lets the snapshot's repository read the user's objects, ignore rules included.
fn borrow_objects(top: &Path, repository: &Path) -> Result<()> {
    let path_of = |what: &str| -> Result<PathBuf> {
        let path = text(Command::new("git").arg("-C").arg(top).args(["rev-parse", "--git-path", what]))?;
        Ok(top.join(path))
    };
    let objects = path_of("objects")?.canonicalize().context("failed to find the repository's objects")?;
    std::fs::create_dir_all(repository.join("objects/info"))?;
    std::fs::write(repository.join("objects/info/alternates"), format!("{}\n", objects.display()))?;
    let exclude = path_of("info/exclude")?;
    if exclude.exists() {
        std::fs::create_dir_all(repository.join("info"))?;
        std::fs::copy(exclude, repository.join("info/exclude"))?;
    }
    let shallow = path_of("shallow")?;
    if shallow.exists() {
        std::fs::copy(shallow, repository.join("shallow"))?;
    }
    Ok(())
}

/// The tree of all that is not ignored, by a copy of the index (so that unchanged files are not read again).
fn write_tree(top: &Path, repository: &Path, into: &Path) -> Result<String> {
    let index = into.join("index");
    let theirs = top.join(text(Command::new("git").arg("-C").arg(top).args(["rev-parse", "--git-path", "index"]))?);
    if theirs.exists() {
        std::fs::copy(&theirs, &index).context("failed to copy the index")?;
    }
    let with_tree = || {
        let mut command = Command::new("git");
        command.arg("-C").arg(top).env("GIT_DIR", repository).env("GIT_WORK_TREE", top).env("GIT_INDEX_FILE", &index);
        command.args(["-c", "core.bare=false", "-c", "advice.addEmbeddedRepo=false", "-c", "core.safecrlf=false"]);
        command
    };
    text(with_tree().args(["add", "--all", "."]))?;
    text(with_tree().arg("write-tree"))
}

/// Branch, or tag when HEAD is detached at one; a detached HEAD without a tag is called by its commit.
fn reference(top: &Path) -> (String, bool) {
    let git = |arguments: &[&str]| text(Command::new("git").arg("-C").arg(top).args(arguments));
    if let Ok(branch) = git(&["symbolic-ref", "--quiet", "--short", "HEAD"]) {
        return (branch, false);
    }
    if let Ok(tag) = git(&["describe", "--tags", "--exact-match", "HEAD"]) {
        return (tag, true);
    }
    (git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|_| "HEAD".to_owned()), false)
}

fn default_branch(git: &impl Fn(&[&str]) -> Result<String>) -> Option<String> {
    if let Ok(name) = git(&["symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"]) {
        return Some(name.trim_start_matches("origin/").to_owned());
    }
    let exists = |name: &&str| git(&["show-ref", "--verify", "--quiet", &format!("refs/heads/{name}")]).is_ok();
    ["main", "master"].into_iter().find(exists).map(str::to_owned)
}

fn bare(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(repository);
    command
}

/// Standard output of a git command, without the last newline.
fn text(command: &mut Command) -> Result<String> {
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        if !command.get_envs().any(|(name, _)| name == variable) {
            command.env_remove(variable);
        }
    }
    let output = command.output().context("failed to start git; is it installed?")?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).map_err(|_| anyhow!("git printed no UTF-8"))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::Snapshot;
    use std::path::Path;
    use std::process::Command;

    fn git(directory: &Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=A", "-c", "user.email=a@b"];
        assert!(Command::new("git").arg("-C").arg(directory).args(identity).args(arguments).status().unwrap().success());
    }

    fn repository() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        git(directory.path(), &["init", "--quiet", "--initial-branch=main"]);
        std::fs::write(directory.path().join("a"), "1").unwrap();
        std::fs::write(directory.path().join(".gitignore"), "ignored\n").unwrap();
        git(directory.path(), &["add", "--all"]);
        git(directory.path(), &["commit", "--quiet", "--message=first line"]);
        directory
    }

    fn listing(directory: &Path) -> Vec<(std::path::PathBuf, u64)> {
        let mut all: Vec<_> = walk(directory);
        all.sort();
        all
    }

    fn walk(directory: &Path) -> Vec<(std::path::PathBuf, u64)> {
        let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
        entries
            .flat_map(|entry| {
                let meta = entry.metadata().unwrap();
                if meta.is_dir() { walk(&entry.path()) } else { vec![(entry.path(), meta.len())] }
            })
            .collect()
    }

    #[test]
    fn a_clean_tree_keeps_its_commit() {
        let (user, into) = (repository(), tempfile::tempdir().unwrap());
        let snapshot = Snapshot::take(user.path(), into.path()).unwrap();
        let head = super::text(Command::new("git").arg("-C").arg(user.path()).args(["rev-parse", "HEAD"])).unwrap();
        assert_eq!((snapshot.sha, snapshot.reference.as_str(), snapshot.message.trim()), (head, "main", "first line"));
    }

    #[test]
    fn changes_and_new_files_are_in_it_ignored_ones_are_not_and_nothing_of_the_user_is_written() {
        let (user, into) = (repository(), tempfile::tempdir().unwrap());
        std::fs::write(user.path().join("a"), "changed").unwrap();
        std::fs::write(user.path().join("new"), "new").unwrap();
        std::fs::write(user.path().join("ignored"), "x").unwrap();
        let before = listing(user.path());
        let snapshot = Snapshot::take(user.path(), into.path()).unwrap();
        assert_eq!(listing(user.path()), before);
        assert_eq!(snapshot.read("a").unwrap().as_deref(), Some("changed"));
        assert_eq!(snapshot.read("new").unwrap().as_deref(), Some("new"));
        assert_eq!(snapshot.read("ignored").unwrap(), None);
        assert_ne!(snapshot.before_sha, super::ZEROS);
    }

    #[test]
    fn a_repository_without_a_commit_works() {
        let (user, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        git(user.path(), &["init", "--quiet", "--initial-branch=trunk"]);
        std::fs::write(user.path().join("a"), "1").unwrap();
        let snapshot = Snapshot::take(user.path(), into.path()).unwrap();
        assert_eq!((snapshot.reference.as_str(), snapshot.before_sha.as_str()), ("trunk", super::ZEROS));
        assert_eq!(snapshot.paths, ["a"]);
    }

    #[test]
    fn outside_a_repository_it_says_so() {
        let (user, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error = Snapshot::take(user.path(), into.path()).unwrap_err();
        assert_eq!(error.to_string(), "no git working tree here");
    }
}
