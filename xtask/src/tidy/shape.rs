//! Sizes and heads: functions ≤ 100 lines, files ≤ 800 lines without tests, every module begins with `//!`.
//!
//! Test code is free of the sizes: files below a `tests` folder, `tests.rs`, and modules marked `#[cfg(test)]`.

use anyhow::{Context, Result};
use std::path::Path;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const MAX_FUNCTION: usize = 100;
const MAX_FILE: usize = 800;

/// Every file or function that is too long or has no head.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for top in ["crates", "xtask"] {
        for entry in walkdir::WalkDir::new(root.join(top)).into_iter().filter_entry(|entry| entry.file_name() != "target") {
            let entry = entry.with_context(|| format!("failed to walk {top}"))?;
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let shown = entry.path().strip_prefix(root).unwrap_or(entry.path()).display().to_string();
                problems.extend(check(&shown, &std::fs::read_to_string(entry.path())?)?);
            }
        }
    }
    Ok(problems)
}

fn check(shown: &str, text: &str) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!("{shown}: a module begins with //! and one line on what it is"));
    }
    let is_test = shown.split('/').any(|part| part == "tests" || part == "tests.rs");
    let file = syn::parse_file(text).with_context(|| format!("failed to parse {shown}"))?;
    let mut visitor = Shape { shown, problems, test_lines: 0 };
    if !is_test {
        visitor.visit_file(&file);
        let lines = text.lines().count() - visitor.test_lines;
        if lines > MAX_FILE {
            visitor.problems.push(format!("{shown}: {lines} lines without tests, more than {MAX_FILE}"));
        }
    }
    Ok(visitor.problems)
}

struct Shape<'a> {
    shown: &'a str,
    problems: Vec<String>,
    test_lines: usize,
}

impl Shape<'_> {
    fn function(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let (start, end) = (span.start().line, span.end().line);
        let lines = end - start + 1;
        if lines > MAX_FUNCTION {
            self.problems.push(format!("{}:{start}: fn {name} has {lines} lines, more than {MAX_FUNCTION}", self.shown));
        }
    }
}

impl<'ast> Visit<'ast> for Shape<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.attrs.iter().any(is_cfg_test) {
            let span = module.span();
            self.test_lines += span.end().line - span.start().line + 1;
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig.ident, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.sig.ident, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn long_functions_and_files_and_missing_heads_are_reported() {
        let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(101));
        let problems = check("crates/x/src/lib.rs", &long).unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let file = format!("//! X.\n{}", "const A: u8 = 1;\n".repeat(800));
        assert!(check("crates/x/src/lib.rs", &file).unwrap()[0].contains("801 lines"));
    }

    #[test]
    fn test_modules_do_not_count() {
        let text = format!("//! X.\n#[cfg(test)]\nmod tests {{\nfn a() {{\n{}}}\n}}\n", "    b();\n".repeat(900));
        assert_eq!(check("crates/x/src/lib.rs", &text).unwrap(), Vec::<String>::new());
    }
}
