//! Which directories of this machine the `host` image shows, so that a job finds the tools the user has on `PATH`.
//!
//! A directory of `PATH` is seldom whole by itself: `~/.cargo/bin/cargo` is rustup, which needs `~/.rustup`; a Python in
//! `~/.pyenv/shims` needs the rest of `~/.pyenv`. So each directory brings the root of its toolchain along, and never more
//! than that: not the home, not a directory that holds other things too.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories below a home that are a toolchain as a whole. The second name comes along when it is there.
const TOOLCHAINS: &[(&str, Option<&str>)] = &[
    (".cargo", Some(".rustup")),
    (".rustup", Some(".cargo")),
    (".pyenv", None),
    (".nvm", None),
    (".rbenv", None),
    (".nodenv", None),
    (".goenv", None),
    (".jenv", None),
    (".asdf", None),
    (".sdkman", None),
    (".volta", None),
    (".deno", None),
    (".bun", None),
    (".dotnet", None),
    (".ghcup", None),
    (".opam", None),
    (".juliaup", None),
    (".julia", None),
    (".elan", None),
    (".swiftly", None),
    (".fnm", None),
    (".krew", None),
    (".foundry", None),
    (".rvm", None),
];

/// Already in the image, through the overlay over `/usr`.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32"];
/// Mounted afresh in every container, or no place for programs.
const KERNEL: &[&str] = &["/proc", "/sys", "/dev", "/run", "/etc", "/boot"];
/// Each directory below these is one product, or one store.
const PRODUCTS: &[&str] = &["/opt"];
/// How many links of one directory are followed to find what they need.
const LINKS: usize = 2048;

/// What [`choose`] decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPaths {
    /// To be shown read-only, each at its own place; none lies inside another.
    pub paths: Vec<PathBuf>,
    /// Directories of `PATH` that are not shown, and why, to be told to the user who asks.
    pub left_out: Vec<(PathBuf, String)>,
}

/// [`choose`], without the reasons.
pub fn host_paths(path_variable: &str, home: &Path) -> Vec<PathBuf> {
    choose(path_variable, home).paths
}

/// The directories of `path_variable` outside `/usr`, with the toolchain root behind each.
pub fn choose(path_variable: &str, home: &Path) -> HostPaths {
    let mut chosen = HostPaths::default();
    for entry in path_variable.split(':').filter(|entry| !entry.is_empty()) {
        let directory = Path::new(entry);
        match roots(directory, home) {
            Ok(roots) => chosen.paths.extend(roots),
            Err(reason) if chosen.left_out.iter().all(|(path, _)| path != directory) => {
                chosen.left_out.push((directory.to_owned(), reason));
            }
            Err(_) => {}
        }
    }
    fold(&mut chosen.paths);
    chosen
}

/// Sorted, without doubles and without what lies inside another.
pub(super) fn fold(paths: &mut Vec<PathBuf>) {
    paths.sort();
    paths.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths.drain(..) {
        if !kept.iter().any(|outer| path.starts_with(outer)) {
            kept.push(path);
        }
    }
    *paths = kept;
}

fn roots(directory: &Path, home: &Path) -> Result<Vec<PathBuf>, String> {
    if !directory.is_absolute() || directory.components().any(|part| part == Component::ParentDir) {
        return Err("it is not an absolute path".to_owned());
    }
    if under(directory, SYSTEM) {
        return Ok(Vec::new());
    }
    if !directory.is_dir() {
        return Err("there is no such directory".to_owned());
    }
    let mut roots = vec![root_of(directory, home)?];
    roots.extend(companion(&roots[0], home));
    roots.extend(behind_links(directory, home));
    let real = directory.canonicalize().map_err(|error| error.to_string())?;
    if real != directory && !under(&real, SYSTEM) {
        roots.push(root_of(&real, home)?);
    }
    Ok(roots)
}

/// The directory to mount so that the programs in `directory` work.
fn root_of(directory: &Path, home: &Path) -> Result<PathBuf, String> {
    refuse(directory, home)?;
    if let Some((home, inside)) = below_home(directory, home) {
        let first = inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        if let Some((name, _)) = TOOLCHAINS.iter().find(|(name, _)| Some(*name) == first.as_deref()) {
            return Ok(home.join(name));
        }
        if let Ok(share) = inside.strip_prefix(".local/share")
            && let Some(product) = share.components().next()
        {
            return Ok(home.join(".local/share").join(product));
        }
    }
    for products in PRODUCTS {
        if let Some(product) = directory.strip_prefix(products).ok().and_then(|rest| rest.components().next()) {
            return Ok(Path::new(products).join(product));
        }
    }
    match directory.parent() {
        Some(parent) if is_prefix(parent) && refuse(parent, home).is_ok() => Ok(parent.to_owned()),
        _ => Ok(directory.to_owned()),
    }
}

