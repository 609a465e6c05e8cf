//! The downward API: what a container may learn about its own pod.

use super::{ConfigError, resources};
use crate::quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the pod's object may not say yet.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Address of the pod.
    pub pod: Option<String>,
    /// Address of the node.
    pub host: String,
}

/// What the machine has, for limits that are not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of disk.
    pub disk: u64,
}

/// The value of a field path.
pub fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, ConfigError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return Err(unsupported(path)),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => addresses.host.clone(),
        "status.podIP" | "status.podIPs" => addresses.pod.clone().unwrap_or_default(),
        other => return Err(unsupported(other)),
    })
}

fn unsupported(path: &str) -> ConfigError {
    ConfigError::new(format!("unsupported fieldPath: {path}"))
}

/// `key="value"` per line, as Kubernetes writes maps into files.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{key}={value:?}");
    }
    out
}

/// The value of a resource field; limits that are not set are the machine's, requests that are not set are zero.
pub fn resource(
    pod: &Pod,
    container: Option<&str>,
    selector: &ResourceFieldSelector,
    capacity: &Capacity,
) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref().ok_or_else(|| ConfigError::new("the pod has no spec"))?;
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).or(container).unwrap_or_default();
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = all.find(|one| one.name == name).ok_or_else(|| ConfigError::new(format!("container {name} not found")))?;
    let (part, resource) = selector.resource.split_once('.').unwrap_or_default();
    let machine = match resource {
        "cpu" => i128::from(capacity.cpu_milli),
        "memory" => i128::from(capacity.memory) * 1000,
        "ephemeral-storage" => i128::from(capacity.disk) * 1000,
        _ => return Err(ConfigError::new(format!("unsupported container resource : {}", selector.resource))),
    };
    let amount = match part {
        "limits" => resources::amount(container, resources::Part::Limits, resource)?.unwrap_or(machine),
        "requests" => resources::amount(container, resources::Part::Requests, resource)?.unwrap_or(0),
        _ => return Err(ConfigError::new(format!("unsupported container resource : {}", selector.resource))),
    };
    let divisor = selector.divisor.as_ref().map_or(Ok(1000), |divisor| quantity::thousandths(&divisor.0));
    let divisor = divisor.map_err(|error| ConfigError::new(error.to_string()))?;
    // Kubernetes takes a divisor of nothing as one.
    let divisor = if divisor <= 0 { 1000 } else { divisor };
    Ok((amount / divisor + i128::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Capacity, field, resource};
    use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a.b/c": "d", "e": "f\n"}},
            "spec": {"nodeName": "gantry", "containers": [
                {"name": "build", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_the_pod_are_found() {
        let addresses = Addresses { pod: Some("10.0.0.2".to_owned()), host: "10.0.0.1".to_owned() };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u"),
            ("metadata.labels['a.b/c']", "d"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a.b/c=\"d\"\ne=\"f\\n\"\n"),
            ("spec.nodeName", "gantry"),
            ("status.podIP", "10.0.0.2"),
            ("status.hostIP", "10.0.0.1"),
        ] {
            assert_eq!(field(&pod(), &addresses, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), &addresses, "status.phase").unwrap_err().0.contains("unsupported fieldPath"));
    }

    #[test]
    fn resource_fields_are_divided_and_rounded_up() {
        let capacity = Capacity { cpu_milli: 4000, memory: 8 << 30, disk: 1 << 40 };
        let of = |name: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: Some(Quantity(divisor.to_owned())),
                resource: name.to_owned(),
            };
            resource(&pod(), Some("build"), &selector, &capacity)
        };
        assert_eq!(of("limits.cpu", "1").unwrap(), "2");
        assert_eq!(of("limits.cpu", "1m").unwrap(), "1500");
        assert_eq!(of("limits.memory", "1Mi").unwrap(), "8192", "no limit is the machine's memory");
        assert_eq!(of("requests.memory", "0").unwrap(), (1_u64 << 30).to_string());
        assert!(of("limits.gpu", "1").is_err());
    }
}
