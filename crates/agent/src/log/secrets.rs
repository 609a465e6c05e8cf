//! What of a plan must not appear in its trace.

use super::encodings;
use super::patterns::{Patterns, TOKEN, TOKENS};
use agent_contract::Plan;

/// Masked variables, every token and password of the plan, what people make of them, and GitLab's kinds of tokens.
pub fn of_plan(plan: &Plan) -> Patterns {
    let (job, settings) = (&plan.job, &plan.settings);
    let expanded = job.variables.expanded();
    // Before and after references in it are replaced: a log may show either.
    let variables = expanded.iter().chain(job.variables.iter()).filter(|variable| variable.masked);
    let variables: Vec<&str> = variables.map(|variable| variable.value.as_str()).collect();
    let tokens = job.dependencies.iter().map(|one| &one.token).chain([&job.token]);
    let passwords = job.credentials.iter().map(|one| &one.password);
    let mut values: Vec<Vec<u8>> = tokens.chain(passwords).map(|secret| secret.expose().as_bytes().to_vec()).collect();
    values.extend(variables.iter().map(|value| value.as_bytes().to_vec()));
    if !settings.only_plain_values {
        let encoded: Vec<_> = values.iter().flat_map(|value| encodings::of(value)).collect();
        values.extend(encoded);
    }
    let usual = if settings.mask_all_tokens { &TOKENS[..] } else { &[] };
    let named = job.features.token_mask_prefixes.iter().map(|prefix| prefix.trim());
    let prefixes = [TOKEN].into_iter().chain(named).chain(usual.iter().copied());
    Patterns::new(values, prefixes.map(|prefix| prefix.as_bytes().to_vec()))
}
