//! Artifacts: which files belong to one, and the zip archive up and down.
//!
//! Paths are globs in doublestar's manner, relative to the project directory; a directory that matches stands for all
//! below it. An archive from another job is input of a stranger: entries that would leave the project directory are
//! refused, links are made last and never followed, and what it unpacks to is bounded.

use anyhow::{Context, Result, bail};
use job::Artifact;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// Most files one artifact may have.
const MOST_FILES: usize = 1_000_000;
/// Most bytes a downloaded archive may unpack to.
const MOST_BYTES: u64 = 64 * 1024 * 1024 * 1024;
const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;

/// Files of an artifact, and what to say of each pattern.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Relative paths in order: files, directories and links.
    pub paths: BTreeSet<PathBuf>,
    /// How many each pattern found.
    pub found: Vec<(String, usize)>,
}

/// What the files that git does not know are called among the patterns.
pub const UNTRACKED: &str = "untracked";

impl Selection {
    /// Adds files that git does not know.
    pub fn add_untracked(&mut self, directory: &Path, files: Vec<PathBuf>, artifact: &Artifact) {
        // Of a name that is no UTF-8 git's word is not the file's.
        let is_there = |path: &PathBuf| std::fs::symlink_metadata(directory.join(path)).is_ok();
        let files: Vec<_> = files.into_iter().filter(|path| is_there(path) && !is_excluded(artifact, path)).collect();
        self.found.push((UNTRACKED.to_owned(), files.len()));
        self.paths.extend(files);
    }
}

/// Finds the files of `artifact` below `directory`; patterns are expanded already.
///
/// # Errors
/// When the directory cannot be read or there are too many files.
pub fn select(directory: &Path, artifact: &Artifact) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1).follow_links(false) {
        let entry = entry.context("failed to read the project directory")?;
        let relative = entry.path().strip_prefix(directory).unwrap_or(entry.path()).to_owned();
        all.push(relative);
        if all.len() > MOST_FILES {
            bail!("the project directory has more than {MOST_FILES} files");
        }
    }
    for pattern in &artifact.paths {
        let clean = pattern.trim_start_matches("./").trim_end_matches('/');
        let chosen = all.iter().filter(|path| {
            let git = path.starts_with(".git");
            !git && path
                .ancestors()
                .filter(|part| !part.as_os_str().is_empty())
                .any(|part| matches(clean, &part.to_string_lossy()))
        });
        let chosen: Vec<_> = chosen.filter(|path| !is_excluded(artifact, path)).cloned().collect();
        selection.found.push((pattern.clone(), chosen.len()));
        selection.paths.extend(chosen);
    }
    Ok(selection)
}

fn is_excluded(artifact: &Artifact, path: &Path) -> bool {
    artifact.exclude.iter().any(|pattern| matches(pattern, &path.to_string_lossy()))
}

/// Whether a doublestar pattern matches a path; `a/**` matches `a` too.
pub fn matches(pattern: &str, path: &str) -> bool {
    pattern == "."
        || fast_glob::glob_match(pattern, path)
        || pattern.strip_suffix("/**").is_some_and(|head| fast_glob::glob_match(head, path))
}

/// How hard it is packed (`ARTIFACT_COMPRESSION_LEVEL`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Not at all.
    Fastest,
    /// Quickly.
    Fast,
    /// As everybody does.
    #[default]
    Default,
    /// Better.
    Slow,
    /// As well as possible.
    Slowest,
}

impl Level {
    /// Reads GitLab's word; another one means the default.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "fastest" => Self::Fastest,
            "fast" => Self::Fast,
            "slow" => Self::Slow,
            "slowest" => Self::Slowest,
            _ => Self::Default,
        }
    }

    fn to_zip(self) -> (CompressionMethod, Option<i64>) {
        match self {
            Self::Fastest => (CompressionMethod::Stored, None),
            Self::Fast => (CompressionMethod::Deflated, Some(1)),
            Self::Default => (CompressionMethod::Deflated, None),
            Self::Slow => (CompressionMethod::Deflated, Some(7)),
            Self::Slowest => (CompressionMethod::Deflated, Some(9)),
        }
    }
}

