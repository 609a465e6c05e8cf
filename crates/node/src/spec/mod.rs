//! What a pod says becomes what a sandbox needs: environment, process, user, resources.
//!
//! Pure but for the questions it asks [`Objects`]. A mistake here is the pod's own: it ends up as the waiting reason
//! `CreateContainerConfigError` with the kubelet's words, and is tried again, because the missing object may come.

pub mod environment;
mod expansion;
pub mod fields;
pub mod process;
pub mod resources;
pub mod security;

pub use expansion::expand;

use std::collections::BTreeMap;

/// Why a container cannot be made of its description; the text is what a kubelet prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Data of a Secret or ConfigMap.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where Secrets and ConfigMaps of the pod's namespace come from.
pub trait Objects: Sync {
    /// Decoded data of a Secret; `None` when there is none.
    fn secret(&self, name: &str) -> Option<Data>;
    /// Data of a ConfigMap, text and binary; `None` when there is none.
    fn config_map(&self, name: &str) -> Option<Data>;
}

/// Looks up one kind by name and says what is missing in the kubelet's words.
#[derive(Clone, Copy)]
pub enum Source {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl Source {
    /// Its word in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        }
    }

    /// Kubernetes' name of the kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// Its data; `None` when it is missing and may be.
    pub fn data(self, objects: &dyn Objects, name: &str, optional: bool) -> Result<Option<Data>, ConfigError> {
        let found = match self {
            Self::Secret => objects.secret(name),
            Self::ConfigMap => objects.config_map(name),
        };
        if found.is_none() && !optional {
            return Err(ConfigError::new(format!("{} \"{name}\" not found", self.word())));
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Objects in a map, for tests.

    use super::{Data, Objects};
    use std::collections::BTreeMap;

    /// Secrets and ConfigMaps by name.
    #[derive(Default)]
    pub struct FakeObjects {
        pub secrets: BTreeMap<String, Data>,
        pub config_maps: BTreeMap<String, Data>,
    }

    impl Objects for FakeObjects {
        fn secret(&self, name: &str) -> Option<Data> {
            self.secrets.get(name).cloned()
        }
        fn config_map(&self, name: &str) -> Option<Data> {
            self.config_maps.get(name).cloned()
        }
    }

    /// Data of one text.
    pub fn data(key: &str, value: &str) -> Data {
        Data::from([(key.to_owned(), value.as_bytes().to_vec())])
    }
}
