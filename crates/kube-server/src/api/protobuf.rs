//! The few objects that kubectl sends as protobuf and in nothing else: what `kubectl create secret`, `configmap`,
//! `namespace` and `serviceaccount` make.
//!
//! kubectl does not try again with JSON when protobuf is refused. Only the fields that those commands can set are
//! read, and one that is not known here is refused rather than lost. Other kinds are refused as a whole.

use crate::{ApiError, Kind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What stands before every object.
const MAGIC: &[u8] = b"k8s\0";

/// Reads the body of a request for `kind`.
pub fn decode(kind: Kind, body: &[u8]) -> Result<Value, ApiError> {
    if !matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::ServiceAccount) {
        let message = format!("{} are read as JSON here, not as protobuf; create them from a file", kind.resource());
        return Err(ApiError::unsupported_media_type(message));
    }
    let read = || {
        let envelope = fields(body.strip_prefix(MAGIC)?)?;
        let raw = envelope.iter().find_map(|field| (field.number == 2).then_some(field.bytes))?;
        let mut object = json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": {}});
        for field in fields(raw)? {
            match (kind, field.number) {
                (_, 1) => object["metadata"] = metadata(field.bytes)?,
                (Kind::Secret, 2) | (Kind::ConfigMap, 3) => {
                    let (key, value) = entry(field.bytes)?;
                    let map = if kind == Kind::Secret { "data" } else { "binaryData" };
                    object[map][key] = json!(STANDARD.encode(value));
                }
                (Kind::ConfigMap, 2) | (Kind::Secret, 4) => {
                    let (key, value) = entry(field.bytes)?;
                    let map = if kind == Kind::Secret { "stringData" } else { "data" };
                    object[map][key] = json!(std::str::from_utf8(value).ok()?);
                }
                (Kind::Secret, 3) if field.bytes.is_empty() => {}
                (Kind::Secret, 3) => object["type"] = text(field.bytes)?,
                (Kind::Secret, 5) | (Kind::ConfigMap, 4) => object["immutable"] = json!(field.varint != 0),
                // Spec and status of a namespace, which the server sets itself.
                (Kind::Namespace, 2 | 3) => {}
                _ => return None,
            }
        }
        Some(object)
    };
    read().ok_or_else(|| ApiError::bad_request(format!("the protobuf body is not a {} that can be read here", kind.name())))
}

fn metadata(bytes: &[u8]) -> Option<Value> {
    let mut metadata = Map::new();
    for field in fields(bytes)? {
        match field.number {
            1 => drop(metadata.insert("name".to_owned(), text(field.bytes)?)),
            2 => drop(metadata.insert("generateName".to_owned(), text(field.bytes)?)),
            3 => drop(metadata.insert("namespace".to_owned(), text(field.bytes)?)),
            11 | 12 => {
                let (key, value) = entry(field.bytes)?;
                let map = if field.number == 11 { "labels" } else { "annotations" };
                metadata.entry(map).or_insert_with(|| json!({}))[key] = text(value)?;
            }
            // Self link, uid, version, generation and times, which the server sets itself.
            4..=10 => {}
            _ => return None,
        }
    }
    metadata.retain(|_, value| value != "");
    Some(Value::Object(metadata))
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(|text| json!(text))
}

/// One entry of a map: its key and its value.
fn entry(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (mut key, mut value): (&str, &[u8]) = ("", &[]);
    for field in fields(bytes)? {
        match field.number {
            1 => key = std::str::from_utf8(field.bytes).ok()?,
            2 => value = field.bytes,
            _ => return None,
        }
    }
    Some((key, value))
}

/// One field of a message: its bytes, or its number.
struct Field<'a> {
    number: u64,
    bytes: &'a [u8],
    varint: u64,
}

/// Splits a message; `None` when it is not one.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let mut field = Field { number: tag >> 3, bytes: &[], varint: 0 };
        match tag & 7 {
            0 => field.varint = varint(&mut bytes)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                (field.bytes, bytes) = bytes.split_at_checked(length)?;
            }
            _ => return None,
        }
        found.push(field);
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, decode};
    use crate::Kind;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn secret() -> Vec<u8> {
        let label = field(11, &[field(1, b"app"), field(2, b"web")].concat());
        let metadata = field(1, &[field(1, b"s"), field(3, b"ci"), label].concat());
        let data = field(2, &[field(1, b"k"), field(2, &[0, 255])].concat());
        let raw = [metadata, data, field(3, b"Opaque"), vec![5 << 3, 1]].concat();
        [MAGIC, &field(2, &raw)].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let expected = json!({"kind": "Secret", "apiVersion": "v1", "type": "Opaque", "immutable": true,
            "metadata": {"name": "s", "namespace": "ci", "labels": {"app": "web"}}, "data": {"k": "AP8="}});
        assert_eq!(decode(Kind::Secret, &secret()).unwrap(), expected);
    }

    #[test]
    fn every_damaged_body_is_refused() {
        let whole = secret();
        for end in 0..whole.len() {
            assert_eq!(decode(Kind::Secret, &whole[..end]).unwrap_err().code, 400, "cut at {end}");
        }
        for body in [&[MAGIC, &[0x12, 0xff]].concat()[..], &[0xff; 40], &[MAGIC, &[0xff; 12]].concat()] {
            assert_eq!(decode(Kind::Secret, body).unwrap_err().code, 400);
        }
        assert_eq!(decode(Kind::Pod, &whole).unwrap_err().code, 415);
    }
}
