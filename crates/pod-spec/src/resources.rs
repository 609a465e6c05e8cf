//! Requests and limits.

use crate::BuildError;
use agent_contract::plan::Resources;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runner_config::{AMOUNTS, Kubernetes};
use std::collections::BTreeMap;

/// One request or limit; empty means none.
#[derive(Clone, Debug)]
pub struct Amount {
    /// Key of the configuration.
    pub key: &'static str,
    /// A quantity.
    pub value: String,
}

/// The requests and limits of a container or a pod.
#[derive(Clone, Debug)]
pub struct Amounts(Vec<Amount>);

/// Those of the configuration, whose keys begin with `prefix`.
pub fn configured(kubernetes: &Kubernetes, prefix: &str) -> Result<Amounts, BuildError> {
    let keys = AMOUNTS.iter().filter(|key| key.strip_prefix(prefix).is_some_and(|rest| resource(rest).is_some()));
    let amount = |key: &&'static str| {
        let value = kubernetes.amount(key).to_owned();
        if value.is_empty() || nanos(&value).is_some() {
            return Ok(Amount { key, value });
        }
        Err(BuildError::Quantity { key: (*key).to_owned(), value })
    };
    keys.map(amount).collect::<Result<_, _>>().map(Amounts)
}

impl Amounts {
    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Amount> {
        self.0.iter_mut()
    }

    /// As Kubernetes wants them; nothing when none is set.
    pub fn requirements(self) -> Option<ResourceRequirements> {
        let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
        for Amount { key, value } in self.0.into_iter().filter(|amount| !amount.value.is_empty()) {
            let bare = key.trim_start_matches("service_").trim_start_matches("helper_").trim_start_matches("pod_");
            if let Some((resource, is_limit)) = resource(bare) {
                let map = if is_limit { &mut limits } else { &mut requests };
                map.insert(resource.to_owned(), Quantity(value));
            }
        }
        let some = |map: BTreeMap<_, _>| (!map.is_empty()).then_some(map);
        let (requests, limits) = (some(requests), some(limits));
        (requests.is_some() || limits.is_some()).then_some(ResourceRequirements { requests, limits, claims: None })
    }
}

/// The same for the report.
pub fn asked(container: String, requirements: Option<&ResourceRequirements>) -> Resources {
    let amount = |map: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>, name: &str| {
        let found = requirements.and_then(map).and_then(|map| map.get(name));
        found.map(|quantity| quantity.0.clone()).unwrap_or_default()
    };
    Resources {
        container,
        cpu_request: amount(|one| one.requests.as_ref(), "cpu"),
        cpu_limit: amount(|one| one.limits.as_ref(), "cpu"),
        memory_request: amount(|one| one.requests.as_ref(), "memory"),
        memory_limit: amount(|one| one.limits.as_ref(), "memory"),
    }
}

/// Kubernetes' word for a key without its prefix, and whether it is a limit.
fn resource(bare: &str) -> Option<(&'static str, bool)> {
    let (name, what) = bare.rsplit_once('_')?;
    let name = match name {
        "cpu" => "cpu",
        "memory" => "memory",
        "ephemeral_storage" => "ephemeral-storage",
        _ => return None,
    };
    Some((name, what == "limit"))
}

/// A quantity in billionths, so that two can be compared; `None` when Kubernetes would not take it.
pub fn nanos(text: &str) -> Option<i128> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 || whole.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let binary = |power| 1024_i128.checked_pow(power)?.checked_mul(1_000_000_000);
    let unit = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => 1_000_000_000,
        "Ki" => binary(1)?,
        "Mi" => binary(2)?,
        "Gi" => binary(3)?,
        "Ti" => binary(4)?,
        "Pi" => binary(5)?,
        "Ei" => binary(6)?,
        _ => 10_i128.checked_pow(9 + power_of_ten(suffix)?)?,
    };
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    // Kubernetes rounds up what is finer.
    digits.checked_mul(unit).map(|scaled| (scaled + scale - 1) / scale)
}

fn power_of_ten(suffix: &str) -> Option<u32> {
    match suffix {
        "k" => Some(3),
        "M" => Some(6),
        "G" => Some(9),
        "T" => Some(12),
        "P" => Some(15),
        "E" => Some(18),
        _ => suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| *power <= 18),
    }
}

#[cfg(test)]
mod tests {
    use super::nanos;

    #[test]
    fn quantities_of_all_spellings_compare() {
        let in_order =
            ["0", "1n", "2u", "0.5m", "100m", "0.2", "1", "1.5", "1k", "1Ki", "1e4", "64M", "64Mi", "1.5Gi", "2Gi", "1E", "1Ei"];
        let values: Vec<_> = in_order.iter().map(|text| nanos(text).unwrap_or_else(|| panic!("{text}"))).collect();
        assert!(values.is_sorted_by(|one, next| one < next), "{values:?}");
        assert_eq!((nanos("1000m"), nanos("1024Ki")), (nanos("1"), nanos("1Mi")));
        for odd in ["", ".", "1 gig", "-1", "1Kb", "1.2.3", "1e99", "9999999999999999999"] {
            assert_eq!(nanos(odd), None, "{odd}");
        }
    }
}
