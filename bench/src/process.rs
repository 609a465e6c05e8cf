//! What a process uses, read from `/proc`.

use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Memory in use.
    pub rss_bytes: u64,
    /// Processor time so far, user and system.
    pub cpu: Duration,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub fds: u64,
}

impl Usage {
    /// Memory in MB (10⁶ bytes).
    pub fn megabytes(&self) -> f64 {
        crate::percentiles::count(usize::try_from(self.rss_bytes / 1000).unwrap_or(usize::MAX)) / 1000.0
    }
}

/// Looks at a process.
///
/// # Errors
/// When it has ended.
pub fn look(pid: u32) -> Result<Usage> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).with_context(|| format!("process {pid} has ended"));
    let (stat, status) = (read("stat")?, read("status")?);
    let ticks = cpu_ticks(&stat).with_context(|| format!("failed to read the processor time of process {pid}"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Usage {
        rss_bytes: field(&status, "VmRSS:") * 1024,
        cpu: Duration::from_millis(ticks * 1000 / per_second.max(1)),
        threads: field(&status, "Threads:"),
        fds: std::fs::read_dir(directory.join("fd")).map_or(0, |entries| entries.count() as u64),
    })
}

/// User and system time; the name of the program, in brackets, may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{cpu_ticks, field, look};

    #[test]
    fn fields_are_found_behind_a_name_with_spaces() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(field("Name:\tx\nVmRSS:\t  123 kB\n", "VmRSS:"), 123);
        assert_eq!(field("", "VmRSS:"), 0);
    }

    #[test]
    fn this_process_can_be_looked_at_and_one_that_ended_cannot() {
        let usage = look(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.threads > 0 && usage.fds > 0);
        assert!(look(u32::MAX - 1).is_err());
    }
}
