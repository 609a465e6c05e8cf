//! Requests and limits: what a pod asks of the machine, and what its containers get as cgroup numbers.

use super::ConfigError;
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;

/// `requests` or `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it needs at least.
    Requests,
    /// What it may use at most.
    Limits,
}

/// Processes and threads a container may have. A kubelet's default is none; a fork bomb must not take the machine.
const MOST_PROCESSES: u64 = 16_384;
/// Period of the CPU quota, in microseconds (Kubernetes' own).
const PERIOD_US: u64 = 100_000;
/// Smallest quota the kernel takes.
const LEAST_QUOTA_US: u64 = 1000;
/// Least memory a limit may be: below this no process starts, and the kernel says so in riddles.
const LEAST_MEMORY: u64 = 512 * 1024;

/// cgroup numbers of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Microseconds of CPU time per 100 ms.
    pub cpu_quota_us: Option<u64>,
    /// Weight, 1024 per core.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// One amount in thousandths.
pub fn amount(container: &Container, part: Part, resource: &str) -> Result<Option<i128>, ConfigError> {
    let Some(resources) = &container.resources else { return Ok(None) };
    let of = |map: &Option<BTreeMap<String, _>>| map.as_ref().and_then(|map| map.get(resource)).cloned();
    let found: Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity> = match part {
        Part::Limits => of(&resources.limits),
        // A limit without a request is a request, as the real API server fills it in.
        Part::Requests => of(&resources.requests).or_else(|| of(&resources.limits)),
    };
    let amount = found.map(|found| quantity::thousandths(&found.0)).transpose();
    amount.map_err(|error| ConfigError::new(format!("container {}: {resource}: {error}", container.name)))
}

/// The cgroup numbers of a container.
///
/// # Errors
/// An amount that is no quantity.
pub fn limits(container: &Container) -> Result<Limits, ConfigError> {
    let positive = |amount: Option<i128>| amount.and_then(|amount| u64::try_from(amount).ok()).filter(|amount| *amount > 0);
    let cpu_limit = positive(amount(container, Part::Limits, "cpu")?);
    let cpu_request = positive(amount(container, Part::Requests, "cpu")?);
    let memory = positive(amount(container, Part::Limits, "memory")?);
    Ok(Limits {
        memory_bytes: memory.map(|memory| memory.div_ceil(1000).max(LEAST_MEMORY)),
        cpu_quota_us: cpu_limit.map(|milli| milli.saturating_mul(PERIOD_US / 1000).max(LEAST_QUOTA_US)),
        cpu_shares: cpu_request.map(|milli| (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)),
        pids: Some(MOST_PROCESSES),
    })
}

/// What a pod asks of the machine, by resource, in thousandths: the sum of its containers and sidecars, or the largest
/// init container where that is more.
///
/// # Errors
/// An amount that is no quantity.
pub fn requests(pod: &Pod) -> Result<BTreeMap<String, i128>, ConfigError> {
    let mut sum = BTreeMap::new();
    let Some(spec) = &pod.spec else { return Ok(sum) };
    let (sidecars, init): (Vec<_>, Vec<_>) =
        spec.init_containers.iter().flatten().partition(|one| one.restart_policy.as_deref() == Some("Always"));
    for container in spec.containers.iter().chain(sidecars) {
        for name in names(container) {
            *sum.entry(name.to_owned()).or_insert(0) += amount(container, Part::Requests, name)?.unwrap_or(0);
        }
    }
    for container in init {
        for name in names(container) {
            let own = amount(container, Part::Requests, name)?.unwrap_or(0);
            let known = sum.entry(name.to_owned()).or_insert(0);
            *known = own.max(*known);
        }
    }
    sum.retain(|_, amount| *amount > 0);
    Ok(sum)
}

fn names(container: &Container) -> std::collections::BTreeSet<&str> {
    let resources = container.resources.as_ref();
    let maps = [resources.and_then(|one| one.requests.as_ref()), resources.and_then(|one| one.limits.as_ref())];
    maps.into_iter().flatten().flat_map(|map| map.keys().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Limits, MOST_PROCESSES, limits, requests};
    use k8s_openapi::api::core::v1::{Container, Pod};
    use serde_json::{Value, json};

    fn container(resources: Value) -> Container {
        serde_json::from_value(json!({"name": "a", "resources": resources})).unwrap()
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let found = limits(&container(json!({"limits": {"cpu": "500m", "memory": "64Mi"}}))).unwrap();
        let expected = Limits {
            memory_bytes: Some(64 << 20),
            cpu_quota_us: Some(50_000),
            cpu_shares: Some(512),
            pids: Some(MOST_PROCESSES),
        };
        assert_eq!(found, expected);
        let found = limits(&container(json!({"requests": {"cpu": "1m"}}))).unwrap();
        assert_eq!((found.cpu_quota_us, found.cpu_shares), (None, Some(2)));
        assert_eq!(limits(&container(json!({}))).unwrap(), Limits { pids: Some(MOST_PROCESSES), ..Limits::default() });
        assert_eq!(limits(&container(json!({"limits": {"cpu": "1u"}}))).unwrap().cpu_quota_us, Some(1000));
    }

    #[test]
    fn a_pod_asks_for_the_sum_of_its_containers_or_its_largest_init_container() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "3Gi", "cpu": "100m"}}},
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "b", "resources": {"limits": {"memory": "1Gi"}}}],
        }}))
        .unwrap();
        let found = requests(&pod).unwrap();
        assert_eq!(found["memory"], 3 * (1_i128 << 30) * 1000);
        assert_eq!(found["cpu"], 1000);
    }
}
