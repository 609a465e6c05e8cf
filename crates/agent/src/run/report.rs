//! The resource report: what each container used, beside what it asked for, in a section at the end of the log.
//!
//! The build container's figures come from `serve`, the helper's from our own group. Nobody inside the pod can read
//! those of a service, and asking the kubelet was decided against: it would be a right on every node for a report.

use super::stages::{self, Stages};
use crate::build::Build;
use crate::resources;
use agent_contract::plan::Resources;
use agent_contract::{Usage, names};
use gitlab_api::log::{self, Stream};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the build container has to answer.
const ANSWER: Duration = Duration::from_secs(1);
const SECTION: &str = "resource_report";
const HEADINGS: [&str; 9] =
    ["container", "memory peak", "request", "limit", "CPU time", "throttled", "request", "limit", "disk written"];
const UNKNOWN: &str = "unknown";

impl Stages<'_> {
    /// What was used by whom; nothing where no report is wanted.
    pub async fn measure(&self) -> BTreeMap<String, Usage> {
        if self.plan.settings.resources.is_empty() {
            return BTreeMap::new();
        }
        let asked = async { Build::connect(&self.socket).await.measure().await.ok() };
        // A build container that is gone leaves its figures unknown.
        let build = tokio::time::timeout(ANSWER, asked).await.ok().flatten().unwrap_or_default();
        let containers = [(names::BUILD_CONTAINER, build), (names::HELPER_CONTAINER, resources::measure())];
        containers.map(|(name, usage)| (name.to_owned(), usage)).into()
    }

    /// Writes the section.
    pub async fn report(&self, usage: &BTreeMap<String, Usage>) {
        let asked = &self.plan.settings.resources;
        if asked.is_empty() {
            return;
        }
        if self.plan.job.features.trace_sections {
            let start = log::section_start(stages::now(), SECTION, "[collapsed=true]");
            self.trace.own(Stream::RUNNER, start.as_bytes());
        }
        self.trace.line("\x1b[0K\x1b[36;1mResource report\x1b[0;m").await;
        for line in table(asked, usage) {
            self.trace.line(&line).await;
        }
        if asked.iter().any(|one| !usage.contains_key(&one.container)) {
            self.trace.line("What services used is unknown: a container sees no figures but its own.").await;
        }
        self.section_end(SECTION).await;
    }
}

/// Lines of aligned columns.
fn table(asked: &[Resources], usage: &BTreeMap<String, Usage>) -> Vec<String> {
    let rows: Vec<[String; 9]> =
        asked.iter().map(|one| row(one, usage.get(&one.container).copied().unwrap_or_default())).collect();
    let rows = std::iter::once(HEADINGS.map(str::to_owned)).chain(rows).collect::<Vec<_>>();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row(asked: &Resources, used: Usage) -> [String; 9] {
    let amount = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
    [
        asked.container.clone(),
        used.memory_peak.map_or_else(|| UNKNOWN.to_owned(), bytes),
        amount(&asked.memory_request),
        amount(&asked.memory_limit),
        used.cpu_ms.map_or_else(|| UNKNOWN.to_owned(), seconds),
        used.throttled_ms.map_or_else(|| UNKNOWN.to_owned(), seconds),
        amount(&asked.cpu_request),
        amount(&asked.cpu_limit),
        used.written.map_or_else(|| UNKNOWN.to_owned(), bytes),
    ]
}

fn seconds(millis: u64) -> String {
    format!("{}.{:02} s", millis / 1000, millis % 1000 / 10)
}

/// In the largest unit that leaves a number of at least 1, with a tenth.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let step = (count.ilog2() / 10).min(4);
    let tenths = u128::from(count) * 10 / (1u128 << (10 * step));
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::{bytes, table};
    use agent_contract::Usage;
    use agent_contract::plan::Resources;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_used_stands_beside_what_was_asked_for() {
        let build = Resources {
            container: "build".into(),
            cpu_request: "500m".into(),
            cpu_limit: "2".into(),
            memory_request: "1Gi".into(),
            memory_limit: "2Gi".into(),
        };
        let asked = [build, Resources { container: "svc-0".into(), memory_limit: "64Mi".into(), ..Resources::default() }];
        let used = Usage {
            memory_peak: Some(512 * 1024 * 1024),
            cpu_ms: Some(12_345),
            throttled_ms: Some(70),
            written: Some(1_288_490_189),
        };
        let expected = [
            "container  memory peak  request  limit  CPU time  throttled  request  limit  disk written",
            "build      512.0 MiB    1Gi      2Gi    12.34 s   0.07 s     500m     2      1.2 GiB",
            "svc-0      unknown      -        64Mi   unknown   unknown    -        -      unknown",
        ];
        assert_eq!(table(&asked, &BTreeMap::from([("build".to_owned(), used)])), expected);
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
