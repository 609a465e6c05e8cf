//! Percentiles of a handful of measurements.
//!
//! Nearest rank, without interpolation: every figure printed is one that was measured.

use std::time::Duration;

/// Values in order.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Takes values in any order; what is no number is left out.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Takes times, as seconds.
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(times.into_iter().map(|time| time.as_secs_f64()))
    }

    /// The smallest value that `percent` of all do not exceed; `None` without values.
    pub fn percentile(&self, percent: u8) -> Option<f64> {
        let rank = (self.0.len() * usize::from(percent.min(100))).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The largest.
    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// The mean.
    pub fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.iter().sum::<f64>() / count(self.0.len()))
    }
}

/// A count as a number to divide by.
pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The slope of the line through points, by least squares; `None` when they do not make one.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count(points.len());
    let (x, y) = (mean(&mut points.iter().map(|point| point.0)), mean(&mut points.iter().map(|point| point.1)));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::{Sample, slope};

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let sample = Sample::new((1..=10).map(f64::from));
        assert_eq!(sample.percentile(50), Some(5.0));
        assert_eq!(sample.percentile(90), Some(9.0));
        assert_eq!(sample.percentile(99), Some(10.0));
        assert_eq!(sample.percentile(0), Some(1.0));
        assert_eq!(sample.max(), Some(10.0));
        assert_eq!(sample.mean(), Some(5.5));
    }

    #[test]
    fn one_value_is_every_percentile_and_none_has_none() {
        assert_eq!(Sample::new([3.0]).percentile(1), Some(3.0));
        assert_eq!(Sample::new([3.0]).percentile(100), Some(3.0));
        assert_eq!(Sample::new([f64::NAN]).percentile(50), None);
        assert_eq!(Sample::default().mean(), None);
    }

    #[test]
    fn a_slope_is_found_and_a_single_place_has_none() {
        let found = slope(&[(0.0, 10.0), (10.0, 11.0), (60.0, 16.0)]).unwrap();
        assert!((found - 0.1).abs() < 1e-9, "{found}");
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[]), None);
    }
}
