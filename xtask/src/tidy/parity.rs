//! The parity ledger: what of GitLab Runner is there, row by row, and which test shows it.
//!
//! `docs/parity/*.tsv` holds every row of the inventory with its status. The rules are checked with the other rules of
//! tidy, so that a row cannot be forgotten and a test cannot go without its row being looked at. `docs/parity.md` is
//! made from the rows.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name, key columns and number of rows of each file.
const FILES: [(&str, &[&str], usize); 6] = [
    ("feature-flags", &["name"], 53),
    ("job-log", &["kind", "order_or_exit_code", "section_or_failure_reason", "line_or_rule"], 97),
    ("job-payload", &["path"], 166),
    ("job-variables", &["name"], 126),
    ("runner-api", &["topic", "method", "path"], 71),
    (BEHAVIOURS, &["number", "behaviour"], 40),
];
/// What is easily got wrong; the page shows each row of it.
const BEHAVIOURS: &str = "behaviours";
const MORE_COLUMNS: [&str; 3] = ["status", "test", "note"];
/// What a row can be, and what that means.
const STATUSES: &[(&str, &str)] = &[
    ("done", "it is there, and a test shows it"),
    ("not applicable", "it belongs to other executors or systems, or has nothing to act on; the note says why"),
    ("accepted and reported", "it means nothing here; it is taken without complaint and said in the job's log"),
    ("later", "it waits for a capability of its own; a job that asks for it is told so"),
];
/// What may come later: each is a capability of its own.
const LATER: [&str; 3] = ["caches", "web terminals and service proxies", "secrets from external stores"];
/// Under which all rows of a file are counted.
const ROWS: &str = "rows";
const PAGE: &str = "docs/parity.md";

/// One row.
struct Row {
    key: String,
    status: String,
    test: String,
    note: String,
}

/// Every breach of the ledger's rules.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (name, keys, count) in FILES {
        let rows = read(root, name, keys)?;
        if rows.len() != count {
            problems.push(format!("{}: {} rows, and not {count}", place(name), rows.len()));
        }
        let mut seen = BTreeSet::new();
        for row in &rows {
            let twice = (!seen.insert(&row.key)).then(|| "stands there twice".to_owned());
            let wrong = twice.into_iter().chain(problem(root, row));
            problems.extend(wrong.map(|problem| format!("{}: {}: {problem}", place(name), row.key)));
        }
    }
    if std::fs::read_to_string(root.join(PAGE)).unwrap_or_default() != page(root)? {
        problems.push(format!("{PAGE} is not what the ledger says: `cargo xtask parity` writes it anew"));
    }
    Ok(problems)
}

/// Writes the page.
pub fn write(root: &Path) -> Result<()> {
    std::fs::write(root.join(PAGE), page(root)?).with_context(|| format!("failed to write {PAGE}"))
}

fn place(name: &str) -> String {
    format!("docs/parity/{name}.tsv")
}

fn read(root: &Path, name: &str, keys: &[&str]) -> Result<Vec<Row>> {
    let place = place(name);
    let text = std::fs::read_to_string(root.join(&place)).with_context(|| format!("failed to read {place}"))?;
    let mut lines = text.lines();
    let columns: Vec<&str> = keys.iter().chain(&MORE_COLUMNS).copied().collect();
    if lines.next() != Some(columns.join("\t").as_str()) {
        bail!("{place} does not begin with {}", columns.join(", "));
    }
    let row = |(index, line): (usize, &str)| {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.split_last_chunk::<3>() {
            Some((key, [status, test, note])) if key.len() == keys.len() => {
                let [status, test, note] = [status, test, note].map(|field| field.trim().to_owned());
                Ok(Row { key: key.join(" / "), status, test, note })
            }
            _ => bail!("{place}:{}: {} fields, and not {}", index + 2, fields.len(), columns.len()),
        }
    };
    lines.enumerate().map(row).collect()
}

fn problem(root: &Path, row: &Row) -> Option<String> {
    if let Some(test) = row.test.split_whitespace().find(|test| !exists(root, test)) {
        return Some(format!("there is no test {test}"));
    }
    match row.status.as_str() {
        "" => Some("has no status".to_owned()),
        "done" if row.test.is_empty() => Some("is done and names no test".to_owned()),
        "later" if !LATER.iter().any(|kind| row.note.starts_with(kind)) => {
            Some(format!("later is for {}; the note begins with one of them", LATER.join(", ")))
        }
        "not applicable" | "accepted and reported" if row.note.is_empty() => Some("has no reason in its note".to_owned()),
        status if STATUSES.iter().any(|(known, _)| *known == status) => None,
        status => Some(format!("has the status {status}, which is none")),
    }
}

