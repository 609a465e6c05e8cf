//! Throws broken inputs at everything that reads what others have written: job payloads, GitLab's answers to traces, the
//! serve protocol.
//!
//! `cargo run --release --package fuzz -- [--seconds N] [--seed N] [--keep] [TARGET…]`, or `cargo xtask fuzz`.
//!
//! It starts from the inputs kept in `fuzz/corpus` and changes them at random. What an input leads to (a sort of error, a
//! sort of result) is remembered: an input with a new end is changed further, and `--keep` stores it. This needs no
//! instrumented build, so it runs on the stable compiler that everything else is built with; a coverage-guided fuzzer
//! would find more in parsers of our own, but these here are mostly serde's and hyper's. An input that breaks something is
//! left in `fuzz/failures`; moved to the corpus it is tried first, and by every `cargo test`.

mod mutate;
mod targets;

use anyhow::{Context, Result, bail};
use mutate::Mutator;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use targets::{TARGETS, Target};

/// Most inputs that are changed further.
const MOST: usize = 2000;

struct Arguments {
    time: Duration,
    seed: u64,
    keep: bool,
    names: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let wanted = |target: &&Target| arguments.names.is_empty() || arguments.names.iter().any(|name| name == target.name);
    for target in TARGETS.iter().filter(wanted) {
        fuzz(target, &arguments)?;
    }
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let mut found = Arguments { time: Duration::from_secs(60), seed, keep: false, names: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse().ok()).with_context(|| format!("{word} needs a number"));
        match word.as_str() {
            "--seconds" => found.time = Duration::from_secs(number()?),
            "--seed" => found.seed = number()?,
            "--keep" => found.keep = true,
            name if TARGETS.iter().any(|target| target.name == name) => found.names.push(word),
            _ => bail!("unknown word {word:?}: --seconds N, --seed N, --keep and {} are known", names()),
        }
    }
    Ok(found)
}

fn names() -> String {
    TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ")
}

fn place(folder: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target.name)
}

/// The inputs that are kept for a target.
fn corpus(target: &Target) -> Result<Vec<Vec<u8>>> {
    let directory = place("corpus", target);
    let entries = std::fs::read_dir(&directory).with_context(|| format!("failed to list {}", directory.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))).collect()
}

fn store(folder: &str, target: &Target, input: &[u8]) -> Result<PathBuf> {
    let directory = place(folder, target);
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:08x}", crc32fast::hash(input)));
    std::fs::write(&path, input).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

/// What an input leads to; an input that breaks something is an error.
fn tried(target: &Target, input: &[u8]) -> Result<String> {
    match catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        Ok(end) => Ok(sort(&end)),
        Err(_) => {
            let path = store("failures", target, input)?;
            bail!("the target {} broke on {}", target.name, path.display())
        }
    }
}

/// The sort of an end: without what it quotes of the input, and without numbers.
fn sort(end: &str) -> String {
    let outside = end.split(['"', '`']).step_by(2).collect::<Vec<_>>().join("…");
    outside.chars().filter(|one| !one.is_ascii_digit()).take(100).collect()
}

fn fuzz(target: &Target, arguments: &Arguments) -> Result<()> {
    let mut inputs = corpus(target)?;
    let (begun, kept) = (Instant::now(), inputs.len());
    let mut ends = HashSet::new();
    for input in &inputs {
        ends.insert(tried(target, input)?);
    }
    let mut mutator = Mutator::new(arguments.seed, target.words);
    let mut runs = 0u64;
    while begun.elapsed() < arguments.time {
        let input = mutator.mutated(&inputs);
        runs += 1;
        if ends.insert(tried(target, &input)?) && inputs.len() < MOST {
            if arguments.keep {
                store("corpus", target, &input)?;
            }
            inputs.push(input);
        }
    }
    println!(
        "{}: {kept} kept inputs, {runs} changed ones in {} s, {} different ends, seed {}",
        target.name,
        begun.elapsed().as_secs(),
        ends.len(),
        arguments.seed
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, corpus, mutate::Mutator, tried};

    #[test]
    fn kept_inputs_and_some_changes_of_them_break_nothing() {
        for target in TARGETS {
            let inputs = corpus(target).unwrap();
            assert!(!inputs.is_empty(), "{} has no kept inputs", target.name);
            let mut mutator = Mutator::new(7, target.words);
            let changed: Vec<_> = (0..100).map(|_| mutator.mutated(&inputs)).collect();
            for input in inputs.iter().chain(&changed) {
                tried(target, input).unwrap();
            }
        }
    }
}
