//! `railbind-webhook`: TLS provider, arguments, run.

use std::process::ExitCode;

use clap::Parser as _;
use webhook::{args::Args, run::run};

fn main() -> ExitCode {
    let args = Args::parse();
    match daemon::install_crypto().and_then(|()| run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report_fatal(&error),
    }
}
