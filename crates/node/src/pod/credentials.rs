//! Registry logins out of a pod's `imagePullSecrets`. Pure.

use crate::spec::Data;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// The proof.
    pub password: String,
}

/// The login for an image, out of the data of all pull secrets: the most exact entry, the first of equals.
pub fn for_image(secrets: &[Data], image: &str) -> Option<Credentials> {
    let place = place(image);
    let mut best: Option<(usize, Credentials)> = None;
    for (key, entry) in secrets.iter().flat_map(entries) {
        let key = normalized(&key);
        let fits = place == key || place.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let better = best.as_ref().is_none_or(|(length, _)| key.len() > *length);
        if let Some(found) = (fits && better).then(|| login(&entry)).flatten() {
            best = Some((key.len(), found));
        }
    }
    best.map(|(_, found)| found)
}

fn entries(secret: &Data) -> Vec<(String, Value)> {
    let object = |key: &str| secret.get(key).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let new = object(".dockerconfigjson").map(|mut config| config["auths"].take());
    let map = new.or_else(|| object(".dockercfg"));
    let entries = map.as_ref().and_then(Value::as_object).into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn login(entry: &Value) -> Option<Credentials> {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials { username, password });
    }
    let decoded = STANDARD.decode(text("auth")?.trim()).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.to_owned() })
}

/// Registry and path of an image, Docker Hub's default written out.
fn place(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    if first.contains(['.', ':']) || first == "localhost" {
        return format!("{}/{rest}", first.trim_start_matches("index."));
    }
    format!("docker.io/{image}")
}

fn normalized(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    key.strip_prefix("index.docker.io").map_or_else(|| key.to_owned(), |rest| format!("docker.io{rest}"))
}

#[cfg(test)]
mod tests {
    use super::for_image;
    use crate::spec::Data;
    use serde_json::json;

    fn secrets() -> Vec<Data> {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "registry.example.com": {"auth": "d2hvbGU6cA=="},
            "registry.example.com/group": {"username": "group", "password": "p"},
            "broken.example.com": {"auth": "!"},
        }});
        vec![Data::new(), Data::from([(".dockerconfigjson".to_owned(), config.to_string().into_bytes())])]
    }

    #[test]
    fn the_most_exact_login_is_used() {
        for (image, expected) in [
            ("alpine:3", Some("hub")),
            ("docker.io/library/alpine", Some("hub")),
            ("registry.example.com/app", Some("whole")),
            ("registry.example.com/group/app:1", Some("group")),
            ("registry.example.com/groupies/app", Some("whole")),
            ("registry.example.com:5000/app", None),
            ("broken.example.com/app", None),
            ("host", Some("hub")),
        ] {
            assert_eq!(for_image(&secrets(), image).map(|found| found.username).as_deref(), expected, "{image}");
        }
    }
}
