//! Case folders: a repository with a `.gitlab-ci.yml`, and what compiling it gives, as text.
//!
//! `UPDATE_EXPECT=1` writes what is found; read the diff. `variables.txt` and `overrides.txt` hold `KEY=VALUE` lines.

use ci_yaml::pipeline::{AllowFailure, Image, PipelineJob, When, YamlVariable};
use ci_yaml::{Files, Input, Pipeline, compile};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A pushed branch.
const PREDEFINED: &[(&str, &str)] = &[
    ("CI", "true"),
    ("CI_COMMIT_BRANCH", "main"),
    ("CI_COMMIT_REF_NAME", "main"),
    ("CI_DEFAULT_BRANCH", "main"),
    ("CI_PIPELINE_SOURCE", "push"),
    ("CI_PROJECT_PATH", "group/project"),
];

/// A repository in memory.
struct Repository(BTreeMap<String, String>);

impl Files for Repository {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok(self.0.get(path).cloned())
    }

    fn list(&self) -> Result<Vec<String>, String> {
        Ok(self.0.keys().cloned().collect())
    }
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(directory).expect("cases").map(|entry| entry.expect("case").path()).collect();
    cases.sort();
    cases
}

fn read_repository(case: &Path) -> Repository {
    let mut files = BTreeMap::new();
    let mut directories = vec![case.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(case).expect("inside").to_str().expect("UTF-8").to_owned();
            if !["expected.txt", "variables.txt", "overrides.txt"].contains(&name.as_str()) {
                files.insert(name, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    Repository(files)
}

fn read_variables(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn compile_case(case: &Path, repository: &Repository) -> String {
    let mut variables: Vec<(String, String)> =
        PREDEFINED.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    variables.extend(read_variables(&case.join("variables.txt")));
    let overrides = read_variables(&case.join("overrides.txt"));
    let input = Input { path: ".gitlab-ci.yml", files: repository, variables: &variables, overrides: &overrides };
    match compile(&input) {
        Ok(compiled) if compiled.warnings.0.is_empty() => dump(&compiled.pipeline),
        Ok(compiled) => format!("{}\n{}", dump(&compiled.pipeline), compiled.warnings.render(false)),
        Err(errors) => errors.render(false),
    }
}

fn dump(pipeline: &Pipeline) -> String {
    let mut text = format!("stages: {}\n", pipeline.stages.join(", "));
    for job in &pipeline.jobs {
        dump_job(&mut text, job).expect("a String takes all");
    }
    if !pipeline.excluded.is_empty() {
        text += &format!("excluded: {}\n", pipeline.excluded.join(", "));
    }
    text
}

fn dump_job(text: &mut String, job: &PipelineJob) -> std::fmt::Result {
    writeln!(text, "\njob `{}` in {}", job.name, job.stage)?;
    if let Some(image) = &job.image {
        writeln!(text, "  image: {}", show_image(image))?;
    }
    for service in &job.services {
        writeln!(text, "  service: {}", show_image(&service.image))?;
        for (what, value) in [("alias", service.alias.clone()), ("command", service.command.join(" "))] {
            if !value.is_empty() {
                writeln!(text, "    {what}: {value}")?;
            }
        }
        dump_variables(text, "    ", &service.variables)?;
    }
    dump_variables(text, "  ", &job.variables)?;
    for (what, commands) in [("script", &job.script), ("after_script", &job.after_script)] {
        if !commands.is_empty() {
            writeln!(text, "  {what}:")?;
        }
        for command in commands {
            writeln!(text, "    - {}", command.replace('\n', "⏎"))?;
        }
    }
    if let Some(needs) = &job.needs {
        let show = |need: &ci_yaml::pipeline::Need| {
            let artifacts = if need.artifacts { "" } else { " (no artifacts)" };
            format!("{}{artifacts}{}", need.job, if need.optional { " (optional)" } else { "" })
        };
        writeln!(text, "  needs: [{}]", needs.iter().map(show).collect::<Vec<_>>().join("; "))?;
    }
    if let Some(dependencies) = &job.dependencies {
        writeln!(text, "  dependencies: [{}]", dependencies.join("; "))?;
    }
    if let Some(artifacts) = &job.artifacts {
        writeln!(text, "  artifacts: {artifacts:?}")?;
    }
    match &job.allow_failure {
        AllowFailure::No => {}
        other => writeln!(text, "  allow_failure: {other:?}")?,
    }
    if job.when != When::OnSuccess {
        writeln!(text, "  when: {:?}", job.when)?;
    }
    if let Some(seconds) = job.timeout_seconds {
        writeln!(text, "  timeout: {seconds} s")?;
    }
    if !job.tags.is_empty() {
        writeln!(text, "  tags: {}", job.tags.join(", "))?;
    }
    Ok(())
}

fn dump_variables(text: &mut String, indent: &str, variables: &[YamlVariable]) -> std::fmt::Result {
    for variable in variables {
        let raw = if variable.raw { " (raw)" } else { "" };
        writeln!(text, "{indent}{} = {:?}{raw}", variable.key, variable.value)?;
    }
    Ok(())
}

fn show_image(image: &Image) -> String {
    let mut text = image.name.clone();
    for (what, value) in [
        ("entrypoint", (!image.entrypoint.is_empty()).then(|| format!("{:?}", image.entrypoint))),
        ("pull_policy", (!image.pull_policy.is_empty()).then(|| image.pull_policy.join(", "))),
        ("user", image.user.clone()),
    ] {
        if let Some(value) = value {
            text += &format!(", {what} {value}");
        }
    }
    text
}

#[test]
fn each_case_compiles_to_what_it_says() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut differing = Vec::new();
    let cases = cases();
    for case in &cases {
        let found = compile_case(case, &read_repository(case));
        let expected = case.join("expected.txt");
        if update {
            fs::write(expected, found).expect("written");
        } else if fs::read_to_string(expected).unwrap_or_default() != found {
            differing.push(format!("--- {}\n{found}", case.display()));
        }
    }
    assert!(cases.len() >= 60, "only {} cases were found", cases.len());
    assert!(differing.is_empty(), "{} cases differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn no_beginning_of_any_case_makes_the_compiler_panic() {
    for case in cases() {
        let mut repository = read_repository(&case);
        let Some(text) = repository.0.get(".gitlab-ci.yml").cloned() else { continue };
        // Long files are cut at fewer places, so that the test stays quick.
        let step = text.len() / 400 + 1;
        for end in (0..text.len()).step_by(step).filter(|end| text.is_char_boundary(*end)) {
            repository.0.insert(".gitlab-ci.yml".to_owned(), text[..end].to_owned());
            compile_case(&case, &repository);
        }
    }
}

#[test]
fn the_pipeline_of_this_repository_compiles_without_a_warning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.gitlab-ci.yml");
    let text = fs::read_to_string(&path).expect("the repository's own pipeline");
    let repository = Repository(BTreeMap::from([(".gitlab-ci.yml".to_owned(), text)]));
    let found = compile_case(Path::new("."), &repository);
    assert!(found.starts_with("stages: ") && !found.contains("warning: "), "{found}");
}

/// A small generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).unwrap_or(0)
    }
}

#[test]
fn no_damaged_case_makes_the_compiler_panic() {
    const PIECES: &[&str] = &[
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "\n",
        "\t",
        "*a",
        "&a ",
        "<<: *a",
        "!reference ",
        "\"",
        "'",
        "|",
        "null",
        "5",
        "$",
        "é",
        "\u{feff}",
    ];
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(40);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for case in cases() {
        let mut repository = read_repository(&case);
        let Some(text) = repository.0.get(".gitlab-ci.yml").cloned() else { continue };
        for _ in 0..rounds {
            let mut damaged: Vec<char> = text.chars().collect();
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(damaged.len());
                let to = (at + numbers.below(6)).min(damaged.len());
                let piece = PIECES[numbers.below(PIECES.len())];
                damaged.splice(at..to, piece.chars());
            }
            repository.0.insert(".gitlab-ci.yml".to_owned(), damaged.into_iter().collect());
            compile_case(&case, &repository);
        }
    }
}
