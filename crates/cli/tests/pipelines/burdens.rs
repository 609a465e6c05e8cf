//! Many jobs and long logs through the program itself, with figures.

use crate::gantry::{Gantry, PATIENCE, ci, kept};
use crate::inside::{AgentMemory, resident};
use crate::repository::Repository;
use std::fmt::Write;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

pub fn thirty_jobs_in_ten_stages_pass() {
    let stages: Vec<_> = (0..10).map(|stage| format!("s{stage}")).collect();
    let mut pipeline = format!("stages: [{}]\n", stages.join(", "));
    for number in 0..30 {
        writeln!(pipeline, "job{number}: {{stage: s{}, script: echo job {number}}}", number / 3).unwrap();
    }
    let repository = Repository::new(&pipeline);
    let begun = Instant::now();
    let ended = ci(repository.path(), &["--json"]).expect(0);
    let took = begun.elapsed();
    let result: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let jobs = result["jobs"].as_array().unwrap();
    let passed = jobs.iter().filter(|job| job["status"] == "success").count();
    let mut seconds: Vec<_> = jobs.iter().filter_map(|job| job["seconds"].as_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    println!("    30 jobs in {:.1} s, the median job {:.2} s", took.as_secs_f64(), seconds[seconds.len() / 2]);
    assert_eq!(passed, 30);
}

pub fn a_hundred_megabytes_of_output_are_whole() {
    let pipeline = "job:\n  script:\n    - head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 100; echo\n";
    let repository = Repository::new(pipeline);
    let agents = AgentMemory::watch();
    let begun = Instant::now();
    let mut most = 0;
    let mut gantry = Gantry::start(repository.path(), &["--keep"]);
    let process = gantry.process().to_string();
    let screen = gantry.stdout_file();
    let size = || std::fs::metadata(&screen).map_or(0, |meta| meta.len());
    gantry.wait_until("all of it on the screen", |_| {
        most = most.max(resident(&process, "VmHWM:"));
        size() > 101_000_000
    });
    let (code, output) = gantry.end_within(PATIENCE);
    println!("    {:.1} s; gantry: {most} KiB at most; agent: {} KiB at most", begun.elapsed().as_secs_f64(), agents.most());
    let stderr = std::fs::read_to_string(output.path().join("stderr")).unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    let kept = kept(&stderr);
    let traces: Vec<_> = std::fs::read_dir(kept.join("coordinator/traces")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let lines: usize = traces.iter().map(|path| full_lines(path)).sum();
    let shown = full_lines(&output.path().join("stdout"));
    std::fs::remove_dir_all(kept).unwrap();
    assert_eq!((lines, shown), (1_000_000, 1_000_000));
    assert!(agents.most() < 30 * 1024, "{} KiB", agents.most());
    assert!(most < 512 * 1024, "{most} KiB");
}

/// Lines that end with a hundred x and nothing else but the job's name.
fn full_lines(path: &Path) -> usize {
    let wanted = "x".repeat(100);
    let reader = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let lines = reader.split(b'\n').map(Result::unwrap);
    lines.filter(|line| line.ends_with(wanted.as_bytes()) && line.iter().filter(|byte| **byte == b'x').count() == 100).count()
}
