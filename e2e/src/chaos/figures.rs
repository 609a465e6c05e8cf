//! Memory and descriptors over time, and their slope: what leaks slowly.

use super::processes::Usage;
use std::collections::BTreeMap;
use std::time::Duration;

/// Samples of one process.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<(Duration, Usage)>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, at: Duration, usage: Usage) {
        self.0.push((at, usage));
    }

    /// Largest and last values, and the slope of memory over all but the first third, in which caches fill.
    pub fn figures(&self, name: &str) -> BTreeMap<String, f64> {
        let steady = &self.0[self.0.len() / 3..];
        let (Some((_, first)), Some((_, last))) = (steady.first(), self.0.last()) else { return BTreeMap::new() };
        let mib = |usage: &Usage| usage.rss_kib as f64 / 1024.0;
        let most = |of: fn(&Usage) -> u64, from: &[(Duration, Usage)]| from.iter().map(|(_, usage)| of(usage)).max().unwrap_or(0);
        let least = steady.iter().map(|(_, usage)| usage.fds).min().unwrap_or(0);
        [
            ("RSS after a third (MiB)", mib(first)),
            ("RSS at the end (MiB)", mib(last)),
            ("RSS at most (MiB)", most(|usage| usage.rss_kib, &self.0) as f64 / 1024.0),
            ("RSS slope (MiB per hour)", slope(steady)),
            ("descriptors at least", least as f64),
            ("descriptors at most", most(|usage| usage.fds, steady) as f64),
        ]
        .into_iter()
        .map(|(what, value)| (format!("{name}: {what}"), value))
        .collect()
    }
}

/// Least squares, in MiB per hour.
fn slope(samples: &[(Duration, Usage)]) -> f64 {
    let points: Vec<_> = samples.iter().map(|(at, usage)| (at.as_secs_f64() / 3600.0, usage.rss_kib as f64 / 1024.0)).collect();
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (middle, level) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|(at, value)| (at - middle) * (value - level)).sum();
    let below: f64 = points.iter().map(|(at, _)| (at - middle).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::Samples;
    use crate::chaos::processes::Usage;
    use std::time::Duration;

    #[test]
    fn what_grows_by_a_mebibyte_a_minute_has_a_slope_of_sixty() {
        let mut samples = Samples::default();
        for minute in 0..30 {
            samples.add(Duration::from_secs(60 * minute), Usage { rss_kib: 1024 * (10 + minute), fds: 9, threads: 3 });
        }
        let figures = samples.figures("x");
        assert!((figures["x: RSS slope (MiB per hour)"] - 60.0).abs() < 0.001, "{figures:?}");
        assert!((figures["x: descriptors at most"] - 9.0).abs() < 0.001);
        assert!(Samples::default().figures("x").is_empty());
    }
}
