//! `cargo xtask chaos`: the suite, and the coordinator that it kills.

use clap::Parser;
use e2e::chaos::arguments::{Arguments, Part};
use e2e::chaos::{host, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // There may be a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ended = match arguments.part {
        Some(Part::Host(of_host)) => host::host(&of_host).map(|()| true),
        None => whole(arguments.plan),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs a plan; whether nothing was wrong.
fn whole(plan: e2e::chaos::arguments::Plan) -> anyhow::Result<bool> {
    let json = plan.json.clone();
    let report = tokio::runtime::Runtime::new()?.block_on(run(plan))?;
    println!("{}", report.text());
    if let Some(file) = json {
        std::fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(report.is_good())
}
