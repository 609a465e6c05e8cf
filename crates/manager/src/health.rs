//! Whether GitLab knows the runner of an entry: one that it refuses again and again is left alone for a long time.
//!
//! Only a refusal counts, as in GitLab Runner: a server in trouble says nothing of the runner (behaviour 4).

use runner_config::Runner;
use std::time::Duration;

/// GitLab Runner's own, where nothing is set.
const LIMIT: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(3600);
/// Between refusals that are too few to mean much.
const SHORT: Duration = Duration::from_secs(5);

/// Refusals in a row.
#[derive(Debug, Default)]
pub struct Health {
    refused: u32,
}

impl Health {
    /// Anything else was answered.
    pub fn answered(&mut self) {
        self.refused = 0;
    }

    /// How long the runner is left alone after another refusal.
    pub fn refused(&mut self, runner: &Runner) -> Duration {
        self.refused += 1;
        let limit = if runner.unhealthy_requests_limit == 0 { LIMIT } else { runner.unhealthy_requests_limit };
        if self.refused < limit {
            return SHORT;
        }
        self.refused = 0;
        job::durations::parse(&runner.unhealthy_interval).filter(|interval| !interval.is_zero()).unwrap_or(INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::Health;
    use runner_config::Runner;

    fn pauses(health: &mut Health, runner: &Runner, times: usize) -> Vec<u64> {
        (0..times).map(|_| health.refused(runner).as_secs()).collect()
    }

    #[test]
    fn after_three_refusals_in_a_row_a_runner_is_left_alone_for_an_hour() {
        let (mut health, runner) = (Health::default(), Runner::default());
        assert_eq!(pauses(&mut health, &runner, 4), [5, 5, 3600, 5]);
        health.answered();
        assert_eq!(pauses(&mut health, &runner, 3), [5, 5, 3600]);
    }

    #[test]
    fn the_configuration_says_how_many_and_how_long() {
        let runner = Runner { unhealthy_requests_limit: 1, unhealthy_interval: "2m".into(), ..Runner::default() };
        assert_eq!(pauses(&mut Health::default(), &runner, 2), [120, 120]);
    }
}
