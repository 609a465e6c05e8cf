//! Secrets and ConfigMaps of a namespace, decoded, out of the store.

use crate::spec::{Data, Objects};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube_server::{Kind, Store};
use serde_json::Value;

/// The objects a pod may ask for.
#[derive(Clone)]
pub struct StoreObjects {
    /// Where they are.
    pub store: Store,
    /// The pod's namespace.
    pub namespace: String,
}

impl StoreObjects {
    fn object(&self, kind: Kind, name: &str) -> Option<std::sync::Arc<Value>> {
        self.store.get(kind, &self.namespace, name).ok()
    }
}

/// Values that are no base64 count as they stand: the store checks them nowhere.
fn decoded(map: &Value) -> impl Iterator<Item = (String, Vec<u8>)> {
    map.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let text = value.as_str()?;
        let bytes = STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
        Some((key.clone(), bytes))
    })
}

impl Objects for StoreObjects {
    fn secret(&self, name: &str) -> Option<Data> {
        self.object(Kind::Secret, name).map(|secret| decoded(&secret["data"]).collect())
    }

    fn config_map(&self, name: &str) -> Option<Data> {
        let map = self.object(Kind::ConfigMap, name)?;
        let texts = map["data"].as_object().into_iter().flatten();
        let texts = texts.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.as_bytes().to_vec())));
        Some(texts.chain(decoded(&map["binaryData"])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::StoreObjects;
    use crate::spec::Objects;
    use kube_server::{Kind, Store};
    use serde_json::json;

    #[test]
    fn secrets_are_decoded_and_binary_data_joins_texts() {
        let store = Store::new();
        store.create(Kind::Secret, "default", json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}})).unwrap();
        let map = json!({"metadata": {"name": "m"}, "data": {"t": "Yg=="}, "binaryData": {"b": "AP8="}});
        store.create(Kind::ConfigMap, "default", map).unwrap();
        let objects = StoreObjects { store, namespace: "default".to_owned() };
        assert_eq!(objects.secret("s").unwrap()["a"], b"b");
        let map = objects.config_map("m").unwrap();
        assert_eq!((map["t"].as_slice(), map["b"].as_slice()), (b"Yg==".as_slice(), [0, 255].as_slice()));
        assert!(objects.secret("none").is_none());
    }
}
