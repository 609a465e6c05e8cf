//! The kinds that are served, with their Kubernetes names.

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1/pods`.
    Pod,
    /// `v1/secrets`.
    Secret,
    /// `v1/configmaps`.
    ConfigMap,
    /// `v1/events`.
    Event,
    /// `v1/namespaces`.
    Namespace,
    /// `v1/serviceaccounts`.
    ServiceAccount,
    /// `v1/nodes`.
    Node,
    /// `coordination.k8s.io/v1/leases`.
    Lease,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] =
        [Self::Pod, Self::Secret, Self::ConfigMap, Self::Event, Self::Namespace, Self::ServiceAccount, Self::Node, Self::Lease];

    /// `kind` of an object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Event => "Event",
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Node => "Node",
            Self::Lease => "Lease",
        }
    }

    /// Plural in paths and messages.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Event => "events",
            Self::Namespace => "namespaces",
            Self::ServiceAccount => "serviceaccounts",
            Self::Node => "nodes",
            Self::Lease => "leases",
        }
    }

    /// Short name kubectl knows.
    pub fn short_name(self) -> Option<&'static str> {
        match self {
            Self::Pod => Some("po"),
            Self::ConfigMap => Some("cm"),
            Self::Event => Some("ev"),
            Self::Namespace => Some("ns"),
            Self::ServiceAccount => Some("sa"),
            Self::Node => Some("no"),
            Self::Secret | Self::Lease => None,
        }
    }

    /// `apiVersion` of an object.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Lease => "coordination.k8s.io/v1",
            _ => "v1",
        }
    }

    /// API group; the core's is empty.
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Finds the kind of a path.
    pub fn find(api_version: &str, resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.api_version() == api_version && kind.resource() == resource)
    }
}