/// Writes a zip of `paths` below `directory` into `into`.
///
/// # Errors
/// When a file cannot be read or the disk is full.
pub fn pack(directory: &Path, paths: &BTreeSet<PathBuf>, into: &Path, level: Level) -> Result<()> {
    let file = File::create(into).with_context(|| format!("failed to make {}", into.display()))?;
    let mut archive = zip::ZipWriter::new(io::BufWriter::new(file));
    let (method, strength) = level.to_zip();
    for path in paths {
        let source = directory.join(path);
        let name = path.to_string_lossy().into_owned();
        let on_file = || format!("failed to pack {name}");
        let meta = std::fs::symlink_metadata(&source).with_context(on_file)?;
        let options = SimpleFileOptions::default().unix_permissions(meta.permissions().mode() & 0o777);
        if meta.is_symlink() {
            let target = std::fs::read_link(&source).with_context(on_file)?;
            archive.add_symlink(name.as_str(), target.to_string_lossy(), options).with_context(on_file)?;
        } else if meta.is_dir() {
            archive.add_directory(name.as_str(), options).with_context(on_file)?;
        } else if meta.is_file() {
            let options =
                options.compression_method(method).compression_level(strength).large_file(meta.len() > u64::from(u32::MAX) / 2);
            archive.start_file(name.as_str(), options).with_context(on_file)?;
            io::copy(&mut File::open(&source).with_context(on_file)?, &mut archive).with_context(on_file)?;
        }
    }
    archive.finish().and_then(|mut file| Ok(file.flush()?)).context("failed to finish the archive")
}

/// Unpacks the zip at `archive` below `directory`.
///
/// # Errors
/// When the archive is damaged, hostile or too large.
pub fn unpack(archive: &Path, directory: &Path) -> Result<usize> {
    let mut archive = zip::ZipArchive::new(File::open(archive)?).context("the archive is damaged")?;
    let (mut links, mut left) = (Vec::new(), MOST_BYTES);
    if archive.len() > MOST_FILES {
        bail!("the archive has more than {MOST_FILES} files");
    }
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context("the archive is damaged")?;
        let name = entry.name().context("the archive has a name that cannot be read")?.into_owned();
        let relative = safe_path(&name).with_context(|| format!("the archive has the unsafe path {name:?}"))?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        let target = directory.join(&relative);
        if entry.is_dir() {
            make_directories(directory, &relative)?;
            continue;
        }
        make_directories(directory, relative.parent().unwrap_or(Path::new("")))?;
        if mode & S_IFMT == S_IFLNK {
            let mut link = String::new();
            entry.by_ref().take(4096).read_to_string(&mut link).with_context(|| format!("the link {name:?} is damaged"))?;
            links.push((target, link));
            continue;
        }
        remove_file(&target)?;
        let mut options = File::options();
        options.write(true).create_new(true).mode(mode & 0o777).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&target).with_context(|| format!("failed to make {name:?}"))?;
        let copied =
            io::copy(&mut entry.by_ref().take(left + 1), &mut file).with_context(|| format!("failed to unpack {name:?}"))?;
        left = left.checked_sub(copied).with_context(|| format!("the archive unpacks to more than {MOST_BYTES} bytes"))?;
    }
    for (target, link) in links {
        remove_file(&target)?;
        symlink(&link, &target).with_context(|| format!("failed to make the link {}", target.display()))?;
    }
    Ok(archive.len())
}

/// A relative path of plain names only.
fn safe_path(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (plain && !name.is_empty() && !name.contains('\0') && !path.starts_with(".git")).then_some(path)
}

/// Makes each directory of `relative`; a link in the way is not followed but refused.
fn make_directories(directory: &Path, relative: &Path) -> Result<()> {
    let mut at = directory.to_owned();
    for part in relative.components() {
        at.push(part);
        match std::fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => bail!("{} stands where the archive has a directory", at.display()),
            Err(_) => std::fs::create_dir(&at).with_context(|| format!("failed to make {}", at.display()))?,
        }
    }
    Ok(())
}

