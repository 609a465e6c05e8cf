//! A runner's configuration as a template: `{{key}}`, and one part that is repeated for every `[[runners]]` entry.
//!
//! The part stands between the lines `# {{#runners}}` and `# {{/runners}}`, so that a template is TOML itself. A key
//! that nobody fills is an error: a runner with half a configuration measures something else.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

const BEGIN: &str = "# {{#runners}}";
const END: &str = "# {{/runners}}";

/// Values by key.
pub type Values = BTreeMap<String, String>;

/// Fills a template; `entries` are the values of each repetition, over `values`.
///
/// # Errors
/// A key without a value, or a part that is begun and not ended.
pub fn fill(template: &str, values: &Values, entries: &[Values]) -> Result<String> {
    let Some((before, rest)) = template.split_once(BEGIN) else { return replace(template, values) };
    let (part, after) = rest.split_once(END).with_context(|| format!("{BEGIN} has no {END}"))?;
    let mut text = replace(before, values)?;
    for entry in entries {
        let mut all = values.clone();
        all.extend(entry.clone());
        text.push_str(&replace(part, &all)?);
    }
    text.push_str(&replace(after, values)?);
    Ok(text)
}

fn replace(template: &str, values: &Values) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (key, after) = behind.split_once("}}").with_context(|| format!("{{{{ without }}}} before {:.20?}", behind))?;
        let Some(value) = values.get(key.trim()) else { bail!("nobody fills {{{{{key}}}}}; use --set {}=VALUE", key.trim()) };
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Values, fill};

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_part_of_the_runners_is_repeated() {
        let template = "n = {{n}}\n# {{#runners}}\nt = \"{{ token }}\" {{n}}\n# {{/runners}}\nend\n";
        let entries = [values(&[("token", "a")]), values(&[("token", "b"), ("n", "9")])];
        let text = fill(template, &values(&[("n", "1")]), &entries).unwrap();
        assert_eq!(text, "n = 1\n\nt = \"a\" 1\n\nt = \"b\" 9\n\nend\n");
    }

    #[test]
    fn a_key_that_nobody_fills_is_named() {
        let error = fill("a = {{secret_thing}}", &Values::new(), &[]).unwrap_err();
        assert!(error.to_string().contains("secret_thing"), "{error}");
        assert!(fill("# {{#runners}}", &Values::new(), &[]).is_err());
        assert!(fill("{{a", &values(&[("a", "1")]), &[]).is_err());
    }

    #[test]
    fn the_shipped_templates_can_be_filled() {
        let all = ["url", "token", "name", "namespace", "image", "concurrent", "request_concurrency", "helper_image"];
        let values = values(&all.map(|key| (key, "7")));
        for template in [include_str!("../config/gantry.toml"), include_str!("../config/gitlab-runner.toml")] {
            let text = fill(template, &values, &[Values::new(), Values::new()]).unwrap();
            let document: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(document["runners"].as_array().unwrap().len(), 2);
        }
    }
}
