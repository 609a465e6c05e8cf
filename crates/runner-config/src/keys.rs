//! Keys that gantry does not read: known to GitLab Runner, or a mistake with a likely cure.

use crate::Problem;

/// Every key of GitLab Runner, one per line.
const KNOWN: &str = include_str!("known-keys.txt");
/// Another executor's table is no mistake in a file that GitLab Runner reads too.
const OTHER_EXECUTORS: [&str; 8] = ["docker", "machine", "ssh", "parallels", "virtualbox", "custom", "instance", "autoscaler"];

/// What to say of a key that was not read; `path` is like `runners.0.kubernetes.x`.
pub fn unread(text: &str, path: &str) -> Problem {
    let plain: Vec<_> = path.split('.').filter(|part| *part != "?" && part.parse::<usize>().is_err()).collect();
    let key = plain.join(".");
    let last = plain.last().copied().unwrap_or_default();
    let line = text.lines().position(|line| names(line, last)).map_or(0, |index| index + 1);
    let known = || KNOWN.lines().filter(|line| !line.starts_with('#')).map(|line| line.replace("[]", ""));
    let is_known = known().any(|name| name == key || name.starts_with(&format!("{key}.")));
    let other = plain.len() > 1 && plain[0] == "runners" && OTHER_EXECUTORS.contains(&plain[1]);
    let message = if plain.contains(&"gantry") {
        format!("{key} has no effect: gantry has no such option of its own")
    } else if is_known || other {
        format!("{key} is not supported by gantry yet and has no effect")
    } else {
        let nearest = known().min_by_key(|name| strsim::damerau_levenshtein(name, &key));
        let close = nearest.filter(|name| strsim::damerau_levenshtein(name, &key) <= 3 + key.len() / 8);
        let hint = close.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        format!("{key} is not a key of config.toml{hint}")
    };
    Problem { line, message }
}

/// Whether a line of TOML sets or opens `key`.
fn names(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    let header = line.trim_start_matches('[').split(']').next().unwrap_or_default();
    let set = line.split('=').next().unwrap_or_default().trim().trim_matches('"');
    (line.starts_with('[') && header.rsplit('.').next() == Some(key)) || (line.contains('=') && set == key)
}