/// Whether programs in `bin` here use what lies beside: an installation prefix, and not somebody's working tree.
fn is_prefix(parent: &Path) -> bool {
    let has = |name: &str| parent.join(name).is_dir();
    let own = parent.ends_with(".local") || parent.ends_with("go");
    !own && (has("lib") || has("libexec") || has("lib64") || has("conda-meta")) && !parent.join(".git").exists()
}

/// What must not be mounted as a whole: it holds far more than tools.
fn refuse(directory: &Path, home: &Path) -> Result<(), String> {
    if directory == Path::new("/") {
        return Err("it is the root of this machine".to_owned());
    }
    if home.starts_with(directory) || directory == Path::new("/root") {
        return Err("it is a home, or holds one".to_owned());
    }
    if directory.parent() == Some(Path::new("/home")) {
        return Err("it is a home".to_owned());
    }
    if under(directory, KERNEL) {
        return Err("containers have their own".to_owned());
    }
    if ["/home", "/opt", "/var", "/tmp", "/mnt", "/srv", "/media"].iter().any(|whole| directory == Path::new(whole)) {
        return Err("it holds more than tools".to_owned());
    }
    Ok(())
}

/// The home that `directory` lies in, and where in it.
fn below_home<'a>(directory: &'a Path, home: &Path) -> Option<(PathBuf, &'a Path)> {
    if home != Path::new("/")
        && let Ok(inside) = directory.strip_prefix(home)
    {
        return Some((home.to_owned(), inside));
    }
    if let Ok(inside) = directory.strip_prefix("/root") {
        return Some((PathBuf::from("/root"), inside));
    }
    let rest = directory.strip_prefix("/home").ok()?;
    let user = rest.components().next()?;
    let home = Path::new("/home").join(user);
    let inside = directory.strip_prefix(&home).ok()?;
    Some((home, inside))
}

/// `~/.rustup` for `~/.cargo`.
fn companion(root: &Path, home: &Path) -> Option<PathBuf> {
    let (home, inside) = below_home(root, home)?;
    let (_, companion) = TOOLCHAINS.iter().find(|(name, _)| inside == Path::new(name))?;
    let path = home.join((*companion)?);
    path.is_dir().then_some(path)
}

/// The toolchains that links in `directory` lead to, as `~/.local/bin` does to what pipx and uv install.
fn behind_links(directory: &Path, home: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut roots = Vec::new();
    for entry in entries.flatten().take(LINKS) {
        if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        let Ok(target) = entry.path().canonicalize() else { continue };
        let Some(parent) = target.parent() else { continue };
        if parent == directory || under(parent, SYSTEM) {
            continue;
        }
        roots.extend(root_of(parent, home).into_iter().filter(|root| !roots.contains(root)).collect::<Vec<_>>());
    }
    roots
}

fn under(path: &Path, directories: &[&str]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_with(directories: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let top = tempfile::tempdir().expect("a directory");
        let home = top.path().canonicalize().expect("its real path").join("alice");
        for directory in directories {
            fs::create_dir_all(home.join(directory)).expect("a directory");
        }
        (top, home)
    }

    #[test]
    fn a_directory_of_path_brings_its_toolchain_root() {
        let (_top, home) =
            home_with(&[".cargo/bin", ".rustup", ".pyenv/shims", ".pyenv/bin", "go/bin", ".local/bin", "mini/bin", "mini/lib"]);
        let variable = format!(
            "{0}/.cargo/bin:{0}/.cargo/bin:{0}/.pyenv/shims:{0}/.pyenv/bin:{0}/go/bin:{0}/.local/bin:{0}/mini/bin:/usr/bin:/bin",
            home.display()
        );
        let expected: Vec<_> = [".cargo", ".local/bin", ".pyenv", ".rustup", "go/bin", "mini"].map(|it| home.join(it)).into();
        assert_eq!(choose(&variable, &home), HostPaths { paths: expected, left_out: Vec::new() });
    }

    #[test]
    fn a_home_the_root_and_what_is_not_there_are_left_out_with_a_reason() {
        let (_top, home) = home_with(&["bin"]);
        let variable = format!("{}:/:/root:.:{}/none:/proc/self", home.display(), home.display());
        let chosen = choose(&variable, &home);
        assert_eq!(chosen.paths, Vec::<PathBuf>::new());
        assert_eq!(chosen.left_out.len(), 6, "{:?}", chosen.left_out);
    }

    #[test]
    fn links_bring_what_they_lead_to() {
        let (_top, home) = home_with(&[".local/bin", ".local/share/pipx/venvs/black/bin"]);
        fs::write(home.join(".local/share/pipx/venvs/black/bin/black"), "").expect("a file");
        std::os::unix::fs::symlink(home.join(".local/share/pipx/venvs/black/bin/black"), home.join(".local/bin/black"))
            .expect("a link");
        let chosen = choose(&home.join(".local/bin").display().to_string(), &home);
        assert_eq!(chosen.paths, [home.join(".local/bin"), home.join(".local/share/pipx")]);
    }
}
