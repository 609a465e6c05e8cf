//! The `gantry` command.

use clap::Parser;
use cli::arguments::{Command, EXIT_CONFIGURATION, GantryCommand};
use cli::{ci, local_node, manager_run, rbac, register, reset_token, unregister, verify};
use std::process::ExitCode;

fn main() -> ExitCode {
    // A container is created in a re-executed copy of this program, which must not have started anything else.
    node::reexec();
    let result = match GantryCommand::parse().command {
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Run(arguments) => manager_run::run(&arguments),
        Command::Node(arguments) => local_node::run(&arguments),
        Command::Rbac(arguments) => rbac::run(&arguments),
        Command::Register(arguments) => register::run(&arguments),
        Command::Unregister(arguments) => unregister::run(&arguments),
        Command::ResetToken(arguments) => reset_token::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("gantry: {error:#}");
        ExitCode::from(EXIT_CONFIGURATION)
    })
}
