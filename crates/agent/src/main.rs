//! The `gantry-agent` command.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

// musl's own allocator is several times slower with two threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The agent of gantry: runs one job inside its pod.
#[derive(Debug, Parser)]
#[command(name = "gantry-agent", version)]
struct AgentCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the job of a plan (helper container)
    Run {
        /// Directory with the parts of the plan
        #[arg(long, value_name = "DIR", default_value = agent_contract::names::PLAN_DIR)]
        plan: PathBuf,
        /// Directory shared with the build container
        #[arg(long, value_name = "DIR", default_value = agent_contract::names::SHARED_DIR)]
        shared: PathBuf,
        /// Where the verdict goes
        #[arg(long, value_name = "FILE", default_value = agent_contract::names::TERMINATION_LOG)]
        verdict: PathBuf,
    },
    /// Start the scripts of the job (build container)
    Serve {
        /// Directory shared with the helper
        #[arg(long, value_name = "DIR", default_value = agent_contract::names::SHARED_DIR)]
        shared: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match AgentCommand::parse().command {
        Command::Run { plan, shared, verdict } => agent::run::main(&agent::run::Places { plan, shared, verdict }),
        Command::Serve { shared } => agent::serve::main(&shared),
    };
    result.unwrap_or_else(|error| {
        eprintln!("gantry-agent: {error:#}");
        ExitCode::FAILURE
    })
}
