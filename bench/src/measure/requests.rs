//! Requests to the Kubernetes API per job, from the audit log.

use super::Bench;
use crate::audit::{self, Mark};
use crate::percentiles::count;
use crate::report::Place;
use crate::runner::Contender;
use anyhow::Result;
use std::time::Duration;

/// The budget of a job.
const GOAL: f64 = 8.0;
/// The API server writes its log after the answer.
const WRITTEN: Duration = Duration::from_secs(2);

/// Jobs of three lengths.
pub async fn measure(bench: &mut Bench, contender: &Contender) -> Result<()> {
    let Some(path) = bench.settings.audit_log.clone() else {
        bench.report.note("requests per job were not counted: --audit-log names no file");
        return Ok(());
    };
    for (what, seconds, number) in [("of a moment", 0, 5), ("of 5 s", 5, 5), ("of 60 s", 60, 2)] {
        eprintln!("requests of {number} jobs {what}: {}", contender.name);
        let scenario = if seconds == 0 { bench.scenario("trivial")? } else { bench.scenario("lines")?.with("seconds", seconds) };
        let running = bench.start(contender, 1).await?;
        // The start has its own requests: lists, and questions for permissions.
        tokio::time::sleep(WRITTEN).await;
        let mark = Mark::now(&path)?;
        let ids = bench.offer(&running, &scenario, number);
        bench.ended(&running, &ids, Duration::from_secs(seconds)).await?;
        bench.cluster.become_empty().await?;
        tokio::time::sleep(WRITTEN).await;
        running.stop().await?;
        let counts = mark.count(&bench.cluster.user(contender))?;
        let each = |requests: u64| count(usize::try_from(requests).unwrap_or(usize::MAX)) / count(number);
        let section = format!("Kubernetes API requests per job {what}");
        let place = Place { section: &section, of: &contender.name };
        for (request, times) in &counts {
            bench.report.add(place, request, Some(each(*times)), "");
        }
        bench.report.add_with_goal(place, "all", (Some(each(audit::total(&counts))), ""), Some(GOAL));
    }
    Ok(())
}
