//! `docs/reliability.md`, made of the results of chaos runs: what was done, how often, what was lost.
//!
//! Nothing in it is written by hand, so that it says what was measured and no more; tidy compares it with the results.

use crate::root;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const RESULTS: &str = "e2e/chaos/results";
const DOCUMENT: &str = "docs/reliability.md";

const HEAD: &str = "# Reliability

Made by `cargo xtask chaos --report` from the results in `e2e/chaos/results`. Not written by hand.

Each run starts the shipped programs as processes of their own and makes trouble at random instants, from a seed, while jobs run. A job
prints numbered lines and at its end a checksum over them; some clone a repository with a submodule, ask a service, keep artifacts, have an
after_script that may fail, or print odd bytes. Afterwards its log at GitLab is read: every line has to be there, in order,
once, the checksum has to fit, and length and CRC-32 have to be those that the runner told. Its state and exit code have to be right,
its script has to have begun once, its end has to have been told in one way. At the end no pod and no Secret may be left. GitLab is the
embedded coordinator.

- **lost**: a job that did not end, or not as it had to.
- **doubled**: a job that ran, was logged or was told twice.
- **mismatches**: a log that is not exact.
- **leaked**: a pod or a Secret that is left.

A job whose own agent or container was killed has to fail as `runner_system_failure`, with a log that is exact up to there. One that was
canceled has to be canceled at GitLab, with a log that is exact up to there and says how it ended, unless its script had not begun; behind a
script that a cancel ended its after_script has to have run.
";

/// What is read of a result.
#[derive(Debug, Deserialize)]
struct Outcome {
    command: String,
    target: String,
    trouble: Vec<String>,
    minutes: f64,
    running: u64,
    outage: Option<u64>,
    jobs: u64,
    log_bytes: u64,
    strokes: BTreeMap<String, u64>,
    kills: BTreeMap<String, u64>,
    lost: u64,
    doubled: u64,
    trace_mismatches: u64,
    leaked: u64,
    other: u64,
    ends: BTreeMap<String, u64>,
    figures: BTreeMap<String, f64>,
    problems: Vec<String>,
}

/// Writes the document.
pub fn write() -> Result<()> {
    let path = root().join(DOCUMENT);
    std::fs::create_dir_all(root().join("docs"))?;
    std::fs::write(&path, made(&root())?).with_context(|| format!("failed to write {}", path.display()))?;
    eprintln!("{}: written", path.display());
    Ok(())
}

/// The rule that the document is that of the results.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let expected = made(root)?;
    let found = std::fs::read_to_string(root.join(DOCUMENT)).unwrap_or_default();
    let is_old = found != expected;
    Ok(is_old.then(|| format!("{DOCUMENT} is not that of {RESULTS}: cargo xtask chaos --report")).into_iter().collect())
}

fn made(root: &Path) -> Result<String> {
    let mut results = Vec::new();
    let directory = root.join(RESULTS);
    // git keeps no empty directory.
    for entry in std::fs::read_dir(&directory).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path)?;
            let result: Outcome = serde_json::from_str(&text).with_context(|| format!("{} is no result", path.display()))?;
            results.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), result));
        }
    }
    results.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(document(&results))
}

fn document(results: &[(String, Outcome)]) -> String {
    let mut text = HEAD.to_owned();
    text += "\n## All runs\n\n";
    text += "| run | on | trouble | times | jobs | minutes | log MB | lost | doubled | mismatches | leaked |\n";
    text += "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for (name, one) in results {
        let times: u64 = one.trouble.iter().filter_map(|kind| one.strokes.get(kind)).sum();
        let trouble = if one.trouble.is_empty() { "none".to_owned() } else { one.trouble.join(", ") };
        let _ = writeln!(
            text,
            "| {name} | {} | {trouble} | {times} | {} | {:.1} | {:.1} | {} | {} | {} | {} |",
            one.target,
            one.jobs,
            one.minutes,
            one.log_bytes as f64 / 1e6,
            one.lost,
            one.doubled,
            one.trace_mismatches,
            one.leaked
        );
    }
    for (name, one) in results {
        run_in_words(&mut text, name, one);
    }
    text
}

fn run_in_words(text: &mut String, name: &str, one: &Outcome) {
    let _ = write!(text, "\n## {name}\n\n`{}`\n\nUp to {} jobs at once", one.command, one.running);
    let _ = match one.outage {
        Some(seconds) => writeln!(text, "; each outage lasted {seconds} s.\n"),
        None => writeln!(text, ".\n"),
    };
    let list =
        |map: &BTreeMap<String, u64>| map.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ");
    for (what, map) in [("Trouble", &one.strokes), ("Ends of jobs", &one.ends)].into_iter().filter(|(_, map)| !map.is_empty()) {
        let _ = writeln!(text, "- {what}: {}", list(map));
    }
    if !one.kills.is_empty() {
        let _ = writeln!(text, "- Kills that hit at least one job in this phase: {}", phases(&one.kills));
    }
    if one.other > 0 {
        let _ = writeln!(text, "- Other things that must not be: {}", one.other);
    }
    for (figure, value) in &one.figures {
        let _ = writeln!(text, "- {figure}: {value:.1}");
    }
    for problem in &one.problems {
        let _ = writeln!(text, "- **wrong**: {}", problem.replace('\n', " "));
    }
}

/// In a job's order.
fn phases(kills: &BTreeMap<String, u64>) -> String {
    const ORDER: [&str; 10] =
        ["asked", "stored", "confirmed", "launched", "pending", "running", "finishing", "telling", "cleaning", "idle"];
    let known = ORDER.iter().filter_map(|phase| Some(format!("{phase} {}", kills.get(*phase)?)));
    known.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_result_becomes_a_row_and_a_section() {
        let json = r#"{"command": "cargo xtask chaos --seed 1", "target": "node", "trouble": ["manager-kill"], "minutes": 2.04,
            "running": 12, "outage": null, "jobs": 60, "log_bytes": 5000000, "strokes": {"manager-kill": 20},
            "kills": {"running": 19, "asked": 3}, "lost": 0, "doubled": 0, "trace_mismatches": 0, "leaked": 0, "other": 0,
            "ends": {"success": 60}, "figures": {}, "problems": []}"#;
        let text = super::document(&[("short".to_owned(), serde_json::from_str(json).unwrap())]);
        assert!(text.contains("| short | node | manager-kill | 20 | 60 | 2.0 | 5.0 | 0 | 0 | 0 | 0 |"), "{text}");
        assert!(text.contains("phase: asked 3, running 19\n"), "{text}");
    }
}
