//! What the user can say on the command line.

use crate::runner::Contender;
use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measures runners side by side on one cluster, and managers at scale; see bench/README.md.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Arguments {
    /// A runner under test: its name, its program and the template of its configuration (may be repeated)
    #[arg(long = "runner", required = true, value_name = "NAME=PATH:CONFIG")]
    pub runners: Vec<String>,
    /// The template of runners that name none behind a colon
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to measure; all of it when nothing is named
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    pub only: Vec<What>,
    /// A value for the templates, of all runners or of one (may be repeated)
    #[arg(long = "set", value_name = "[NAME.]KEY=VALUE")]
    pub set: Vec<String>,
    /// Directory of the results below bench/results
    #[arg(long, default_value = "latest", value_name = "NAME")]
    pub name: String,
    /// This machine's address as pods see it
    #[arg(long, default_value = "10.244.0.1", value_name = "ADDRESS")]
    pub host: String,
    /// Port of the stand-in; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Image of the jobs; it must be on the node, or pulls are what is measured
    #[arg(long, default_value = "busybox")]
    pub image: String,
    /// Audit log of the API server, at least at level Metadata
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Directory with scenario files that replace the shipped ones of the same name
    #[arg(long, value_name = "DIR")]
    pub scenarios: Option<PathBuf>,
    /// Jobs one after another
    #[arg(long, default_value_t = 20)]
    pub serial: usize,
    /// Jobs at once
    #[arg(long, default_value_t = 60)]
    pub burst: usize,
    /// How often jobs at once are measured; the median counts
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Numbers of running jobs
    #[arg(long, value_delimiter = ',', default_value = "10,30,60")]
    pub sizes: Vec<usize>,
    /// How long each of them runs
    #[arg(long, default_value_t = 90)]
    pub job_seconds: u64,
    /// Idle [[runners]] entries
    #[arg(long, default_value_t = 200)]
    pub idle: usize,
    /// Lines of 100 bytes
    #[arg(long, default_value_t = 500_000)]
    pub lines: u64,
    /// Numbers of running jobs against an API without kubelets
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    pub scale: Vec<usize>,
    /// Seconds of each part of that measurement
    #[arg(long, default_value_t = 60)]
    pub scale_seconds: u64,
    /// Job starts a minute in its last part
    #[arg(long, default_value_t = 300)]
    pub starts_a_minute: u32,
    /// The runners that are measured at scale, by name; they must not need exec or attach
    #[arg(long, value_delimiter = ',', default_value = "gantry")]
    pub scale_runners: Vec<String>,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// One job at a time, beside bare pods
    Serial,
    /// All jobs at once, beside bare pods
    Burst,
    /// Kubernetes API requests per job
    Requests,
    /// Memory and processor time per running job
    Load,
    /// Many entries without jobs
    Idle,
    /// A long log
    Log,
    /// Thousands of jobs, API without kubelets
    Scale,
}

impl Arguments {
    /// The runners under test.
    pub fn contenders(&self) -> Result<Vec<Contender>> {
        self.runners.iter().map(|text| Contender::parse(text, self.config.as_deref())).collect()
    }

    /// Whether a measurement is wanted.
    pub fn wants(&self, what: What) -> bool {
        self.only.is_empty() || self.only.contains(&what)
    }

    /// Whether anything is wanted that needs a cluster.
    pub fn needs_cluster(&self) -> bool {
        self.only.is_empty() || self.only.iter().any(|what| *what != What::Scale)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, What};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
        let read = Arguments::parse_from(["bench", "--runner", "a=b:c", "--only", "scale"]);
        assert!(!read.needs_cluster() && read.wants(What::Scale) && !read.wants(What::Log));
    }
}
