//! How a command ends: each way has a code of its own, for scripts.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done, and nothing to act on.
    Healthy = 0,
    /// Something to act on was found.
    Findings = 1,
    /// The command line, or a file that it names, makes no sense.
    Usage = 2,
    /// No cluster answers.
    NoCluster = 3,
    /// The cluster refuses what is needed.
    NoPermission = 4,
    /// Railbind is not installed there.
    NoRailbind = 5,
    /// Another version of Railbind is there, which says less, or other things.
    OtherVersion = 6,
    /// Nothing was found, and part of the cluster could not be looked at.
    Partial = 7,
    /// Something else went wrong.
    Failed = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// For `--help`.
pub const HELP: &str = "\
Exit codes:
  0  done, nothing to act on
  1  findings: something to act on
  2  the command line, or a file that it names, makes no sense
  3  no cluster answers
  4  the cluster refuses what is needed (RBAC)
  5  Railbind is not installed there
  6  another version of Railbind is there; what could be read is shown
  7  partial: nothing was found, and part of the cluster could not be looked at
  8  something else went wrong

Rights: get and list of nodes, pods, pods/log, namespaces, deployments, statefulsets, replicasets, nodefabrics and
transportprofiles; selftest also patches nodes. With fewer, less is shown, and what is missing is said. Nothing else is written.

Findings (1) win over 4 to 7: the output says what could not be looked at.
Colours only on terminals; NO_COLOR switches them off.";

/// An error that ends the command, with its code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Ended {
    /// Code.
    pub exit: Exit,
    /// What, where, and what to do next.
    pub text: String,
}

impl Ended {
    /// With a code and a text.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Of a command line or a file.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }
}

/// The result of a command.
pub type Result<T, E = Ended> = std::result::Result<T, E>;
