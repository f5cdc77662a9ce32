//! `railbind-webhook`: allocator, TLS provider, arguments, run.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use webhook::{args::Args, run::run};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    match daemon::install_crypto().and_then(|()| run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report_fatal(&error),
    }
}