/// A test is `file.rs::name`, or the folder of a scenario.
fn exists(root: &Path, test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return root.join(test).join("scenario.yaml").is_file() };
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    is_test(&text, name)
}

/// A function of that name right behind an attribute that makes it a test.
fn is_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let above = text[..line].lines().rev().map(str::trim);
    above.take_while(|line| line.starts_with("#[") || line.starts_with("//")).any(|line| {
        let attribute = line.split(['(', ']']).next().unwrap_or(line);
        attribute == "#[test" || attribute.ends_with("::test")
    })
}

fn page(root: &Path) -> Result<String> {
    let names = STATUSES.iter().map(|(status, _)| *status).collect::<Vec<_>>();
    let mut lines = vec![
        "# Parity with GitLab Runner\n".to_owned(),
        "Made from `parity/*.tsv` by `cargo xtask parity`. Each row there is one behaviour of GitLab Runner 19.4 with its"
            .to_owned(),
        "status and the test that shows it.\n".to_owned(),
        format!("| file | rows | {} |", names.join(" | ")),
        format!("|---|---|{}", "---|".repeat(names.len())),
    ];
    let mut total: BTreeMap<String, usize> = BTreeMap::new();
    for (name, keys, _) in FILES {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in read(root, name, keys)? {
            for key in [row.status, ROWS.to_owned()] {
                *counts.entry(key.clone()).or_default() += 1;
                *total.entry(key).or_default() += 1;
            }
        }
        lines.push(counted(&format!("[{name}](parity/{name}.tsv)"), &counts));
    }
    lines.push(counted("all", &total) + "\n");
    lines.extend(STATUSES.iter().map(|(status, meaning)| format!("- **{status}**: {meaning}")));
    lines.push(format!("\nWhat comes later: {}. Until then a job that asks for", LATER.join(", ")));
    lines.push("one of them is told so in its log, and a secret that it cannot get fails it.\n".to_owned());
    lines.push("## What is easily got wrong\n\n| | behaviour | status | shown by |\n|---|---|---|---|".to_owned());
    let behaviours = FILES.iter().find(|(name, ..)| *name == BEHAVIOURS);
    for row in behaviours.map(|(name, keys, _)| read(root, name, keys)).transpose()?.unwrap_or_default() {
        let tests = row.test.split_whitespace().map(|test| test.rsplit(['/', ':']).next().unwrap_or(test));
        let tests = tests.map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", ");
        let shown = if tests.is_empty() { row.note } else { tests };
        lines.push(format!("| {} | {} | {shown} |", row.key.replacen(" / ", " | ", 1), row.status));
    }
    Ok(lines.join("\n") + "\n")
}

fn counted(name: &str, counts: &BTreeMap<String, usize>) -> String {
    let count = |key: &str| counts.get(key).copied().unwrap_or_default().to_string();
    let numbers = STATUSES.iter().map(|(status, _)| count(status)).collect::<Vec<_>>().join(" | ");
    format!("| {name} | {} | {numbers} |", count(ROWS))
}

#[cfg(test)]
mod tests {
    use super::{Row, is_test, problem};

    fn problem_of(status: &str, test: &str, note: &str) -> Option<String> {
        let [status, test, note] = [status, test, note].map(str::to_owned);
        problem(&crate::root(), &Row { key: "a row".to_owned(), status, test, note })
    }

    #[test]
    fn a_row_without_status_test_or_reason_is_reported() {
        let here = "xtask/src/tidy/parity.rs::a_row_without_status_test_or_reason_is_reported";
        for (status, test, note) in [
            ("done", here, ""),
            ("done", "e2e/scenarios/success", ""),
            ("not applicable", "", "it is for Windows"),
            ("later", "", "caches: keys"),
        ] {
            assert_eq!(problem_of(status, test, note), None, "{status} {test} {note}");
        }
        for (status, test, note, problem) in [
            ("", "", "", "has no status"),
            ("finished", "", "", "has the status finished, which is none"),
            ("done", "", "", "is done and names no test"),
            ("done", "e2e/scenarios/nothing", "", "there is no test e2e/scenarios/nothing"),
            ("later", "", "soon", "later is for caches"),
            ("accepted and reported", "", "", "has no reason in its note"),
            ("not applicable", "e2e", "why", "there is no test e2e"),
        ] {
            assert!(problem_of(status, test, note).unwrap().starts_with(problem), "{status} {test} {note}");
        }
    }

    #[test]
    fn only_what_is_marked_as_a_test_is_one() {
        let text = "#[test]\nfn one() {}\n\nfn two() {}\n#[tokio::test(flavor = \"x\")]\n// Why.\nasync fn three() {}";
        assert_eq!(["one", "two", "three", "four"].map(|name| is_test(text, name)), [true, false, true, false]);
    }
}
