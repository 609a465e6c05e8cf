//! Every test that `docs/recovery.md` names is there.
//!
//! A name is what stands in backticks and reads like a sentence: at least four words joined by underscores.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = "docs/recovery.md";
const WORDS: usize = 4;

/// Every test that is named and nowhere to be found.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let page = std::fs::read_to_string(root.join(PAGE)).with_context(|| format!("failed to read {PAGE}"))?;
    let mut named = named(&page);
    for top in ["crates", "e2e", "sim"] {
        let files = walkdir::WalkDir::new(root.join(top)).into_iter().filter_entry(|entry| entry.file_name() != "target");
        // A part that is not there yet has no tests.
        for entry in files.filter_map(Result::ok).filter(|entry| entry.path().extension().is_some_and(|one| one == "rs")) {
            let text = std::fs::read_to_string(entry.path())?;
            named.retain(|name| !text.contains(&format!("fn {name}(")));
        }
    }
    Ok(named.into_iter().map(|name| format!("{PAGE}: there is no test {name}")).collect())
}

fn named(page: &str) -> BTreeSet<String> {
    let quoted = page.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_sentence = |text: &&str| {
        text.split('_').count() >= WORDS
            && text.bytes().all(|one| one == b'_' || one.is_ascii_lowercase() || one.is_ascii_digit())
    };
    quoted.filter(is_sentence).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sentences_are_names_of_tests_and_other_words_are_not() {
        let page = "see `a_test_that_is_named` and `telling-N-I`, `gantry.dev/step`, `POD-plan`\n```\n`x`\n";
        assert_eq!(super::named(page).into_iter().collect::<Vec<_>>(), ["a_test_that_is_named"]);
    }
}
