//! Tables: what `kubectl get` shows, which the server lays out and not kubectl.

mod age;
mod columns;
mod pod;

use crate::Kind;
use axum::http::HeaderMap;
use serde_json::{Value, json};

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata, which is what is sent unless asked otherwise.
    Metadata,
    /// All of the object.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// Whether the client wants a table: the first media type of its list that we can answer with decides.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.collect();
        let is_table = media_type == "application/json" && parameters.contains(&"as=Table");
        match media_type {
            _ if is_table && parameters.contains(&"v=v1") && parameters.contains(&"g=meta.k8s.io") => return true,
            // Another version of tables; what comes next in the list may be readable.
            _ if is_table => {}
            "application/json" | "application/*" | "*/*" => return false,
            _ => {}
        }
    }
    false
}

/// A table of objects. In a watch only the first one has the definitions of the columns.
pub fn of<'a>(kind: Kind, objects: impl Iterator<Item = &'a Value>, include: Include, with_columns: bool) -> Value {
    let rows: Vec<_> = objects.map(|object| row(kind, object, include)).collect();
    let columns = if with_columns { columns::definitions(kind) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}

fn row(kind: Kind, object: &Value, include: Include) -> Value {
    let cells = columns::cells(kind, object);
    match include {
        Include::None => json!({"cells": cells}),
        Include::Object => json!({"cells": cells, "object": object}),
        Include::Metadata => json!({"cells": cells, "object": {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]}}),
    }
}

#[cfg(test)]
mod tests {
    use super::is_wanted;
    use axum::http::HeaderMap;

    #[test]
    fn the_first_readable_media_type_decides() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", accept.parse().unwrap());
            is_wanted(&headers)
        };
        let kubectl =
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert!(wants(kubectl));
        assert!(!wants("application/json"));
        assert!(!wants("application/json, application/json;as=Table;v=v1;g=meta.k8s.io"));
        assert!(!wants("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"));
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
