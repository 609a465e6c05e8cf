//! What takes a setting of `config.toml`, or a look at both sides.

use crate::leftovers::{instances, processes};
use crate::parts::play;
use crate::repository::Repository;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub fn too_much_memory_is_told_as_such() {
    let pipeline = "job:\n  script:\n    - echo \"takes $((100+100)) MB\"\n    - head -c 200000000 /dev/zero | tail -c 200000000 | wc -c\n    - echo never\n";
    let repository = Repository::new(pipeline);
    let limit = |runner: &mut runner_config::Runner| runner.kubernetes.memory_limit = "64Mi".to_owned();
    play(limit, async |parts| {
        let pipeline = parts.run(&repository);
        let job = parts.wait_for_end(pipeline).await;
        let trace = parts.trace(pipeline);
        assert_eq!(job.status, coordinator::JobStatus::Failed, "{trace}");
        let told = trace.lines().filter(|line| line.contains("memory")).collect::<Vec<_>>().join("\n");
        println!("    {:?}, exit code {:?}: {}", job.failure_reason, job.exit_code, console::strip_ansi_codes(&told));
        assert!(trace.contains("takes 200 MB") && !trace.contains("$ echo never"), "{trace}");
        assert!(told.contains("64Mi") || told.contains("limit"), "{trace}");
    });
}

pub fn a_hundred_megabytes_are_the_same_on_both_sides() {
    let pipeline = "job:\n  script:\n    - head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 100\n";
    let (small, large) = (Repository::new("job:\n  script: echo x\n"), Repository::new(pipeline));
    play(
        |_| {},
        async |parts| {
            // The first job of a process makes what stays.
            parts.wait_for_end(parts.run(&small)).await;
            let before = resident("self", "VmRSS:");
            // The high-water mark begins anew.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let agents = AgentMemory::watch();
            let begun = Instant::now();
            let job = parts.wait_for_end(parts.run(&large)).await;
            let took = begun.elapsed();
            let facts = parts.coordinator.trace_facts(job.id).unwrap();
            println!(
                "    {} bytes in {:.1} s; we: {before} KiB before, {} KiB at most; agent: {} KiB at most",
                facts.bytes,
                took.as_secs_f64(),
                resident("self", "VmHWM:"),
                agents.most()
            );
            assert_eq!(job.status, coordinator::JobStatus::Success);
            assert!(facts.bytes > 101_000_000, "{facts:?}");
            assert_eq!(facts.reported_bytes, Some(facts.bytes));
            assert_eq!(facts.reported_checksum, Some(format!("crc32:{:08x}", facts.crc32)));
            assert!(agents.most() < 30 * 1024, "{} KiB", agents.most());
            assert!(resident("self", "VmHWM:") < before + 64 * 1024, "the log is kept in memory");
        },
    );
}

/// A line of `/proc/…/status` in KiB.
pub fn resident(process: &str, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The most memory that an agent of ours had.
pub struct AgentMemory {
    most: std::sync::Arc<AtomicU64>,
    stop: std::sync::Arc<AtomicBool>,
}

impl AgentMemory {
    /// Begins to look.
    pub fn watch() -> Self {
        let (most, stop) = (std::sync::Arc::<AtomicU64>::default(), std::sync::Arc::<AtomicBool>::default());
        let watch = Self { most: most.clone(), stop: stop.clone() };
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (process, name) in processes(&instances()) {
                    if name.starts_with("gantry-agent") {
                        most.fetch_max(resident(&process, "VmHWM:"), Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        watch
    }

    /// In KiB.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for AgentMemory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
