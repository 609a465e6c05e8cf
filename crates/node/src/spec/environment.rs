//! The environment of a container: `envFrom`, then `env` in order, each value expanded with what stands before it.

use super::fields::{self, Addresses, Capacity};
use super::{ConfigError, Objects, Source, expand};
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};

/// Whose environment, and what it may ask.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container of it.
    pub container: &'a Container,
    /// Its addresses.
    pub addresses: &'a Addresses,
    /// The machine.
    pub capacity: &'a Capacity,
    /// Secrets and ConfigMaps.
    pub objects: &'a dyn Objects,
}

/// What the pod gives to its container (the image's own environment is not in it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Names, each once, with their values.
    pub variables: Vec<(String, String)>,
    /// Keys that are no names of variables, and were left out: `source "kind/name": key`.
    pub invalid: Vec<String>,
}

impl Environment {
    /// A value by name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }
}

/// Works out the environment.
///
/// # Errors
/// A Secret, ConfigMap or key that is missing and must not be, in the kubelet's words.
pub fn environment(question: &Question<'_>) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    for source in question.container.env_from.iter().flatten() {
        all_of(question, source, &mut environment)?;
    }
    for variable in question.container.env.iter().flatten() {
        if let Some(value) = value(question, variable, &environment)? {
            environment.set(&variable.name, value);
        }
    }
    Ok(environment)
}

fn all_of(question: &Question<'_>, source: &EnvFromSource, environment: &mut Environment) -> Result<(), ConfigError> {
    let (kind, name, optional) = match (&source.secret_ref, &source.config_map_ref) {
        (Some(secret), _) => (Source::Secret, secret.name.as_str(), secret.optional),
        (None, Some(map)) => (Source::ConfigMap, map.name.as_str(), map.optional),
        (None, None) => return Ok(()),
    };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    for (key, bytes) in kind.data(question.objects, name, optional == Some(true))?.into_iter().flatten() {
        let variable = format!("{prefix}{key}");
        // Kubernetes lets almost every printable character pass as a name since 1.32; these would break the process.
        if variable.is_empty() || variable.contains(['=', '\0']) {
            environment.invalid.push(format!("{}/{name}: {key}", kind.kind()));
            continue;
        }
        environment.set(&variable, text(bytes, kind, name, &key)?);
    }
    Ok(())
}

fn value(question: &Question<'_>, variable: &EnvVar, before: &Environment) -> Result<Option<String>, ConfigError> {
    if let Some(literal) = variable.value.as_deref().filter(|value| !value.is_empty()) {
        return Ok(Some(expand(literal, |name| before.get(name))));
    }
    match &variable.value_from {
        None => Ok(Some(String::new())),
        Some(source) => from(question, source),
    }
}

fn from(question: &Question<'_>, source: &EnvVarSource) -> Result<Option<String>, ConfigError> {
    if let Some(reference) = &source.field_ref {
        return fields::field(question.pod, question.addresses, &reference.field_path).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return fields::resource(question.pod, Some(&question.container.name), reference, question.capacity).map(Some);
    }
    let (kind, name, key, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(one), _) => (Source::Secret, one.name.as_str(), one.key.as_str(), one.optional),
        (None, Some(one)) => (Source::ConfigMap, one.name.as_str(), one.key.as_str(), one.optional),
        (None, None) => return Err(ConfigError::new("valueFrom names no source")),
    };
    let optional = optional == Some(true);
    let Some(mut data) = kind.data(question.objects, name, optional)? else { return Ok(None) };
    match data.remove(key) {
        Some(bytes) => text(bytes, kind, name, key).map(Some),
        None if optional => Ok(None),
        None => {
            let namespace = question.pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(ConfigError::new(format!("couldn't find key {key} in {} {namespace}/{name}", kind.kind())))
        }
    }
}

fn text(bytes: Vec<u8>, kind: Source, name: &str, key: &str) -> Result<String, ConfigError> {
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| {
        ConfigError::new(format!("key {key} of {} \"{name}\" is no text, so it cannot be a variable", kind.word()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeObjects, data};
    use super::{Addresses, Capacity, ConfigError, Environment, Question, environment};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn of(container: Value) -> Result<Environment, ConfigError> {
        let mut whole = json!({"name": "build"});
        for (key, value) in container.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [whole]}}))
                .unwrap();
        let mut objects = FakeObjects::default();
        objects.secrets.insert("s".to_owned(), data("token", "secret"));
        objects.config_maps.insert("m".to_owned(), data("bad=key", "x"));
        objects.config_maps.insert("n".to_owned(), data("k", "v"));
        let question = Question {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            addresses: &Addresses::default(),
            capacity: &Capacity { cpu_milli: 1000, memory: 1, disk: 1 },
            objects: &objects,
        };
        environment(&question)
    }

    #[test]
    fn values_use_what_stands_before_them() {
        let found = of(json!({"env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "$$(A)"}, {"name": "A", "value": "2"},
            {"name": "E"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]}))
        .unwrap();
        assert_eq!(found.get("A"), Some("2"));
        assert_eq!(found.get("B"), Some("1$(C)"));
        assert_eq!(found.get("C"), Some("$(A)"));
        assert_eq!(found.get("E"), Some(""));
        assert_eq!(found.get("POD"), Some("p"));
    }

    #[test]
    fn secrets_and_config_maps_give_values_that_are_not_expanded_again() {
        let found = of(json!({
            "envFrom": [{"configMapRef": {"name": "n"}, "prefix": "P_"}, {"configMapRef": {"name": "m"}},
                {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}}],
        }))
        .unwrap();
        assert_eq!(found.get("P_k"), Some("v"));
        assert_eq!(found.get("T"), Some("secret"));
        assert_eq!(found.get("O"), None);
        assert_eq!(found.invalid, ["ConfigMap/m: bad=key"]);
    }

    #[test]
    fn what_is_missing_is_told_in_the_kubelets_words() {
        let secret =
            |name: &str, key: &str| json!({"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]});
        assert_eq!(of(secret("gone", "k")).unwrap_err().0, "secret \"gone\" not found");
        assert_eq!(of(secret("s", "k")).unwrap_err().0, "couldn't find key k in Secret ns/s");
        let map = of(json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}));
        assert_eq!(map.unwrap_err().0, "configmap \"gone\" not found");
    }
}
