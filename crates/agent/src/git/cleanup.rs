//! What an earlier job may have left in the repository: locks that stop git, and settings and hooks that would run.

use std::fs;
use std::path::Path;

/// Locks of a git that was killed.
const LOCKS: [&str; 4] = ["index.lock", "shallow.lock", "HEAD.lock", "config.lock"];

/// Removes locks, and what git would obey or run unless `keep_settings`; what cannot be removed is left to git to
/// complain of.
pub fn clean(project: &Path, keep_settings: bool) {
    let git = project.join(".git");
    match fs::symlink_metadata(&git) {
        Ok(meta) if meta.is_dir() => {}
        // A link could lead to somebody else's repository; a file is not what we make.
        Ok(_) => {
            let _ = fs::remove_file(&git);
            return;
        }
        Err(_) => return,
    }
    for name in LOCKS.into_iter().chain(["hooks/post-checkout"]) {
        let _ = fs::remove_file(git.join(name));
    }
    let (refs, modules) = (git.join("refs"), git.join("modules"));
    each(&refs, |path, _| {
        if has_extension(path, "lock") {
            remove(path)
        }
    });
    if !keep_settings {
        remove(&git.join("config"));
        remove(&git.join("hooks"));
    }
    each(&modules, |path, is_directory| {
        let name = path.file_name().unwrap_or_default();
        let lock = !is_directory && LOCKS.iter().any(|lock| name == *lock);
        let obeyed = !keep_settings && if is_directory { name == "hooks" } else { name == "config" };
        if lock || obeyed {
            remove(path);
        }
    });
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

/// Every file and directory below, links not followed.
fn each(directory: &Path, mut visit: impl FnMut(&Path, bool)) {
    for entry in walkdir::WalkDir::new(directory).min_depth(1).follow_links(false).into_iter().flatten() {
        visit(entry.path(), entry.file_type().is_dir());
    }
}

fn remove(path: &Path) {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let _ = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

#[cfg(test)]
mod tests {
    use super::clean;
    use std::fs;

    fn repository() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let files = [
            "index.lock",
            "refs/heads/a.lock",
            "refs/heads/a",
            "config",
            "hooks/post-checkout",
            "hooks/pre-commit",
            "modules/m/config",
            "modules/m/index.lock",
            "modules/m/hooks/x",
            "modules/m/modules/n/config",
            "modules/m/objects/config.pack",
        ];
        for file in files {
            let path = place.path().join(".git").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        place
    }

    fn left(place: &tempfile::TempDir) -> Vec<String> {
        let git = place.path().join(".git");
        let files =
            walkdir::WalkDir::new(&git).sort_by_file_name().into_iter().flatten().filter(|entry| entry.file_type().is_file());
        files.map(|entry| entry.path().strip_prefix(&git).unwrap().display().to_string()).collect()
    }

    #[test]
    fn locks_settings_and_hooks_go_and_the_rest_stays() {
        let place = repository();
        clean(place.path(), false);
        assert_eq!(left(&place), ["modules/m/objects/config.pack", "refs/heads/a"]);
    }

    #[test]
    fn settings_can_be_kept() {
        let place = repository();
        clean(place.path(), true);
        let kept = ["config", "hooks/pre-commit", "modules/m/config", "modules/m/hooks/x", "modules/m/modules/n/config"];
        assert!(kept.iter().all(|file| left(&place).contains(&(*file).to_owned())), "{:?}", left(&place));
        assert!(left(&place).iter().all(|file| !file.ends_with(".lock") && file != "hooks/post-checkout"));
    }

    #[test]
    fn a_link_in_place_of_the_repository_is_not_followed() {
        let (place, other) = (tempfile::tempdir().unwrap(), repository());
        std::os::unix::fs::symlink(other.path().join(".git"), place.path().join(".git")).unwrap();
        clean(place.path(), false);
        assert!(left(&other).contains(&"config".to_owned()) && !place.path().join(".git").exists());
    }
}
