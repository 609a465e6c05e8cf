//! Dependencies between our crates are those of the table in ARCHITECTURE.md, no more and no fewer crates.
//!
//! Only `[dependencies]` count: tests may reach further. The table is the rows `| \`crate\` | \`a\`, \`b\` | … |`.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Every arrow that the table does not allow, and every crate that stands on one side only.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("failed to read ARCHITECTURE.md")?;
    let mut manifests = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let entry = entry?;
        let manifest = entry.path().join("Cargo.toml");
        if manifest.exists() {
            manifests.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(manifest)?);
        }
    }
    Ok(compare(&table(&page), &found(&manifests)))
}

fn compare(allowed: &Arrows, found: &Arrows) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in found {
        let Some(may) = allowed.get(name) else {
            problems.push(format!("crates/{name}: not in the table of ARCHITECTURE.md"));
            continue;
        };
        for dependency in dependencies.difference(may) {
            problems.push(format!("crates/{name}/Cargo.toml: the arrow to {dependency} is not in the table of ARCHITECTURE.md"));
        }
    }
    for name in allowed.keys().filter(|name| !found.contains_key(*name)) {
        problems.push(format!("ARCHITECTURE.md: the table names crate {name}, which does not exist"));
    }
    problems
}

fn table(page: &str) -> Arrows {
    let rows = page.lines().skip_while(|line| !line.starts_with("| crate | may depend on")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> = line.split('|').collect();
            let name = cells.get(1).map_or("", |cell| cell.trim()).trim_matches('`').to_owned();
            let may =
                cells.get(2).map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()).unwrap_or_default();
            (name, may)
        })
        .collect()
}

fn found(manifests: &BTreeMap<String, String>) -> Arrows {
    let names: BTreeSet<_> = manifests.keys().cloned().collect();
    manifests
        .iter()
        .map(|(name, text)| {
            let section = text.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
            let dependencies = section
                .take_while(|line| !line.starts_with('['))
                .filter_map(|line| line.split(['.', ' ', '=']).next())
                .filter(|dependency| names.contains(*dependency))
                .map(str::to_owned)
                .collect();
            (name.clone(), dependencies)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{compare, found, table};

    #[test]
    fn an_arrow_outside_the_table_is_reported() {
        let page = "| crate | may depend on | why |\n|---|---|---|\n| `a` | `b` | |\n| `b` | nothing of ours | |\n\nend";
        let manifests =
            [("a", "[dependencies]\nb.workspace = true\n"), ("b", "[dependencies]\na = { path = \"x\" }\n[dev-dependencies]\n")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into();
        let problems = compare(&table(page), &found(&manifests));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("arrow to a"));
    }
}
