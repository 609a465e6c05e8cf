//! What an image holds, as SPDX 2.3 in JSON: crates that are linked in, and Debian's packages.
//!
//! Crates are those that cargo resolves for the target, without build scripts' and tests' own dependencies. A crate's
//! licence is what its manifest says. Debian has no licence field; the copyright files in the image have the texts.

use super::platform::Platform;
use crate::{cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What an image is made of.
#[derive(Debug, Default)]
pub struct Parts(Vec<Value>);

impl Parts {
    /// Adds the crates that are linked into a program of ours.
    pub fn crates(&mut self, program: &str, platform: Platform) -> Result<()> {
        let output = cargo()
            .args(["metadata", "--locked", "--format-version=1", "--filter-platform", platform.target()])
            .current_dir(root())
            .output()
            .context("failed to start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("failed to parse what cargo metadata printed")?;
        self.0.extend(linked(&metadata, program)?);
        Ok(())
    }

    /// Adds the packages of a dpkg status file, all of them or those with these names.
    pub fn debian(&mut self, status: &str, only: Option<&[&str]>) {
        let packages = status.split("\n\n").filter_map(|paragraph| {
            let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let (name, version, architecture) = (field("Package")?, field("Version")?, field("Architecture")?);
            let is_wanted = only.is_none_or(|names| names.contains(&name)) && field("Status")?.ends_with(" installed");
            is_wanted.then(|| {
                let locator = format!("pkg:deb/debian/{}@{}?arch={architecture}", encoded(name), encoded(version));
                let from = field("Source").unwrap_or(name);
                let mut package = package("Debian", name, version, &locator);
                package["supplier"] = json!("Organization: Debian");
                package["sourceInfo"] = json!(format!("source package {from}; licences in /usr/share/doc/{name}/copyright"));
                package
            })
        });
        self.0.extend(packages);
    }

    /// The document for an image of that name and digest.
    pub fn document(mut self, name: &str, digest: &str, created: &str) -> Value {
        self.0.sort_by_key(|package| package["SPDXID"].to_string());
        self.0.dedup();
        let image = json!({
            "SPDXID": "SPDXRef-Image",
            "name": name,
            "versionInfo": env!("CARGO_PKG_VERSION"),
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "primaryPackagePurpose": "CONTAINER",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.trim_start_matches("sha256:")}],
        });
        let contains = |package: &Value| json!({"spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS", "relatedSpdxElement": package["SPDXID"]});
        let mut relationships = vec![
            json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Image"}),
        ];
        relationships.extend(self.0.iter().map(contains));
        self.0.insert(0, image);
        json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": name,
            "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{}", name.replace([':', '/'], "-"), digest.trim_start_matches("sha256:")),
            "creationInfo": {"created": created, "creators": [format!("Tool: cargo xtask image-{}", env!("CARGO_PKG_VERSION"))]},
            "packages": self.0,
            "relationships": relationships,
        })
    }
}

/// The packages that a program's normal dependencies reach.
fn linked(metadata: &Value, program: &str) -> Result<Vec<Value>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|it| (text(&it["id"]).to_owned(), it)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|it| (text(&it["id"]).to_owned(), it)).collect();
    let is_ours = |it: &&Value| it["source"].is_null() && it["name"] == program;
    let start = packages.values().find(is_ours).with_context(|| format!("cargo metadata knows no package {program}"))?;
    let mut found = BTreeSet::new();
    let mut next = vec![text(&start["id"]).to_owned()];
    while let Some(id) = next.pop() {
        // What a procedural macro is made of runs in the compiler and is in no program.
        if packages.get(&id).is_none_or(is_macro) || !found.insert(id.clone()) {
            continue;
        }
        let dependencies = nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default();
        let normal = |it: &&Value| list(&it["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        next.extend(dependencies.iter().filter(normal).map(|it| text(&it["pkg"]).to_owned()));
    }
    Ok(found.iter().filter_map(|id| packages.get(id)).map(as_package).collect())
}

fn is_macro(package: &Value) -> bool {
    let kinds = package["targets"].as_array().into_iter().flatten().filter_map(|target| target["kind"].as_array());
    kinds.flatten().any(|kind| kind == "proc-macro")
}

fn as_package(found: &Value) -> Value {
    let (name, version) = (text(&found["name"]), text(&found["version"]));
    let mut package = package("Crate", name, version, &format!("pkg:cargo/{}@{}", encoded(name), encoded(version)));
    if let Some(licence) = found["license"].as_str() {
        // Older manifests write a slash for "or".
        package["licenseDeclared"] = json!(licence.replace('/', " OR "));
    }
    package
}

fn package(kind: &str, name: &str, version: &str, locator: &str) -> Value {
    let id: String = format!("SPDXRef-{kind}-{name}-{version}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}],
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A name or version as a package URL takes it.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(packages: &[Value]) -> Vec<&str> {
        packages.iter().map(|it| text(&it["name"])).collect()
    }

    #[test]
    fn crates_of_macros_build_scripts_and_tests_are_not_in_the_program() {
        let package = |name: &str, kind: &str| json!({"id": name, "name": name, "version": "1.0.0", "source": null, "license": "MIT/Apache-2.0", "targets": [{"kind": [kind]}]});
        let needs = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("a", "bin"), package("b", "lib"), package("m", "proc-macro"), package("syn", "lib"), package("cc", "lib"), package("t", "lib")],
            "resolve": {"nodes": [
                {"id": "a", "deps": [needs("b", Value::Null), needs("m", Value::Null), needs("cc", json!("build")), needs("t", json!("dev"))]},
                {"id": "m", "deps": [needs("syn", Value::Null)]},
            ]},
        });
        let found = linked(&metadata, "a").unwrap();
        assert_eq!(names(&found), ["a", "b"]);
        assert_eq!(found[0]["licenseDeclared"], "MIT OR Apache-2.0");
    }

    #[test]
    fn packages_that_dpkg_has_removed_are_not_in_the_image() {
        let status = "Package: git\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.39.5-0+deb12u2\n\nPackage: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";
        let mut parts = Parts::default();
        parts.debian(status, None);
        assert_eq!(names(&parts.0), ["git"]);
        let locator = &parts.0[0]["externalRefs"][0]["referenceLocator"];
        assert_eq!(locator, "pkg:deb/debian/git@1%3A2.39.5-0%2Bdeb12u2?arch=amd64");
        let document = parts.document("gantry-helper:1", "sha256:ab", "2025-01-01T00:00:00Z");
        assert_eq!(document["packages"].as_array().unwrap().len(), 2);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 2);
    }
}
