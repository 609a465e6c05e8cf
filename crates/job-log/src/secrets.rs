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

#[cfg(test)]
mod tests {
    use super::of_plan;
    use crate::Log;
    use agent_contract::{Plan, Settings};
    use gitlab_api::log::Stream;
    use serde_json::json;

    fn plan(settings: Settings) -> Plan {
        let payload = json!({
            "id": 7, "token": "token-of-the-job",
            "variables": [
                {"key": "PLAIN", "value": "hunter22-$OTHER", "masked": true},
                {"key": "OTHER", "value": "expanded", "masked": false},
            ],
            "credentials": [{"type": "registry", "url": "r", "username": "u", "password": "password-of-a-registry"}],
            "dependencies": [{"id": 6, "token": "token-of-another", "name": "before"}],
            "features": {"token_mask_prefixes": [" acme_ "]},
        });
        let payload: gitlab_api::JobResponse = serde_json::from_value(payload).unwrap();
        let job = payload.into_job().unwrap();
        Plan { job, coordinator: Default::default(), workspace: Default::default(), settings }
    }

    fn shown(settings: Settings, text: &str) -> String {
        let mut log = Log::new(of_plan(&plan(settings)), false);
        let mut out = log.push(Stream::WORK, text.as_bytes(), 0);
        out.extend(log.finish(0));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_secret_of_a_plan_is_masked() {
        let text = "hunter22-expanded hunter22-$OTHER expanded token-of-the-job token-of-another password-of-a-registry";
        let hidden = "[MASKED] [MASKED] expanded [MASKED] [MASKED] [MASKED]";
        assert_eq!(shown(Settings::default(), text), hidden);
    }

    #[test]
    fn other_forms_of_a_value_are_masked_unless_that_is_turned_off() {
        let text = "aHVudGVyMjItZXhwYW5kZWQ= hunter22-%24OTHER";
        assert_eq!(shown(Settings::default(), text), "[MASKED]Q= [MASKED]");
        assert_eq!(shown(Settings { only_plain_values: true, ..Settings::default() }, text), text);
    }

    #[test]
    fn prefixes_of_the_server_count_and_the_usual_ones_with_their_flag() {
        let text = "glpat-a acme_b glrt-c";
        assert_eq!(shown(Settings::default(), text), "glpat-[MASKED] acme_[MASKED] glrt-c");
        let all = Settings { mask_all_tokens: true, ..Settings::default() };
        assert_eq!(shown(all, text), "glpat-[MASKED] acme_[MASKED] glrt-[MASKED]");
    }
}
