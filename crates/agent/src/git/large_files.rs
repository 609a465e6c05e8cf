//! Large files (git LFS): left out at the checkout, then fetched together.
//!
//! Asked for only where the repository says that it has some, because the program looks through the whole tree.

use super::Sources;
use super::command::Git;
use anyhow::Result;
use std::path::Path;

/// Longest file of attributes that is looked at.
const LONGEST: u64 = 1024 * 1024;

/// What makes git leave large files to the program, on whatever machine.
pub fn filters() -> Vec<(String, String)> {
    if !is_installed() {
        return Vec::new();
    }
    [
        ("filter.lfs.clean", "git-lfs clean -- %f"),
        ("filter.lfs.smudge", "git-lfs smudge -- %f"),
        ("filter.lfs.process", "git-lfs filter-process"),
        ("filter.lfs.required", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Whether the helper image has the program.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("git-lfs").is_file())
}

impl Sources<'_> {
    /// Fetches the large files of the project.
    pub(super) async fn large_files(&self, git: &Git<'_>) -> Result<()> {
        if !is_installed() || !self.has_large_files(git).await {
            return Ok(());
        }
        git.run(self.directory, &["lfs", "pull"]).await?;
        self.trace.write(b"\n").await;
        Ok(())
    }

    async fn has_large_files(&self, git: &Git<'_>) -> bool {
        let asked = ["ls-files", "-z", ":(glob)**/.gitattributes"];
        // When in doubt, yes.
        let Some(files) = git.ask(self.directory, &asked).await else { return true };
        files.split('\0').filter(|file| !file.is_empty()).any(|file| mentions(&self.directory.join(file)))
    }
}

fn mentions(file: &Path) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(file) else { return true };
    if meta.len() > LONGEST || !meta.is_file() {
        return true;
    }
    std::fs::read(file).map_or(true, |bytes| String::from_utf8_lossy(&bytes).contains("filter=lfs"))
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_file_of_attributes_says_whether_there_are_large_files() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join(".gitattributes");
        for (text, expected) in [("*.bin filter=lfs diff=lfs\n", true), ("*.txt text\n", false)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(mentions(&file), expected, "{text}");
        }
        assert!(mentions(&place.path().join("missing")));
    }
}
