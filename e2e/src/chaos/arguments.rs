//! What the suite can be told on the command line.

use super::host::HostArguments;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Jobs, and trouble that none of them may notice
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", after_help = AFTER)]
pub struct Arguments {
    /// What else this program is.
    #[command(subcommand)]
    pub part: Option<Part>,
    /// What the run does.
    #[command(flatten)]
    pub plan: Plan,
}

const AFTER: &str = "--kills, --jobs and --minutes are each the least that is done: a run ends when all are reached and its last job is \
over. It ends with 1 when a job was lost or doubled, a log was not exact or something was left behind, with 2 when it could not be done.";

/// The coordinator in a process of its own.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// GitLab as the suite kills it
    #[command(hide = true)]
    Host(HostArguments),
}

/// Where pods run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// The embedded node, started for the run
    Node,
    /// The cluster of `cargo xtask cluster up`
    Cluster,
}

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// SIGKILL to the manager; it starts again
    ManagerKill,
    /// A new manager, under another id, then SIGTERM to the old one: a rolling update
    ManagerTerm,
    /// A new manager, then SIGKILL to the old one, which never comes back
    ReplicaKill,
    /// SIGKILL to the agent in a running pod
    AgentKill,
    /// SIGKILL to the shim of a running pod; on the node to the first process of its build container
    ShimKill,
    /// SIGKILL to the coordinator; it starts again
    CoordinatorKill,
    /// GitLab refuses, fails, is busy, slow or silent, or its answers are lost
    GitlabAway,
    /// Single requests of runners and pods fail, each in its own way: 500, 429, slow, closed, half answered, 416, 202
    GitlabFaults,
    /// A job that waits or runs is canceled at GitLab
    Cancel,
    /// The managers cannot reach the Kubernetes API: it refuses or hangs, on a cluster it may really be stopped
    ApiAway,
    /// Nothing passes between pods and GitLab
    Partition,
}

impl Trouble {
    /// Its name in reports and on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What a run does.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Where the pods run
    #[arg(long, value_enum, default_value = "node")]
    pub target: On,
    /// Kinds of trouble, of which each stroke is one [default: manager-kill, or none with --minutes alone]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,…")]
    pub trouble: Vec<Trouble>,
    /// Strokes of trouble [default: 20, or 0 with --minutes]
    #[arg(long)]
    pub kills: Option<u64>,
    /// Jobs [default: 40, or 0 with --minutes]
    #[arg(long)]
    pub jobs: Option<u64>,
    /// Minutes
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Jobs at the same time
    #[arg(long, default_value_t = 12)]
    pub running: u64,
    /// Longest sleep of a job, in seconds
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    pub sleep: f64,
    /// How long something is away (gitlab-away, gitlab-faults, api-away, partition)
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub outage: u64,
    /// Where chance begins; printed when not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the result is written
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Plan {
    /// The kinds that strokes are made of.
    pub fn kinds(&self) -> Vec<Trouble> {
        let of_default = self.trouble.is_empty() && self.kills() > 0;
        if of_default { vec![Trouble::ManagerKill] } else { self.trouble.clone() }
    }

    /// Least number of strokes.
    pub fn kills(&self) -> u64 {
        self.kills.unwrap_or(if self.minutes.is_some() { 0 } else { 20 })
    }

    /// Least number of jobs.
    pub fn jobs(&self) -> u64 {
        self.jobs.unwrap_or(if self.minutes.is_some() { 0 } else { 40 })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Trouble};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_well_formed_and_minutes_alone_are_a_soak() {
        Arguments::command().debug_assert();
        let plan = |words: &str| Arguments::try_parse_from(words.split(' ')).unwrap().plan;
        assert_eq!(plan("chaos").kinds(), [Trouble::ManagerKill]);
        assert!(plan("chaos --minutes 30").kinds().is_empty());
        assert_eq!(plan("chaos --minutes 1 --trouble partition,agent-kill").kinds().len(), 2);
    }
}
