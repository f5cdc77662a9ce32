//! `kubectl-railbind`: TLS provider, arguments, run.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run::main()
}
