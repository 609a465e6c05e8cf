//! Requests and limits.

use crate::BuildError;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Request and limit of each resource, as the configuration has them; empty means none.
pub struct Amounts<'a> {
    /// What stands before the keys' names in the configuration.
    pub prefix: &'static str,
    /// CPU.
    pub cpu: (&'a str, &'a str),
    /// Memory.
    pub memory: (&'a str, &'a str),
}

/// The requirements, or nothing when none is set.
pub fn requirements(amounts: &Amounts<'_>) -> Result<Option<ResourceRequirements>, BuildError> {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for (resource, (request, limit)) in [("cpu", amounts.cpu), ("memory", amounts.memory)] {
        for (map, value, what) in [(&mut requests, request, "request"), (&mut limits, limit, "limit")] {
            if value.is_empty() {
                continue;
            }
            if !is_quantity(value) {
                return Err(BuildError::Quantity {
                    key: format!("{}{resource}_{what}", amounts.prefix),
                    value: value.to_owned(),
                });
            }
            map.insert(resource.to_owned(), Quantity(value.to_owned()));
        }
    }
    let some = |map: BTreeMap<_, _>| (!map.is_empty()).then_some(map);
    let (requests, limits) = (some(requests), some(limits));
    Ok((requests.is_some() || limits.is_some()).then_some(ResourceRequirements { requests, limits, claims: None }))
}

fn is_quantity(text: &str) -> bool {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    number.parse::<f64>().is_ok() && ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&suffix)
}
