//! Pods on this machine, for real: every case makes containers over this machine's own programs.
//!
//! Needs root and new namespaces; where they are missing, the cases are skipped and say so. A main of its own, because
//! containers are made in copies of this program.

mod bench;
mod cases;
mod machine_state;
mod more_cases;

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::reexec();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == bench::ABANDON) {
        return bench::abandon(&arguments[1]);
    }
    if arguments.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    bench::run(arguments.iter().find(|word| !word.starts_with('-')).map(String::as_str))
}
