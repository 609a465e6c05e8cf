//! `gantry rbac`: the permissions that a manager needs, as a manifest for `kubectl apply`.
//!
//! What stands in it is the list that the manager itself asks for at its start, so the two cannot differ.

use crate::arguments::RbacArguments;
use anyhow::{Context, Result};
use manager::permissions::NEEDED;
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
    let manifest = manifest(&parsed.config.namespaces(), &arguments.namespace, &arguments.service_account);
    std::io::stdout().write_all(manifest.as_bytes()).context("failed to print the manifest")?;
    Ok(ExitCode::SUCCESS)
}

/// One service account, and what it may do in each of `namespaces`. Roles are named after the account: two managers may
/// share a namespace.
fn manifest(namespaces: &BTreeSet<&str>, home: &str, account: &str) -> String {
    let (home, account) = (quoted(home), quoted(account));
    let mut text = format!(
        "# What gantry's manager does in Kubernetes, and no more. Whoever may read Secrets reads all of a namespace:\n\
         # give jobs a namespace of their own.\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {account}\n  namespace: {home}\n"
    );
    let rules: String = NEEDED
        .iter()
        .map(|rule| {
            let verbs = rule.verbs.join(", ");
            format!("  - apiGroups: [\"\"]\n    resources: [{}]\n    verbs: [{verbs}]\n", rule.resource)
        })
        .collect();
    for namespace in namespaces {
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
    use std::collections::BTreeSet;

    #[test]
    fn each_namespace_gets_a_role_with_the_needed_verbs_and_a_binding_to_the_one_account() {
        let text = super::manifest(&BTreeSet::from(["ci", "1e3"]), "gantry-system", "manager");
        let documents: Vec<_> = text.split("---\n").collect();
        let expected = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: \"manager\"\n  namespace: \"ci\"\nrules:\n  \
             - apiGroups: [\"\"]\n    resources: [pods]\n    verbs: [create, delete, get, list, watch]\n  \
             - apiGroups: [\"\"]\n    resources: [secrets]\n    verbs: [create, delete, get, list, patch]\n";
        assert_eq!((documents.len(), documents[3]), (5, expected));
        assert!(documents[0].contains("kind: ServiceAccount\nmetadata:\n  name: \"manager\"\n  namespace: \"gantry-system\"\n"));
        assert!(documents[2].contains(
            "namespace: \"1e3\"\nroleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: \"manager\"\n"
        ));
        let subject = "subjects:\n  - kind: ServiceAccount\n    name: \"manager\"\n    namespace: \"gantry-system\"\n";
        assert!([documents[2], documents[4]].iter().all(|document| document.ends_with(subject)));
    }
}
