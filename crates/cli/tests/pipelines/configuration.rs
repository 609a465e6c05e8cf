//! What is wrong before anything starts ends with 2 and is told with its place.

use crate::gantry::ci;
use crate::repository::Repository;

/// No instance was ever made: starting takes a directory, which would be there for a moment at least.
fn told(pipeline: &str, words: &[&str]) {
    let ended = ci(Repository::new(pipeline).path(), &[]).expect(2);
    let ended = words.iter().fold(ended, |ended, word| ended.shows(word));
    assert_eq!(ended.stdout, "");
    // The node makes this one first, and never removes it.
    let pods = std::fs::exists("/var/lib/gantry/pods").unwrap();
    assert!(!pods || crate::leftovers::instances().is_empty());
}

pub fn an_error_of_syntax_is_told_with_its_place_and_nothing_starts() {
    told("job:\n  script: [echo\n", &[".gitlab-ci.yml:2:11", "unclosed bracket", "          ^"]);
    told("job:\n  script: x\n  scirpt: y\n", &[".gitlab-ci.yml:3:3", "  ^^^^^^", "did you mean `script`?"]);
}

pub fn all_errors_of_a_file_are_told_at_once() {
    let pipeline = "a:\n  script: x\n  stage: nope\nb:\n  script: x\n  needs: [zz]\n  scirpt: y\n";
    told(pipeline, &[".gitlab-ci.yml:3:10", "`nope`", ".gitlab-ci.yml:6:11", "`zz`", ".gitlab-ci.yml:7:3", "`scirpt`"]);
}

pub fn outside_a_repository_a_sentence_says_so() {
    let directory = tempfile::tempdir().unwrap();
    ci(directory.path(), &[]).expect(2).shows("no git working tree here");
    let without = Repository::with(&[("a", "1")]);
    ci(without.path(), &[]).expect(2).shows(".gitlab-ci.yml");
}

pub fn a_job_that_is_not_there_is_told() {
    let repository = Repository::new("job:\n  script: echo x\n");
    ci(repository.path(), &["jbo"]).expect(2).shows("no job").shows("jbo").hides("$ echo x");
}

pub fn a_variable_that_is_none_is_told() {
    let repository = Repository::new("job:\n  script: echo x\n");
    ci(repository.path(), &["--var", "1=2"]).expect(2).shows("is not the name of a variable");
}

pub fn a_keyword_that_is_not_handled_is_named_in_a_warning() {
    let repository = Repository::new("job:\n  script: echo x\n  retry: 2\n");
    ci(repository.path(), &[]).expect(0).shows(".gitlab-ci.yml:3:3").shows("warning").shows("retry");
}
