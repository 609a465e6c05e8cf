//! Large and hostile files end in time: with a pipeline, or with an error that says which bound was met.

use ci_yaml::{Compiled, Diagnostics, Files, Input, compile};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

struct Repository(BTreeMap<String, String>);

impl Files for Repository {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok(self.0.get(path).cloned())
    }

    fn list(&self) -> Result<Vec<String>, String> {
        Ok(self.0.keys().cloned().collect())
    }
}

/// Far more than any of these takes, so that a busy machine does not fail the test; what it looks for is minutes.
const LIMIT: Duration = Duration::from_secs(20);

fn compile_text(text: String) -> Result<Compiled, Diagnostics> {
    let repository = Repository(BTreeMap::from([("ci.yml".to_owned(), text)]));
    let input =
        Input { path: "ci.yml", files: &repository, variables: &[("CI_COMMIT_BRANCH".into(), "main".into())], overrides: &[] };
    let started = Instant::now();
    let result = compile(&input);
    let took = started.elapsed();
    eprintln!("took {took:?}");
    assert!(took < LIMIT, "took {took:?}");
    result
}

#[track_caller]
fn check_refused(text: String, expected: &str) {
    let errors = compile_text(text).expect_err("refused");
    assert!(errors.0.len() <= 500, "{} findings", errors.0.len());
    let told = errors.to_string();
    assert!(told.contains(expected), "{}", &told[..told.len().min(2000)]);
}

#[test]
fn three_thousand_jobs_with_templates_variables_rules_and_needs_compile() {
    let mut text = String::from(".base:\n  image: alpine\n  rules:\n    - if: $CI_COMMIT_BRANCH =~ /^main$/\nvariables:\n");
    for number in 0..50 {
        let _ = writeln!(text, "  V{number}: value {number}");
    }
    for number in 0..3000 {
        let need = if number > 0 { format!("  needs: [job{}]\n", number - 1) } else { String::new() };
        let _ = write!(text, "job{number}:\n  extends: .base\n  script: [echo {number}]\n{need}");
    }
    let compiled = compile_text(text).expect("a pipeline");
    assert_eq!(compiled.pipeline.jobs.len(), 3000);
    assert!(compiled.warnings.0.is_empty());
}

#[test]
fn a_thousand_mistakes_are_counted_and_the_first_are_told() {
    let text: String = (0..3000).fold(String::new(), |mut text, number| {
        let _ = write!(text, "job{number}:\n  script: echo\n  imagee: x\n");
        text
    });
    check_refused(text, "`imagee` is no keyword of a job");
}

#[test]
fn merge_keys_that_multiply_are_refused() {
    let mut text = String::from(".a: &a {");
    for number in 0..2000 {
        let _ = write!(text, "k{number}: 1, ");
    }
    text.push_str("}\n.b:\n");
    for _ in 0..2000 {
        text.push_str("  - <<: *a\n");
    }
    check_refused(text, "`<<` copies more than");
}

#[test]
fn merge_lists_that_multiply_are_refused() {
    let mut text = String::from(".a: &a {");
    for number in 0..2000 {
        let _ = write!(text, "k{number}: 1, ");
    }
    let list = vec!["*a"; 5000].join(", ");
    let _ = write!(text, "}}\njob:\n  <<: [{list}]\n");
    check_refused(text, "with its aliases written out this is more than");
}

#[test]
fn long_commands_that_multiply_are_refused() {
    let aliases = vec!["*s"; 1000].join(", ");
    check_refused(format!(".s: &s \"{}\"\nj: {{script: [{aliases}]}}\n", "x".repeat(1_000_000)), "too many steps");
    let text = format!("j: {{parallel: 200, script: \"{}\"}}\n", "x".repeat(1_000_000));
    check_refused(text, "too many steps");
}

#[test]
fn conditions_on_long_variables_are_bounded() {
    let mut text = format!("variables: {{A: \"{}\", B: $A$A, C: $B$B}}\n", "x".repeat(15_000));
    for number in 0..2000 {
        let _ = writeln!(text, "j{number}: {{script: echo, rules: [{{if: $C =~ /(x+x+)+y/}}, {{when: always}}]}}");
    }
    check_refused(text, "too many steps");
}

#[test]
fn unknown_names_of_thousands_of_needs_are_bounded() {
    let mut text = String::new();
    for number in 0..3000 {
        let _ = writeln!(
            text,
            "a-long-name-of-a-job-that-builds-{number}: {{script: echo, needs: [a-long-name-of-a-jbo-that-builds-{number}]}}"
        );
    }
    check_refused(text, "there is no such job");
}

#[test]
fn extends_that_multiply_are_refused() {
    let mut text = String::from(".a:\n");
    for number in 0..3000 {
        let _ = writeln!(text, "  k{number}: 1");
    }
    for number in 0..3000 {
        let _ = writeln!(text, "j{number}: {{extends: .a, script: echo}}");
    }
    check_refused(text, "too many steps");
}

#[test]
fn variables_that_double_each_other_cost_no_time() {
    let mut text = String::from("variables:\n  A0: xxxxxxxxxx\n");
    for number in 1..60 {
        let _ = writeln!(text, "  A{number}: $A{0}$A{0}$A{0}", number - 1);
    }
    for number in 0..5 {
        let _ = write!(text, "j{number}:\n  script: echo\n  rules:\n    - if: $A59 == \"x\"\n    - when: always\n");
    }
    compile_text(text).expect("a pipeline");
}

#[test]
fn long_chains_of_variables_are_searched_for_circles() {
    let chain: Vec<String> = (0..5000).map(|number| format!("A{number}: $A{}", number + 1)).collect();
    compile_text(format!("variables: {{{}}}\nj: {{script: echo}}\n", chain.join(", "))).expect("a pipeline");
    let text = format!("variables: {{{}, A5000: $A0}}\nj: {{script: echo, rules: [{{if: $A0}}]}}\n", chain.join(", "));
    check_refused(text, "variables refer to each other in a circle");
}

#[test]
fn a_file_of_brackets_is_refused() {
    check_refused("a: ".to_owned() + &"[".repeat(1_000_000), "");
    check_refused("- ".repeat(500_000), "");
    check_refused("? ".repeat(500_000), "");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    check_refused("a: 1 # ".to_owned() + &"x".repeat(3_000_000), "file is too large");
}

#[test]
fn large_single_values_are_taken() {
    let text = format!("j:\n  script: \"{}\"\n", "x".repeat(1_500_000));
    assert_eq!(compile_text(text).expect("a pipeline").pipeline.jobs[0].script[0].len(), 1_500_000);
}

#[test]
fn aliases_of_a_large_list_are_bounded() {
    let mut text = String::from(".s: &s [");
    text.push_str(&vec!["echo"; 20_000].join(", "));
    text.push_str("]\n");
    for number in 0..1000 {
        let _ = writeln!(text, "j{number}: {{script: *s}}");
    }
    check_refused(text, "");
}

#[test]
fn a_chain_of_includes_ends() {
    let files = (0..1000).map(|number| (format!("{number}.yml"), format!("include: {}.yml\n", number + 1))).collect();
    let repository = Repository(files);
    let input = Input { path: "0.yml", files: &repository, variables: &[], overrides: &[] };
    let errors = compile(&input).expect_err("refused");
    assert!(errors.to_string().contains("more than 150 files are included"), "{errors}");
}