fn remove_file(target: &Path) -> Result<()> {
    match std::fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to replace {}", target.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, matches, pack, select, unpack};
    use job::{Artifact, ArtifactFormat, When};
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn artifact(paths: &[&str], exclude: &[&str]) -> Artifact {
        let list = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Artifact {
            name: String::new(),
            paths: list(paths),
            exclude: list(exclude),
            untracked: false,
            when: When::OnSuccess,
            artifact_type: "archive".into(),
            format: ArtifactFormat::Zip,
            expire_in: String::new(),
        }
    }

    #[test]
    fn globs_follow_doublestar() {
        for (pattern, path, expected) in [
            ("a/**", "a", true),
            ("a/**/b", "a/b", true),
            ("*.txt", "d/x.txt", false),
            ("**/*.txt", "d/e/x.txt", true),
            ("[^a]", "b", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_excluded_is_left_out() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("out")).unwrap();
        for name in ["out/a.txt", "out/b.log", "c.txt"] {
            std::fs::write(place.path().join(name), name).unwrap();
        }
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let artifact = job::Artifact {
            name: String::new(),
            paths: list(&["out/", "*.txt"]),
            exclude: list(&["**/*.log"]),
            untracked: false,
            when: job::When::Always,
            artifact_type: "archive".to_owned(),
            format: job::ArtifactFormat::Zip,
            expire_in: String::new(),
        };
        let selection = super::select(place.path(), &artifact).unwrap();
        let paths: Vec<_> = selection.paths.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["c.txt", "out", "out/a.txt"]);
    }

    #[test]
    fn what_is_packed_comes_back_with_modes_links_and_empty_directories() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = from.path();
        for directory in ["out/empty", ".git"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("out/run.sh"), "#!/bin/sh").unwrap();
        std::fs::write(root.join("out/skip.o"), "x").unwrap();
        std::fs::write(root.join(".git/config"), "x").unwrap();
        std::fs::set_permissions(root.join("out/run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run.sh", root.join("out/link")).unwrap();
        let selection = select(root, &artifact(&["out/", ".git", "missing"], &["**/*.o"])).unwrap();
        assert_eq!(selection.found.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [4, 0, 0]);
        let archive = to.path().join("a.zip");
        pack(root, &selection.paths, &archive, Level::default()).unwrap();
        let out = to.path().join("project");
        std::fs::create_dir(&out).unwrap();
        unpack(&archive, &out).unwrap();
        assert_eq!(std::fs::read_link(out.join("out/link")).unwrap().to_str(), Some("run.sh"));
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&out.join("out/run.sh").metadata().unwrap().permissions()) & 0o777,
            0o755
        );
        assert!(out.join("out/empty").is_dir() && !out.join("out/skip.o").exists());
    }

    #[test]
    fn a_job_says_how_hard_its_artifacts_are_packed() {
        let place = tempfile::tempdir().unwrap();
        // Text that packs the better the longer one looks for repetitions.
        let text: String = (0..20_000u32).map(|index| format!("{} ", index.wrapping_mul(2_654_435_761) % 977)).collect();
        std::fs::write(place.path().join("file"), text).unwrap();
        let paths = [std::path::PathBuf::from("file")].into();
        let size = |word: &str| {
            let into = place.path().join("a.zip");
            pack(place.path(), &paths, &into, Level::parse(word)).unwrap();
            std::fs::metadata(into).unwrap().len()
        };
        assert!(size("fastest") > size("fast") && size("fast") > size("slowest"));
        assert_eq!(size("nonsense"), size(""));
    }

    #[test]
    fn a_hostile_archive_cannot_leave_the_directory() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        for name in ["../evil", "/evil", "a/../../evil", "link/evil", ".git/hooks/post-checkout"] {
            let archive = place.path().join("a.zip");
            let mut writer = zip::ZipWriter::new(std::fs::File::create(&archive).unwrap());
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(b"x").unwrap();
            writer.finish().unwrap();
            let _ = std::fs::remove_dir_all(&out);
            std::fs::create_dir(&out).unwrap();
            std::os::unix::fs::symlink(place.path(), out.join("link")).unwrap();
            assert!(unpack(&archive, &out).is_err(), "{name}");
            assert!(!place.path().join("evil").exists(), "{name}");
        }
    }
}
