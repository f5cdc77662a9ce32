//! `railbind-agent`: install the TLS provider, parse, run.

use std::process::ExitCode;

use clap::Parser;
use node_agent::args::Args;

fn main() -> ExitCode {
    match daemon::install_crypto().and_then(|()| Args::parse().execute()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report_fatal(&error),
    }
}
