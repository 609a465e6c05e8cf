//! Keys of the file: their known spelling, and what is said of those that gantry does not read.

use crate::Problem;
use toml::{Table, Value};

/// Every key of GitLab Runner, one per line.
const KNOWN: &str = include_str!("known-keys.txt");
/// Another executor's table is no mistake in a file that GitLab Runner reads too.
const OTHER_EXECUTORS: [&str; 8] = ["docker", "machine", "ssh", "parallels", "virtualbox", "custom", "instance", "autoscaler"];

fn known() -> impl Iterator<Item = String> {
    KNOWN.lines().filter(|line| !line.starts_with('#')).map(|line| line.replace("[]", ""))
}

/// Gives every key its known spelling, as GitLab Runner takes keys in any case (row "any unknown key"); of a key that
/// is there in both the known one stays. Answers whether anything changed.
pub fn respell(document: &mut Table) -> bool {
    respell_below(document, "", &known().collect::<Vec<_>>())
}

fn respell_below(table: &mut Table, path: &str, known: &[String]) -> bool {
    let here: Vec<_> = known.iter().filter_map(|name| name.strip_prefix(path)?.split('.').next()).collect();
    let mut changed = false;
    for name in table.keys().cloned().collect::<Vec<_>>() {
        let other = here.iter().copied().find(|one| one.eq_ignore_ascii_case(&name)).filter(|_| !here.contains(&name.as_str()));
        if let Some(spelling) = other.filter(|one| !table.contains_key(*one))
            && let Some(value) = table.remove(&name)
        {
            table.insert(spelling.to_owned(), value);
            changed = true;
        }
        let name = other.unwrap_or(&name);
        let path = format!("{path}{name}.");
        let tables = match table.get_mut(name) {
            Some(Value::Table(table)) => vec![table],
            Some(Value::Array(list)) => list.iter_mut().filter_map(Value::as_table_mut).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            changed |= respell_below(table, &path, known);
        }
    }
    changed
}

/// What to say of a key that was not read; `path` is like `runners.0.kubernetes.x`.
pub fn unread(text: &str, path: &str) -> Problem {
    let plain: Vec<_> = path.split('.').filter(|part| *part != "?" && part.parse::<usize>().is_err()).collect();
    let key = plain.join(".");
    let last = plain.last().copied().unwrap_or_default();
    let line = text.lines().position(|line| names(line, last)).map_or(0, |index| index + 1);
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

/// Whether a line of TOML sets or opens `key`, in any case.
fn names(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    let header = line.trim_start_matches('[').split(']').next().unwrap_or_default();
    let is_key = |word: &str| word.eq_ignore_ascii_case(key);
    let set = line.split('=').next().unwrap_or_default().trim().trim_matches('"');
    (line.starts_with('[') && header.rsplit('.').next().is_some_and(is_key)) || (line.contains('=') && is_key(set))
}
