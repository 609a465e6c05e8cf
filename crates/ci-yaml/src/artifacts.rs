//! `artifacts`.

use crate::compile::Context;
use crate::pipeline::Artifacts;
use crate::timing;
use crate::yaml::{Map, Node, Value};

const KNOWN: &[&str] = &["name", "paths", "exclude", "untracked", "when", "expire_in", "reports"];
const UNHANDLED: &[(&str, &str)] = &[
    ("expose_as", "there is no merge request to show them in"),
    ("public", "all artifacts stay on this machine"),
    ("access", "all artifacts stay on this machine"),
];

/// Reports that GitLab knows.
const REPORTS: &[&str] = &[
    "accessibility",
    "annotations",
    "api_fuzzing",
    "browser_performance",
    "cluster_image_scanning",
    "codequality",
    "container_scanning",
    "coverage_fuzzing",
    "coverage_report",
    "cyclonedx",
    "dast",
    "dependency_scanning",
    "dotenv",
    "junit",
    "license_scanning",
    "load_performance",
    "lsif",
    "metrics",
    "performance",
    "repository_xray",
    "requirements",
    "requirements_v2",
    "sarif",
    "sast",
    "secret_detection",
    "terraform",
];

/// A job's artifacts.
pub(crate) fn read(context: &Context<'_>, job: &Map, name: &str) -> Option<Artifacts> {
    let entry = job.get("artifacts").filter(|entry| !entry.node.is_null())?;
    let map = context.as_map(&entry.node, "artifacts")?;
    context.check_keys(map, ("artifacts", name), KNOWN, UNHANDLED);
    let text = |key: &str| map.get(key).filter(|entry| !entry.node.is_null());
    let strings =
        |key: &str| text(key).map(|entry| context.strings(&entry.node, &format!("artifacts:{key}"))).unwrap_or_default();
    let mut artifacts = Artifacts {
        name: text("name").and_then(|entry| context.string(&entry.node, "artifacts:name")).unwrap_or_default(),
        paths: strings("paths"),
        exclude: strings("exclude"),
        untracked: text("untracked").and_then(|entry| context.boolean(&entry.node, "artifacts:untracked")).unwrap_or(false),
        when: text("when")
            .and_then(|entry| context.choice(&entry.node, "artifacts:when", &["on_success", "on_failure", "always"]))
            .unwrap_or("on_success")
            .to_owned(),
        expire_in: text("expire_in").map(|entry| expire_in(context, &entry.node)).unwrap_or_default(),
        dotenv: Vec::new(),
    };
    if let Some(reports) = text("reports").and_then(|entry| context.as_map(&entry.node, "artifacts:reports")) {
        warn_reports(context, reports, name);
        let dotenv = reports.get("dotenv").filter(|entry| !entry.node.is_null());
        artifacts.dotenv = dotenv.map(|entry| files(context, &entry.node)).unwrap_or_default();
        if artifacts.dotenv.is_empty() && artifacts.paths.is_empty() && !artifacts.untracked {
            return None;
        }
    }
    Some(artifacts)
}

/// One file or a list of them.
fn files(context: &Context<'_>, node: &Node) -> Vec<String> {
    const WHAT: &str = "artifacts:reports:dotenv";
    if node.list().is_some() { context.strings(node, WHAT) } else { context.string(node, WHAT).into_iter().collect() }
}

fn warn_reports(context: &Context<'_>, reports: &Map, name: &str) {
    for report in reports.iter() {
        if !REPORTS.contains(&&*report.key) {
            crate::keywords::unknown(context, report, "`artifacts:reports`", REPORTS);
            continue;
        }
        if &*report.key != "dotenv" {
            let text = format!("`artifacts:reports:{}` is not handled yet: the report is not collected", report.key);
            context.sink.unhandled(report.place, text, name);
        }
    }
}

fn expire_in(context: &Context<'_>, node: &Node) -> String {
    let text = match node.value {
        Value::Text(_) | Value::Int(_) => node.scalar_text().unwrap_or_default(),
        _ => context.string(node, "artifacts:expire_in").unwrap_or_default(),
    };
    let good = text.is_empty() || text.contains('$') || text == "never" || timing::seconds(&text).is_some();
    if !good {
        context.sink.error_with_hint(
            node.place,
            "`artifacts:expire_in` is no duration",
            "as in `1 week` or `2h 30m`, or `never`",
        );
    }
    text
}
