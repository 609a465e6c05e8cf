//! `gantry rbac`: the permissions that a manager needs, as a manifest for `kubectl apply`.
//!
//! What stands in it is the list that the manager itself asks for at its start, so the two cannot differ.

use crate::arguments::RbacArguments;
use anyhow::{Context, Result};
use manager::permissions::{NEEDED, WISHED};
use runner_config::Config;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;

/// Prints the manifest.
///
/// # Errors
/// When the configuration cannot be used, or nobody takes the text.
pub fn run(arguments: &RbacArguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let parsed = runner_config::parse(&text).map_err(|problems| anyhow::anyhow!("{}: {problems}", path.display()))?;
    let manifest = manifest(&Places::of(&parsed.config, &arguments.namespace), &arguments.namespace, &arguments.service_account);
    std::io::stdout().write_all(manifest.as_bytes()).context("failed to print the manifest")?;
    Ok(ExitCode::SUCCESS)
}

/// Where pods go, as far as a configuration tells.
struct Places<'a> {
    /// By name.
    named: BTreeSet<&'a str>,
    /// What is only known of a job, in a sentence each.
    open: Vec<String>,
}

impl<'a> Places<'a> {
    fn of(config: &'a Config, home: &'a str) -> Self {
        let mut places = Self { named: config.namespaces(), open: Vec::new() };
        for (index, runner) in config.runners.iter().enumerate() {
            let (number, kubernetes) = (index + 1, &runner.kubernetes);
            let pattern = serde_json::Value::from(kubernetes.namespace_overwrite_allowed.as_str());
            if kubernetes.fixed_namespace().is_none() {
                let namespace = quoted(kubernetes.namespace());
                places.open.push(format!("Runner number {number} has the namespace {namespace}, by the variables of each job."));
                // The manager keeps its own notes where it runs itself.
                places.named.insert(home);
            }
            if !kubernetes.namespace_overwrite_allowed.is_empty() {
                places.open.push(format!("Jobs of runner number {number} may ask for any namespace that matches {pattern}."));
            }
        }
        places
    }
}

/// One service account, and what it may do in each namespace. Roles are named after the account: two managers may share
/// a namespace.
fn manifest(places: &Places<'_>, home: &str, account: &str) -> String {
    let (home, account) = (quoted(home), quoted(account));
    let mut text =
        "# What gantry's manager does in Kubernetes, and no more. Whoever may read Secrets reads all of a namespace:\n\
         # give jobs a namespace of their own.\n"
            .to_owned();
    for sentence in &places.open {
        text.push_str(&format!("# {sentence}\n"));
    }
    if !places.open.is_empty() {
        text.push_str("# Each such namespace needs a Role and a RoleBinding like those below.\n");
    }
    text.push_str(&format!("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {account}\n  namespace: {home}\n"));
    let rules: String = NEEDED
        .iter()
        .chain(&WISHED)
        .map(|rule| {
            let verbs = rule.verbs.join(", ");
            format!("  - apiGroups: [\"{}\"]\n    resources: [{}]\n    verbs: [{verbs}]\n", rule.group, rule.resource)
        })
        .collect();
    for namespace in &places.named {
        let namespace = quoted(namespace);
        let head = |kind: &str| {
            format!(
                "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {account}\n  namespace: {namespace}\n"
            )
        };
        text.push_str(&head("Role"));
        text.push_str(&format!("rules:\n{rules}"));
        text.push_str(&head("RoleBinding"));
        text.push_str(&format!(
            "roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {account}\n\
             subjects:\n  - kind: ServiceAccount\n    name: {account}\n    namespace: {home}\n"
        ));
    }
    text
}

/// A string that YAML takes for one: `1e3` and `no` are names of namespaces too.
fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Places, manifest};

    fn places(text: &str, home: &str) -> String {
        let entry = |keys: &str| {
            format!("[[runners]]\nurl = \"http://g\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n[runners.kubernetes]\n{keys}\n")
        };
        let config = runner_config::parse(&text.split(';').map(entry).collect::<String>()).unwrap().config;
        manifest(&Places::of(&config, home), home, "manager")
    }

    #[test]
    fn namespaces_that_only_a_job_knows_are_told_in_comments() {
        let text =
            places("namespace = \"ci\"\nnamespace_overwrite_allowed = \"^ci-.*$\";namespace = \"x-$CI_PROJECT_ID\"", "home");
        assert!(text.contains("# Jobs of runner number 1 may ask for any namespace that matches \"^ci-.*$\".\n"), "{text}");
        assert!(text.contains("# Runner number 2 has the namespace \"x-$CI_PROJECT_ID\", by the variables of each job.\n"));
        let roles: Vec<_> = text.split("---\n").skip(1).filter(|one| one.contains("\nkind: Role\n")).collect();
        assert_eq!(roles.len(), 2, "ci and home");
    }

    #[test]
    fn each_namespace_gets_a_role_with_the_needed_verbs_and_a_binding_to_the_one_account() {
        let text = places("namespace = \"ci\";namespace = \"1e3\"", "gantry-system");
        let documents: Vec<_> = text.split("---\n").collect();
        let expected = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: \"manager\"\n  namespace: \"ci\"\nrules:\n  \
             - apiGroups: [\"\"]\n    resources: [pods]\n    verbs: [create, delete, get, list, patch, watch]\n  \
             - apiGroups: [\"\"]\n    resources: [secrets]\n    verbs: [create, delete, get, list, patch]\n  \
             - apiGroups: [\"coordination.k8s.io\"]\n    resources: [leases]\n    verbs: [create, delete, list, patch]\n  \
             - apiGroups: [\"\"]\n    resources: [events]\n    verbs: [list]\n  \
             - apiGroups: [\"\"]\n    resources: [pods/log]\n    verbs: [get]\n";
        assert_eq!((documents.len(), documents[3]), (5, expected));
        assert!(documents[0].contains("kind: ServiceAccount\nmetadata:\n  name: \"manager\"\n  namespace: \"gantry-system\"\n"));
        assert!(documents[2].contains(
            "namespace: \"1e3\"\nroleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: \"manager\"\n"
        ));
        let subject = "subjects:\n  - kind: ServiceAccount\n    name: \"manager\"\n    namespace: \"gantry-system\"\n";
        assert!([documents[2], documents[4]].iter().all(|document| document.ends_with(subject)));
    }
}
