//! Within the child: the confinement, and the report.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::{
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    stdio,
};
use serde::Serialize;

use super::Line;

/// Where the child's report goes.
pub(super) struct Report(File);

impl Report {
    /// Sends the facts so far, and what is done next, so that its name is known if that is the last thing the child does.
    pub(super) fn before<T: Serialize>(&mut self, next: &str, facts: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { next: next.into(), facts })?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Sends the final facts.
    pub(super) fn done<T: Serialize>(&mut self, facts: &T) -> io::Result<()> {
        self.before("", facts)
    }
}

/// Runs a probe and leaves. Never returns: the destructors of loaded libraries are where processes crash after their work.
pub(super) fn run(probe: impl FnOnce(&mut Report) -> io::Result<()>) -> ! {
    let result = confine().and_then(|report| probe(&mut Report(report.into())));
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "the probe's report could not be sent: {error}");
            1
        }
    };
    ucx_sys::leave(code)
}

/// Ties this process to its parent's life, takes the core file from its crash, and gives what was its standard output.
pub(crate) fn confine() -> io::Result<OwnedFd> {
    // The agent's end is the child's, and its crash leaves no core file on the node.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The report keeps the pipe to itself; what libraries print to standard output goes where their errors go.
    let report = rustix::io::fcntl_dupfd_cloexec(stdio::stdout(), 3)?;
    stdio::dup2_stdout(stdio::stderr())?;
    Ok(report)
}
