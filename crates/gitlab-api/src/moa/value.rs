//! Values, how they compare and how they look in a text.

use std::cmp::Ordering;

/// A value of the language, which are those of JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Names with values, in the order they came.
    Object(Vec<(String, Value)>),
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(list) => Self::Array(list.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => Self::Object(map.into_iter().map(|(key, value)| (key, value.into())).collect()),
        }
    }
}

impl Value {
    /// What it is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Whether it counts as true.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Number(number) => *number != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::Array(list) => !list.is_empty(),
            Self::Object(map) => !map.is_empty(),
        }
    }

    /// As it stands in a text.
    pub fn text(&self) -> String {
        match self {
            Self::Null => "<null>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::String(text) => text.clone(),
            Self::Array(_) | Self::Object(_) => self.json(),
        }
    }

    /// Bytes of what is in it.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 8,
            Self::String(text) => text.len() + 8,
            Self::Array(list) => list.iter().map(|one| one.size() + 8).sum(),
            Self::Object(map) => map.iter().map(|(key, one)| key.len() + one.size() + 8).sum(),
        }
    }

    fn json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let listed = |parts: Vec<String>| parts.join(",");
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(_) | Self::Number(_) => self.text(),
            Self::String(text) => quoted(text),
            Self::Array(list) => format!("[{}]", listed(list.iter().map(Self::json).collect())),
            Self::Object(map) => {
                let pairs = map.iter().map(|(key, value)| format!("{}:{}", quoted(key), value.json()));
                format!("{{{}}}", listed(pairs.collect()))
            }
        }
    }

    /// Kinds first, then values; names of objects in any order.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.partial_cmp(other).unwrap_or(Ordering::Equal),
            (Self::String(one), Self::String(other)) => one.cmp(other),
            (Self::Array(one), Self::Array(other)) => {
                let unequal = one.iter().zip(other).map(|(one, other)| one.compare(other)).find(|order| order.is_ne());
                unequal.unwrap_or(one.len().cmp(&other.len()))
            }
            (Self::Object(one), Self::Object(other)) => {
                let sorted = |map: &[(String, Self)]| {
                    let mut map = map.to_vec();
                    map.sort_by(|(one, _), (other, _)| one.cmp(other));
                    map
                };
                let (one, other) = (sorted(one), sorted(other));
                let names = || one.iter().map(|(name, _)| name).cmp(other.iter().map(|(name, _)| name));
                let values = || {
                    let pairs = one.iter().zip(&other).map(|((_, one), (_, other))| one.compare(other));
                    pairs.fold(Ordering::Equal, Ordering::then)
                };
                one.len().cmp(&other.len()).then_with(names).then_with(values)
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::String(_) => 3,
            Self::Array(_) => 4,
            Self::Object(_) => 5,
        }
    }
}
