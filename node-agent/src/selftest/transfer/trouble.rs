//! What ends a transfer early, and what to do about it.

use policies::selftest::{Failure, FailureKind};
use ucx_sys::Error;

/// `UCS_ERR_NO_MEMORY`.
const NO_MEMORY: i8 = -4;
/// `UCS_ERR_UNREACHABLE`.
const UNREACHABLE: i8 = -6;

/// A failure on its way to the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::selftest) struct Trouble {
    /// Kind.
    pub kind: FailureKind,
    /// What happened.
    pub message: String,
}

impl Trouble {
    /// A failure of this kind.
    pub(in crate::selftest) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What UCX answered, of this kind unless its status says better.
    pub(super) fn ucx(kind: FailureKind, error: &Error) -> Self {
        let kind = match error {
            Error::Call { code: NO_MEMORY, .. } => FailureKind::Memory,
            Error::Call { code: UNREACHABLE, .. } => FailureKind::Unreachable,
            Error::Missing(_) | Error::Load { .. } | Error::Version(_) => FailureKind::NoUcx,
            Error::Call { .. } | Error::Stream(_) | Error::Nul(_) => kind,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self { remedy: remedy(trouble.kind).into(), kind: trouble.kind, message: trouble.message }
    }
}

fn remedy(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NoUcx => "install UCX 1.13 or later, or name the folder of one with --ucx-lib",
        FailureKind::NoTransport => {
            "compare UCX_TLS and UCX_NET_DEVICES with what `railbind-agent probe ucx` lists on this node"
        }
        FailureKind::Unreachable => {
            "check that both nodes are in one fabric domain, and that UCX_TLS, UCX_NET_DEVICES and UCX_IB_GID_INDEX fit each of them"
        }
        FailureKind::Broken => "read the ports' error counters and the kernel's log on both nodes, then repeat",
        FailureKind::Stalled => "look for a hung process or node on the other side, then at the ports' error counters",
        FailureKind::Deadline => {
            "give it more time or less to do; if it never ends, probe UCX and the other node alone"
        }
        FailureKind::Corrupt => {
            "take the node out of service; check PCIe errors, the NIC's firmware, and the settings of IOMMU and ACS"
        }
        FailureKind::Memory => {
            "raise RLIMIT_MEMLOCK (IPC_LOCK for a pod) and the memory limit, or ask for smaller sizes"
        }
        FailureKind::Peer => "read the other side's report",
        FailureKind::Crashed => "run `railbind-agent probe ucx` on this node, and try another UCX",
        FailureKind::Protocol => "run the same version of railbind-agent, and of UCX, on both sides",
    }
}
