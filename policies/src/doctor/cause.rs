//! The causes that the doctor knows, in the order in which one makes the next likely.

use serde::Serialize;

/// A cause. The order is the order of suspicion: what explains the others comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Cause {
    /// A setting that crashes workers on this fabric (EFA with kernel 6.8: zero copy).
    FatalSetting,
    /// A compute port is not ACTIVE.
    PortDown,
    /// An InfiniBand port without a subnet manager.
    NoSubnetManager,
    /// A RoCE port without a GID that another subnet can reach.
    NoRoutableGid,
    /// A compute device without its device file.
    NoUverbs,
    /// The RDMA device plugin offers nothing on a node with RDMA.
    NoDevicePlugin,
    /// The GPU device plugin offers nothing on a node with GPUs.
    NoGpuPlugin,
    /// Workers of one deployment are on fabrics that do not reach each other.
    DomainsDiffer,
    /// Workers of one deployment are in different NVLink domains, and are told to use NVLink.
    CliquesDiffer,
    /// Prefill and decode on one EFA node.
    EfaSameNode,
    /// A GID index that is not the node's.
    GidIndexWrong,
    /// `UCX_NET_DEVICES` names no port of the node.
    NetDevicesWrong,
    /// `UCX_TLS` leaves no RDMA transport of the node's fabric.
    TlsExcludesRdma,
    /// `UCX_TLS` leaves no transport for GPU memory.
    TlsExcludesGpu,
    /// A worker on a node without RDMA.
    TcpOnly,
    /// The container asks for no RDMA resource, so it sees no NIC.
    ResourceNotRequested,
    /// The container lacks `IPC_LOCK`, and the node limits locked memory.
    IpcLockMissing,
    /// Locked memory is limited, and `IPC_LOCK` does not help (not root).
    MemlockLimited,
    /// GPU memory cannot be registered with the NIC.
    NoGpuDirect,
    /// GPUDirect is there and switched off by a variable.
    GpuDirectSwitchedOff,
    /// A variable that UCX, NCCL or libfabric does not know, or reads no more.
    UnknownVariable,
    /// The interfaces' MTU differs.
    MtuDiffers,
    /// A variable refers to an annotation that is not there, or empty.
    LateValueMissing,
    /// The pod waits for a node.
    Unschedulable,
    /// A self-test failed on the node.
    SelftestFailed,
    /// The self-test between the nodes of a deployment is under 1 GB/s, or failed.
    PairSlow,
    /// The node was another one when the pod was made.
    ProfileStale,
    /// The GID index differs between the node's ports.
    GidIndexDiffers,
    /// Only software RDMA.
    SoftRdma,
    /// Fewer PCIe lanes than the device has.
    PcieNarrow,
    /// UCX versions differ between the pods of a deployment.
    UcxVersionsDiffer,
    /// Railbind gave the worker nothing.
    NotInjected,
    /// No agent reports for the node.
    AgentSilent,
    /// The node is not Ready.
    NodeNotReady,
    /// `/dev/shm` is the container runtime's 64 MiB.
    SharedMemoryMissing,
    /// A log says that transfers go over TCP.
    LogsTcp,
    /// A log says that UCX could not do an operation.
    LogsUnsupported,
    /// A log says that GPU memory is not known to UCX.
    LogsNoGpuMemory,
    /// A log says that memory could not be registered.
    LogsRegistration,
    /// A log says that a transfer failed.
    LogsTransfer,
    /// A log says that a device or transport is not there.
    LogsDevice,
    /// A log says that UCX does not know a variable.
    LogsUnusedVariable,
    /// The container does not stay up.
    Restarts,
    /// Slower than it should be.
    SelftestSlow,
    /// EFA without GPUDirect.
    EfaHostStaged,
    /// Why these workers do not use NVLink, or could.
    NvLink,
    /// Another problem that the agent reports.
    NodeProblem,
}

impl Cause {
    /// Its code, as JSON has it.
    pub fn code(self) -> String {
        format!("{self:?}")
    }

    /// The section of the guide that speaks of it.
    pub const fn section(self) -> &'static str {
        match self {
            Self::FatalSetting | Self::EfaSameNode => "AWS EFA Configuration",
            Self::PortDown | Self::NoSubnetManager | Self::NoUverbs => {
                "Pre-Deployment Validation: Verify RDMA Availability"
            }
            Self::NoRoutableGid | Self::GidIndexWrong | Self::GidIndexDiffers => {
                "Complete Production Configuration: UCX_IB_GID_INDEX"
            }
            Self::NoDevicePlugin => "Infrastructure Prerequisites: RDMA Device Plugin",
            Self::NoGpuPlugin | Self::Unschedulable | Self::NodeNotReady => "Kubernetes Resource Requirements",
            Self::DomainsDiffer | Self::SelftestFailed | Self::SelftestSlow => "Cross-Node Communication",
            Self::PairSlow => "Monitor Transfer Performance: red flags",
            Self::CliquesDiffer | Self::NvLink => "Why NVLink Cannot Be Used Between Pods",
            Self::NetDevicesWrong | Self::TlsExcludesRdma | Self::TlsExcludesGpu | Self::LateValueMissing => {
                "Core Transport Selection"
            }
            Self::TcpOnly | Self::LogsTcp => "Troubleshooting: TTFT is 10+ seconds",
            Self::ResourceNotRequested | Self::IpcLockMissing | Self::MemlockLimited | Self::SharedMemoryMissing => {
                "Required Capabilities and Resources"
            }
            Self::NoGpuDirect | Self::GpuDirectSwitchedOff => "Infrastructure Prerequisites: GPUDirect RDMA",
            Self::LogsUnsupported | Self::LogsNoGpuMemory => "Troubleshooting: \"Unsupported operation\" errors",
            Self::EfaHostStaged => "Troubleshooting: AWS EFA not using GPU Direct",
            Self::LogsTransfer | Self::UcxVersionsDiffer | Self::MtuDiffers | Self::Restarts => {
                "Troubleshooting: Intermittent transfer failures"
            }
            Self::LogsRegistration => "Required Capabilities and Resources: IPC_LOCK",
            Self::LogsDevice | Self::LogsUnusedVariable | Self::UnknownVariable => "UCX Configuration Reference",
            Self::ProfileStale | Self::NotInjected | Self::AgentSilent => "Minimum Viable RDMA Configuration",
            Self::SoftRdma | Self::PcieNarrow | Self::NodeProblem => "Transport Comparison",
        }
    }
}
