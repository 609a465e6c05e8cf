//! The `gantry` command.

mod agent_binary;
mod arguments;
mod ci;
mod local_node;
mod manager_run;

use arguments::{Command, GantryCommand};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A container is created in a re-executed copy of this program, which must not have started anything else.
    sandbox::reexec();
    let arguments = GantryCommand::parse();
    let result = match arguments.command {
        Command::Ci(ci) => ci::run(ci),
        Command::Node(node) => local_node::run(node),
        Command::Run(run) => manager_run::run(run),
    };
    result.unwrap_or_else(|error| {
        eprintln!("gantry: {error:#}");
        ExitCode::from(arguments::EXIT_CONFIGURATION)
    })
}
