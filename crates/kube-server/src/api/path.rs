//! Reads paths and queries of the API.

use crate::{ApiError, Kind, Selectors};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Kind of the objects.
    pub kind: Kind,
    /// Namespace, for namespaced kinds; `None` means all.
    pub namespace: Option<String>,
    /// One object; `None` means the collection.
    pub name: Option<String>,
    /// `status`, `log`, …
    pub subresource: Option<String>,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub fn parse(path: &str) -> Result<Self, ApiError> {
        let nowhere = || ApiError::no_such_path(path);
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return Err(nowhere()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, resource, rest @ ..] if !matches!(*resource, "status" | "finalize") => {
                (Some((*namespace).to_owned()), [&[*resource], rest].concat())
            }
            rest => (None, rest.to_vec()),
        };
        let (resource, rest) = rest.split_first().ok_or_else(nowhere)?;
        let kind = Kind::find(&version, resource).ok_or_else(nowhere)?;
        if rest.len() > 2 || (namespace.is_some() && !kind.is_namespaced()) {
            return Err(nowhere());
        }
        let part = |index: usize| rest.get(index).map(|part| (*part).to_owned());
        Ok(Self { kind, namespace, name: part(0), subresource: part(1) })
    }

    /// The namespace for calls that need one.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// The query, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key, in their order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether a key is set to true, as Kubernetes reads it.
    pub fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|_| ApiError::bad_request(format!("{key} must be a number, not {text:?}")));
        self.get(key).filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// Both selectors.
    pub fn selectors(&self) -> Result<Selectors, ApiError> {
        Selectors::parse(self.get("labelSelector").unwrap_or_default(), self.get("fieldSelector").unwrap_or_default())
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match hex {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Query, Target};
    use crate::Kind;

    #[test]
    fn paths_name_kinds_objects_and_subresources() {
        let target = Target::parse("/api/v1/namespaces/ci/pods/p/log").unwrap();
        assert_eq!((target.kind, target.namespace(), target.name.as_deref()), (Kind::Pod, "ci", Some("p")));
        assert_eq!(target.subresource.as_deref(), Some("log"));
        let lease = Target::parse("/apis/coordination.k8s.io/v1/namespaces/ci/leases").unwrap();
        assert_eq!((lease.kind, lease.name), (Kind::Lease, None));
        assert_eq!(Target::parse("/api/v1/namespaces/ci").unwrap().kind, Kind::Namespace);
        assert_eq!(Target::parse("/api/v1/nonsense").unwrap_err().code, 404);
        assert_eq!(Target::parse("/api/v1/namespaces/a/nodes").unwrap_err().code, 404);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=true&limit=x");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.is_true("watch"));
        assert_eq!(query.number("limit").unwrap_err().code, 400);
    }
}
