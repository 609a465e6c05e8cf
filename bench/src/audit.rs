//! Counts requests to the Kubernetes API in its audit log.
//!
//! Each runner has a service account of its own, so the log says whose request it was. A request has one number
//! (`auditID`) and up to two lines; it counts once, however long it watches. Access reviews belong to the start and
//! not to a job.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Requests by `verb resource`.
pub type Counts = BTreeMap<String, u64>;

/// A place in the log, from which requests are counted.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "auditID")]
    audit_id: String,
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

impl Mark {
    /// The end of the log as it is now.
    pub fn now(path: &Path) -> Result<Self> {
        let length =
            std::fs::metadata(path).with_context(|| format!("failed to look at the audit log {}", path.display()))?.len();
        Ok(Self { path: path.to_owned(), offset: length })
    }

    /// Requests of a user since the mark. A log that was rotated meanwhile is read from its beginning.
    pub fn count(&self, user: &str) -> Result<Counts> {
        let mut file = std::fs::File::open(&self.path).with_context(|| format!("failed to open {}", self.path.display()))?;
        let start = if file.metadata()?.len() < self.offset { 0 } else { self.offset };
        file.seek(SeekFrom::Start(start))?;
        count(BufReader::new(file), user)
    }
}

/// Counts the requests of a user.
pub fn count(log: impl BufRead, user: &str) -> Result<Counts> {
    let (mut seen, mut counts) = (HashSet::new(), Counts::new());
    for line in log.split(b'\n') {
        let line = line.context("failed to read the audit log")?;
        // The last line may be half written.
        let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
        if line.user.username != user || !seen.insert(line.audit_id.clone()) {
            continue;
        }
        let what = resource(&line);
        if !what.ends_with("accessreviews") {
            *counts.entry(format!("{} {what}", line.verb)).or_default() += 1;
        }
    }
    Ok(counts)
}

fn resource(line: &Line) -> String {
    match &line.object_ref {
        Some(object) if object.subresource.is_empty() => object.resource.clone(),
        Some(object) => format!("{}/{}", object.resource, object.subresource),
        None => line.request_uri.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// All requests.
pub fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

#[cfg(test)]
mod tests {
    use super::{count, total};
    use serde_json::json;
    use std::io::Cursor;

    fn line(id: &str, user: &str, verb: &str, object: &serde_json::Value) -> String {
        let (verb, id) = (verb.to_owned(), id.to_owned());
        json!({"kind": "Event", "auditID": id, "verb": verb, "user": {"username": user, "groups": []}, "objectRef": object,
            "stage": "ResponseComplete", "requestURI": "/api/v1/x?y=1"})
        .to_string()
    }

    #[test]
    fn requests_of_one_user_are_counted_once_by_verb_and_resource() {
        let pods = json!({"resource": "pods", "namespace": "n"});
        let log = [
            line("1", "us", "create", &pods),
            line("2", "us", "watch", &pods),
            line("2", "us", "watch", &pods),
            line("3", "them", "create", &pods),
            line("4", "us", "create", &json!({"resource": "pods", "subresource": "exec"})),
            line("5", "us", "create", &json!({"resource": "selfsubjectaccessreviews"})),
            line("6", "us", "get", &json!(null)),
            line("7", "us", "create", &pods),
            "{\"half a li".to_owned(),
        ];
        let counts = count(Cursor::new(log.join("\n")), "us").unwrap();
        let shown: Vec<_> = counts.iter().map(|(what, number)| format!("{number} {what}")).collect();
        assert_eq!(shown, ["2 create pods", "1 create pods/exec", "1 get /api/v1/x", "1 watch pods"]);
        assert_eq!(total(&counts), 5);
    }
}
