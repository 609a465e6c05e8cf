//! What a volume holds: an empty directory, or files out of the API's objects. Pure.

use crate::quantity;
use crate::spec::fields::{self, Addresses, Capacity};
use crate::spec::{ConfigError, Data, Objects, Source};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, Pod, Volume, VolumeProjection};
use std::collections::BTreeMap;

/// Mode of a file when nobody says otherwise (Kubernetes' own).
const DEFAULT_MODE: u32 = 0o644;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What stands in it.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by their path below the volume: relative, without `..`.
pub type Files = BTreeMap<String, File>;

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An empty directory on disk.
    Empty,
    /// An empty directory in memory, with its largest size in bytes.
    Memory(Option<u64>),
    /// Files, read-only.
    Files(Files),
}

/// Why a volume cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Something it needs is not there, and may come.
    #[error("{0}")]
    Missing(String),
    /// It never will be on this node.
    #[error("{0}")]
    Refused(String),
}

impl From<ConfigError> for ContentError {
    fn from(error: ConfigError) -> Self {
        Self::Missing(error.0)
    }
}

/// What a volume may ask.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses, as far as they are known.
    pub addresses: &'a Addresses,
    /// The machine.
    pub capacity: &'a Capacity,
    /// Secrets and ConfigMaps.
    pub objects: &'a dyn Objects,
}

/// Works out what a volume holds.
///
/// # Errors
/// A missing object, or a kind of volume that this node does not have.
pub fn content(question: &Question<'_>, volume: &Volume) -> Result<Content, ContentError> {
    let mut files = Files::new();
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(empty);
    } else if let Some(secret) = &volume.secret {
        let what = Wanted {
            source: Source::Secret,
            name: secret.secret_name.as_deref().unwrap_or_default(),
            items: secret.items.as_deref(),
            optional: secret.optional,
            mode: mode(secret.default_mode, DEFAULT_MODE),
        };
        what.put(question, &mut files)?;
    } else if let Some(map) = &volume.config_map {
        let what = Wanted {
            source: Source::ConfigMap,
            name: &map.name,
            items: map.items.as_deref(),
            optional: map.optional,
            mode: mode(map.default_mode, DEFAULT_MODE),
        };
        what.put(question, &mut files)?;
    } else if let Some(own) = &volume.downward_api {
        downward(question, own.items.as_deref().unwrap_or_default(), mode(own.default_mode, DEFAULT_MODE), &mut files)?;
    } else if let Some(projected) = &volume.projected {
        for part in projected.sources.iter().flatten() {
            projection(question, part, mode(projected.default_mode, DEFAULT_MODE), &mut files)?;
        }
    } else {
        return Err(ContentError::Refused(refusal(volume)));
    }
    Ok(Content::Files(files))
}

fn refusal(volume: &Volume) -> String {
    if let Some(host) = &volume.host_path {
        return format!("hostPath {} is not allowed: pods of this node see nothing of its file system", host.path);
    }
    let kind = serde_json::to_value(volume).ok().and_then(|object| {
        let fields = object.as_object()?;
        fields.keys().find(|key| *key != "name").cloned()
    });
    match kind {
        Some(kind) => format!("volumes of the kind {kind} are not served by this node"),
        None => "the volume names no source".to_owned(),
    }
}

fn empty_dir(empty: &EmptyDirVolumeSource) -> Result<Content, ContentError> {
    let limit = empty.size_limit.as_ref().map(|limit| quantity::whole(&limit.0)).transpose();
    let limit = limit.map_err(|error| ContentError::Refused(format!("sizeLimit: {error}")))?.filter(|limit| *limit > 0);
    match empty.medium.as_deref().unwrap_or_default() {
        "" => Ok(Content::Empty),
        "Memory" => Ok(Content::Memory(limit)),
        other => Err(ContentError::Refused(format!("emptyDir with medium {other} is not served by this node"))),
    }
}

fn projection(question: &Question<'_>, part: &VolumeProjection, mode: u32, files: &mut Files) -> Result<(), ContentError> {
    if let Some(secret) = &part.secret {
        let items = secret.items.as_deref();
        Wanted { source: Source::Secret, name: &secret.name, items, optional: secret.optional, mode }.put(question, files)
    } else if let Some(map) = &part.config_map {
        let items = map.items.as_deref();
        Wanted { source: Source::ConfigMap, name: &map.name, items, optional: map.optional, mode }.put(question, files)
    } else if let Some(own) = &part.downward_api {
        downward(question, own.items.as_deref().unwrap_or_default(), mode, files)
    } else if part.service_account_token.is_some() {
        Err(ContentError::Refused("this node gives out no service account tokens".to_owned()))
    } else if part.cluster_trust_bundle.is_some() {
        Err(ContentError::Refused("this node has no cluster trust bundles".to_owned()))
    } else {
        Ok(())
    }
}

