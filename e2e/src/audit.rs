//! What a manager asked of the Kubernetes API, from the API server's own audit log.
//!
//! Its questions at the start (what it may do, which version this is), its lists and watches, its Lease and its looks for
//! what nobody cares for are per manager, not per job. Of lists only those of events belong to a job.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// One request, as far as we count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Kubernetes' verb.
    pub verb: String,
    /// Plural, with the subresource after a slash.
    pub resource: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
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
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    name: String,
    subresource: String,
}

/// Where the log ends now: what comes later is newer.
pub fn end(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |file| file.len())
}

/// What `user` asked for its jobs since `start`, with how often.
///
/// # Errors
/// When the log cannot be read.
pub fn since(log: &Path, start: u64, user: &str) -> std::io::Result<BTreeMap<Asked, usize>> {
    let mut file = std::fs::File::open(log)?;
    // The API server begins a new file when one is full.
    file.seek(SeekFrom::Start(if file.metadata()?.len() < start { 0 } else { start }))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(count(&text, user))
}

fn count(text: &str, user: &str) -> BTreeMap<Asked, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains(user)) {
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        let Some(object) = line.object_ref else { continue };
        let is_probe = line.request_uri.contains("dryRun=All") || object.resource == "selfsubjectaccessreviews";
        let is_of_all = object.resource == "leases" || object.name.ends_with("-namespaces");
        let is_list = line.verb == "watch" || (line.verb == "list" && object.resource != "events");
        let is_shared = is_probe || is_of_all || is_list;
        if line.user.username != user || line.stage != "ResponseComplete" || is_shared {
            continue;
        }
        let resource = match object.subresource.as_str() {
            "" => object.resource,
            sub => format!("{}/{sub}", object.resource),
        };
        *counts.entry(Asked { verb: line.verb, resource }).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    #[test]
    fn requests_of_a_job_are_counted_and_those_of_a_start_and_of_others_are_not() {
        let line = |user: &str, verb: &str, resource: &str, uri: &str| {
            format!(
                r#"{{"stage":"ResponseComplete","requestURI":"{uri}","verb":"{verb}","user":{{"username":"{user}"}},"objectRef":{{"resource":"{resource}"}}}}"#
            )
        };
        let text = [
            line("me", "create", "pods", "/x?dryRun=All"),
            line("me", "list", "pods", "/x"),
            line("me", "create", "pods", "/x"),
            line("me", "list", "events", "/x"),
            line("me", "update", "leases", "/x"),
            line("me", "watch", "pods", "/x"),
            line("me", "create", "selfsubjectaccessreviews", "/x"),
            line("you", "create", "pods", "/x"),
            line("me", "create", "pods", "/x").replace("ResponseComplete", "ResponseStarted"),
            "{ half a li".to_owned(),
        ];
        let counts = super::count(&text.join("\n"), "me");
        let counts = counts.iter().map(|(asked, number)| (asked.verb.as_str(), asked.resource.as_str(), *number));
        assert_eq!(counts.collect::<Vec<_>>(), [("create", "pods", 1), ("list", "events", 1)]);
    }
}
