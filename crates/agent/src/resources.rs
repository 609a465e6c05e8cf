//! What a container used, read from its own control group, version 2 or 1.
//!
//! A container sees no group but its own, so each agent reads where it runs. A file that is missing or says what nobody
//! expects makes its figure unknown: a report never fails a job.

use agent_contract::Usage;
use std::path::Path;

/// Where a container sees its group.
const GROUP: &str = "/sys/fs/cgroup";

/// Of the container we are in.
pub fn measure() -> Usage {
    measure_at(Path::new(GROUP))
}

fn measure_at(group: &Path) -> Usage {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // The machine's own group has no such file in version 2, and its figures are not a container's.
    if group.join("cgroup.events").exists() {
        let cpu = read("cpu.stat");
        return Usage {
            memory_peak: number("memory.peak"),
            cpu_ms: field(cpu.as_deref(), "usage_usec").map(|micros| micros / 1000),
            throttled_ms: field(cpu.as_deref(), "throttled_usec").map(|micros| micros / 1000),
            written: read("io.stat").map(|text| written(&text)),
        };
    }
    Usage {
        memory_peak: number("memory/memory.max_usage_in_bytes"),
        cpu_ms: number("cpuacct/cpuacct.usage").map(|nanos| nanos / 1_000_000),
        throttled_ms: field(read("cpu/cpu.stat").as_deref(), "throttled_time").map(|nanos| nanos / 1_000_000),
        written: read("blkio/blkio.throttle.io_service_bytes").map(|text| written_in_version_1(&text)),
    }
}

/// `NAME NUMBER` in a line of its own.
fn field(text: Option<&str>, name: &str) -> Option<u64> {
    text?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Over all devices: `8:0 rbytes=1 wbytes=2 …`.
fn written(text: &str) -> u64 {
    let words = text.split_ascii_whitespace();
    words.filter_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

/// Over all devices: `8:0 Write 2`.
fn written_in_version_1(text: &str) -> u64 {
    let of_line = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next() == Some("Write")).then(|| words.next()?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(of_line).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::measure_at;
    use agent_contract::Usage;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        place
    }

    #[test]
    fn figures_come_from_the_files_of_either_version() {
        let expected = Usage { memory_peak: Some(4096), cpu_ms: Some(1500), throttled_ms: Some(250), written: Some(30) };
        let second = group(&[
            ("cgroup.events", "populated 1\n"),
            ("memory.peak", "4096\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\nnr_throttled 3\nthrottled_usec 250999\n"),
            ("io.stat", "8:0 rbytes=5 wbytes=10 rios=1\n8:16 rbytes=0 wbytes=20\n"),
        ]);
        assert_eq!(measure_at(second.path()), expected);
        let first = group(&[
            ("memory/memory.max_usage_in_bytes", "4096\n"),
            ("cpuacct/cpuacct.usage", "1500000000\n"),
            ("cpu/cpu.stat", "nr_periods 1\nthrottled_time 250000000\n"),
            ("blkio/blkio.throttle.io_service_bytes", "8:0 Read 5\n8:0 Write 10\n8:16 Write 20\nTotal 35\n"),
        ]);
        assert_eq!(measure_at(first.path()), expected);
    }

    #[test]
    fn what_is_missing_or_odd_is_unknown() {
        assert_eq!(measure_at(group(&[]).path()), Usage::default());
        let odd = group(&[("cgroup.events", ""), ("memory.peak", "max\n"), ("cpu.stat", "usage_usec x\n"), ("io.stat", "")]);
        assert_eq!(measure_at(odd.path()), Usage { written: Some(0), ..Usage::default() });
        // The group of the whole machine: it has figures, but not ours.
        assert_eq!(measure_at(group(&[("cpu.stat", "usage_usec 1500000\n")]).path()), Usage::default());
    }
}