fn downward(
    question: &Question<'_>,
    items: &[DownwardAPIVolumeFile],
    default: u32,
    files: &mut Files,
) -> Result<(), ContentError> {
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            fields::field(question.pod, question.addresses, &reference.field_path)?
        } else if let Some(reference) = &item.resource_field_ref {
            fields::resource(question.pod, None, reference, question.capacity)?
        } else {
            return Err(ContentError::Refused(format!("downwardAPI item {} names no source", item.path)));
        };
        put(files, &item.path, text.into_bytes(), mode(item.mode, default))?;
    }
    Ok(())
}

/// Files out of one Secret or ConfigMap.
struct Wanted<'a> {
    source: Source,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
}

impl Wanted<'_> {
    fn put(&self, question: &Question<'_>, files: &mut Files) -> Result<(), ContentError> {
        let optional = self.optional == Some(true);
        let Some(mut data) = self.source.data(question.objects, self.name, optional)? else { return Ok(()) };
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            return data.into_iter().try_for_each(|(key, bytes)| put(files, &key, bytes, self.mode));
        };
        for item in items {
            match take(&mut data, &item.key) {
                Some(bytes) => put(files, &item.path, bytes, mode(item.mode, self.mode))?,
                None if optional => {}
                None => {
                    let missing = format!("references non-existent {} key: {}", self.source.word(), item.key);
                    return Err(ContentError::Missing(missing));
                }
            }
        }
        Ok(())
    }
}

/// A key may be asked for twice.
fn take(data: &mut Data, key: &str) -> Option<Vec<u8>> {
    data.get(key).cloned()
}

fn put(files: &mut Files, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), ContentError> {
    if !is_inside(path) {
        return Err(ContentError::Refused(format!("path \"{path}\" leads out of the volume")));
    }
    files.insert(path.to_owned(), File { bytes, mode });
    Ok(())
}

/// Whether a path stays below where it starts, by its text.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn mode(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

#[cfg(test)]
mod tests {
    use super::{Content, ContentError, Question, content, is_inside};
    use crate::spec::fake::{FakeObjects, data};
    use crate::spec::fields::{Addresses, Capacity};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn of(volume: Value) -> Result<Content, ContentError> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": []}})).unwrap();
        let mut objects = FakeObjects::default();
        objects.secrets.insert("s".to_owned(), data("token", "secret"));
        objects.config_maps.insert("m".to_owned(), data("file", "text"));
        let question = Question {
            pod: &pod,
            addresses: &Addresses::default(),
            capacity: &Capacity { cpu_milli: 1, memory: 1, disk: 1 },
            objects: &objects,
        };
        content(&question, &serde_json::from_value(volume).unwrap())
    }

    /// `path mode text` of every file.
    fn files(volume: Value) -> Vec<String> {
        match of(volume) {
            Ok(Content::Files(files)) => files
                .iter()
                .map(|(path, file)| format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.bytes)))
                .collect(),
            other => panic!("no files: {other:?}"),
        }
    }

    #[test]
    fn a_projected_volume_joins_its_sources() {
        let found = files(json!({"name": "v", "projected": {"defaultMode": 256, "sources": [
            {"secret": {"name": "s"}},
            {"configMap": {"name": "m", "items": [{"key": "file", "path": "a/b", "mode": 420}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"secret": {"name": "gone", "optional": true}},
        ]}}));
        assert_eq!(found, ["a/b 644 text", "name 400 p", "token 400 secret"]);
    }

    #[test]
    fn what_is_missing_may_come_and_what_is_refused_never_does() {
        let missing = |volume| match of(volume) {
            Err(ContentError::Missing(text)) => text,
            other => panic!("{other:?}"),
        };
        let refused = |volume| match of(volume) {
            Err(ContentError::Refused(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(json!({"name": "v", "secret": {"secretName": "gone"}})), "secret \"gone\" not found");
        let key = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}});
        assert_eq!(missing(key), "references non-existent secret key: k");
        assert!(refused(json!({"name": "v", "hostPath": {"path": "/etc"}})).contains("/etc is not allowed"));
        assert!(refused(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})).contains("persistentVolumeClaim"));
        let token = json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
        assert!(refused(token).contains("no service account tokens"));
        let outside = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "token", "path": "../x"}]}});
        assert!(refused(outside).contains("leads out"));
    }

    #[test]
    fn an_empty_dir_lives_on_disk_or_in_memory() {
        assert_eq!(of(json!({"name": "v", "emptyDir": {}})), Ok(Content::Empty));
        let memory = json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
        assert_eq!(of(memory), Ok(Content::Memory(Some(1 << 20))));
        assert!(of(json!({"name": "v", "emptyDir": {"medium": "HugePages"}})).is_err());
    }

    #[test]
    fn paths_that_lead_out_are_seen() {
        assert!(is_inside("a/b.c"));
        for bad in ["", "/a", "../a", "a/../b", "a//b", "a/", "."] {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
