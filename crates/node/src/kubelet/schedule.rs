//! Whether this node can take a pod, in the words of the real scheduler. Pure.
//!
//! One node, so there is nothing to choose: a pod fits now, fits later, or never. All of these are `Unschedulable`
//! with a sentence; a pod that does not fit yet is looked at again whenever another one ends.

use crate::spec::resources;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};
use std::collections::BTreeMap;

/// Amounts by resource, in thousandths.
pub type Amounts = BTreeMap<String, i128>;

/// Pods a node may run at once (the kubelet's own default).
pub const MOST_PODS: usize = 110;

/// The node, as far as scheduling goes.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it has.
    pub capacity: Amounts,
    /// What its pods asked for.
    pub used: Amounts,
    /// How many pods it runs.
    pub pods: usize,
}

/// Why a pod cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// `Unschedulable` or `SchedulingGated`.
    pub reason: &'static str,
    /// The scheduler's sentence.
    pub message: String,
}

/// What the pod asks for, if the node can take it.
///
/// # Errors
/// Every reason why it cannot.
pub fn place(pod: &Pod, room: &Room) -> Result<Amounts, Unschedulable> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
        return Err(Unschedulable { reason: "SchedulingGated", message });
    }
    let mut reasons = Vec::new();
    if !is_selected(spec, room) {
        reasons.push("1 node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let affinity = spec.affinity.as_ref();
    let demands = |demanded: bool, what: &str| demanded.then(|| format!("1 node(s) didn't match pod {what} rules"));
    reasons.extend(demands(
        affinity.and_then(|one| one.pod_affinity.as_ref()).is_some_and(|one| {
            one.required_during_scheduling_ignored_during_execution.as_ref().is_some_and(|terms| !terms.is_empty())
        }),
        "affinity",
    ));
    reasons.extend(demands(
        affinity.and_then(|one| one.pod_anti_affinity.as_ref()).is_some_and(|one| {
            one.required_during_scheduling_ignored_during_execution.as_ref().is_some_and(|terms| !terms.is_empty())
        }),
        "anti-affinity",
    ));
    if room.pods >= MOST_PODS {
        reasons.push("1 Too many pods".to_owned());
    }
    let wanted = match resources::requests(pod) {
        Ok(wanted) => wanted,
        Err(error) => {
            reasons.push(error.0);
            Amounts::new()
        }
    };
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
    for (name, amount) in &wanted {
        if of(&room.used, name) + amount > of(&room.capacity, name) {
            reasons.push(format!("1 Insufficient {name}"));
        }
    }
    if reasons.is_empty() {
        return Ok(wanted);
    }
    Err(Unschedulable { reason: "Unschedulable", message: format!("0/1 nodes are available: {}.", reasons.join(", ")) })
}

fn is_selected(spec: &PodSpec, room: &Room) -> bool {
    let selector = spec.node_selector.iter().flatten();
    let by_selector = selector.into_iter().all(|(key, value)| room.labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_selector && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, room)))
}

fn matches(term: &NodeSelectorTerm, room: &Room) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_name = |one: &NodeSelectorRequirement| one.key == "metadata.name" && holds(one, Some(&room.name));
    // A term without any requirement matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|one| holds(one, room.labels.get(&one.key)))
        && fields.iter().all(by_name)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compared = || {
        let bound: i64 = values.first()?.parse().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Amounts, MOST_PODS, Room, place};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn room() -> Room {
        Room {
            name: "gantry".to_owned(),
            labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
            capacity: Amounts::from([("cpu".to_owned(), 2000), ("memory".to_owned(), 1000 << 30)]),
            used: Amounts::from([("cpu".to_owned(), 500)]),
            pods: 1,
        }
    }

    fn sentence(spec: Value, room: &Room) -> Option<String> {
        let mut spec = spec;
        spec["containers"] = spec.get("containers").cloned().unwrap_or_else(|| json!([{"name": "a"}]));
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        place(&pod, room).err().map(|error| error.message)
    }

    #[test]
    fn a_pod_fits_when_what_it_asks_for_is_free() {
        let cpu = |amount: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": amount}}}]});
        assert_eq!(sentence(json!({}), &room()), None);
        assert_eq!(sentence(cpu("1500m"), &room()), None);
        assert_eq!(sentence(cpu("1501m"), &room()).unwrap(), "0/1 nodes are available: 1 Insufficient cpu.");
        let gpu = json!({"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
        assert_eq!(sentence(gpu, &room()).unwrap(), "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.");
        let full = Room { pods: MOST_PODS, ..room() };
        assert_eq!(sentence(json!({}), &full).unwrap(), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn selectors_and_affinity_are_obeyed() {
        let term = |operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": operator, "values": values}]}]}}}})
        };
        let why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(sentence(json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), &room()), None);
        assert_eq!(sentence(json!({"nodeSelector": {"kubernetes.io/os": "plan9"}}), &room()).unwrap(), why);
        assert_eq!(sentence(term("In", json!(["linux"])), &room()), None);
        assert_eq!(sentence(term("NotIn", json!(["linux"])), &room()).unwrap(), why);
        assert_eq!(sentence(term("Exists", json!([])), &room()), None);
        assert_eq!(sentence(term("Gt", json!(["3"])), &room()).unwrap(), why);
        let others = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": "kubernetes.io/hostname"}]}}});
        assert!(sentence(others, &room()).unwrap().contains("anti-affinity"));
        assert!(sentence(json!({"schedulingGates": [{"name": "g"}]}), &room()).unwrap().contains("gates"));
    }
}
