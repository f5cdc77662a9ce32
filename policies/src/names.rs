//! Every name on the wire, spelled once: labels, annotations, environment, resources, metrics, problem codes.

/// Prefix of our labels, annotations and API group.
pub const DOMAIN: &str = "railbind.dev";

/// Field manager of the agent's server-side apply.
pub const AGENT_MANAGER: &str = "railbind-agent";
/// Field manager of what the webhook writes: its own configuration and certificate.
pub const WEBHOOK_MANAGER: &str = "railbind-webhook";

/// Labels that the agent writes on its Node.
pub mod label {
    /// `infiniband`, `roce`, `efa` or `tcp`: the best compute fabric with an ACTIVE port.
    pub const FABRIC: &str = "railbind.dev/fabric";
    /// `dmabuf`, `peermem` or `none`; absent without a GPU.
    pub const GPUDIRECT: &str = "railbind.dev/gpudirect";
    /// The transport profile that the node qualifies for.
    pub const PROFILE: &str = "railbind.dev/profile";
    /// RoCE only: the index UCX itself would pick, where it is the same on every compute port.
    pub const GID_INDEX: &str = "railbind.dev/gid-index";
    /// RoCE only: `v2-ipv4`, `v2-ipv6`, `v2-linklocal`, `v1` or `none`.
    pub const GID_KIND: &str = "railbind.dev/gid-kind";
    /// `true` where the only RDMA devices are software ones.
    pub const SOFT: &str = "railbind.dev/soft";
    /// Number of ACTIVE compute ports.
    pub const RDMA_PORTS: &str = "railbind.dev/rdma-ports";
    /// Rate of the slowest compute port in Gb/s.
    pub const RATE_GBPS: &str = "railbind.dev/rate-gbps";
    /// What must be equal for two nodes to reach each other.
    pub const FABRIC_DOMAIN: &str = "railbind.dev/fabric-domain";
    /// EFA only: kernel `major.minor`.
    pub const KERNEL: &str = "railbind.dev/kernel";
    /// `unlimited` or `limited`.
    pub const MEMLOCK: &str = "railbind.dev/memlock";
    /// `passed`, `slow`, `failed` or `untested`.
    pub const SELFTEST: &str = "railbind.dev/selftest";

    /// All of them, in the order in which people read them.
    pub const ALL: [&str; 12] = [
        FABRIC,
        PROFILE,
        GPUDIRECT,
        RDMA_PORTS,
        RATE_GBPS,
        GID_INDEX,
        GID_KIND,
        FABRIC_DOMAIN,
        KERNEL,
        MEMLOCK,
        SELFTEST,
        SOFT,
    ];

    /// On a namespace or pod: `enabled` or `disabled`.
    pub const INJECT: &str = "railbind.dev/inject";
    /// On a pod, by the user: the deployment that it is part of, where its stack's own labels do not say.
    pub const GROUP: &str = "railbind.dev/group";
}

/// Annotations.
pub mod annotation {
    /// On a pod, by the user: further containers to inject, comma-separated.
    pub const CONTAINERS: &str = "railbind.dev/containers";
    /// On a pod, by the user: `required` (default), `preferred` or `none`.
    pub const PLACEMENT: &str = "railbind.dev/placement";
    /// On a pod or namespace, by the user: the profile set (`guide`, `nixl`).
    pub const PROFILE_SET: &str = "railbind.dev/profile-set";
    /// On a pod or namespace, by the user: `warn` (default), `override` or `deny` settings that break a worker.
    pub const CONFLICTS: &str = "railbind.dev/conflicts";
    /// On a pod or namespace, by the user: `warn` (default) or `deny` workers that would go over TCP.
    pub const NO_RDMA: &str = "railbind.dev/no-rdma";
    /// On a Node, by the agent: `UCX_NET_DEVICES` for it.
    pub const NET_DEVICES: &str = "railbind.dev/net-devices";
    /// On a Node, by the agent: `UCX_IB_ROCE_SUBNETS` for it.
    pub const ROCE_SUBNETS: &str = "railbind.dev/roce-subnets";
    /// On a pod, by the user: UCX version of its image (`1.15`), for variables that later versions removed.
    pub const UCX_VERSION: &str = "railbind.dev/ucx-version";
    /// On a Node, by a person or `kubectl railbind selftest`: any new value (a time, say) asks its agent for a self-test now.
    pub const SELFTEST_REQUESTED: &str = "railbind.dev/selftest-requested";
    /// On a Node, by the agent: the profile set that was the fastest in the self-test; what `profile-set: auto` takes.
    pub const FASTEST_SET: &str = "railbind.dev/fastest-set";
    /// On a pod, by the webhook: what was decided and why, compact JSON; `id` is in the webhook's log, the audit log and the Event too.
    pub const DECISION: &str = "railbind.dev/decision";
    /// Prefix of the annotations that carry late-bound variables: `env.railbind.dev/NAME`.
    pub const ENV_PREFIX: &str = "env.railbind.dev/";
    /// On a Node, by the agent: one line for each NIC.
    pub const NICS: &str = "railbind.dev/nics";
    /// On a mirror pod, by the kubelet: the pod cannot be changed.
    pub const MIRROR: &str = "kubernetes.io/config.mirror";
}

/// Reasons of the self-test's Events on the Node.
pub mod event {
    /// The verdict became `failed`, or `slow`.
    pub const SELFTEST_FAILED: &str = "SelfTestFailed";
    /// The verdict became `passed`.
    pub const SELFTEST_PASSED: &str = "SelfTestPassed";
}

/// Stable codes of what a self-test found: of one transfer, and of a node.
pub mod selftest {
    /// As fast as it should be, over the path it should take.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// Bytes differ.
    pub const CORRUPT: &str = "Corrupt";
    /// TCP or shared memory carried the data where the fabric is RDMA.
    pub const FALLBACK: &str = "FabricFallback";
    /// Another transport carried the data than the profile promises.
    pub const WRONG_TRANSPORT: &str = "WrongTransport";
    /// Nothing says which transport carried the data.
    pub const PATH_UNKNOWN: &str = "PathUnknown";
    /// The ports' counters did not move by what was transferred.
    pub const PATH_CONTRADICTED: &str = "PathContradicted";
    /// The bytes were not checked.
    pub const UNCHECKED: &str = "IntegrityUnchecked";
    /// Nothing was measured.
    pub const NOTHING_MEASURED: &str = "NothingMeasured";
    /// Under 1 GB/s.
    pub const RED_FLAG: &str = "BandwidthRedFlag";
    /// Under what the link or the profile should give.
    pub const LOW_BANDWIDTH: &str = "LowBandwidth";
    /// Latency five times the guide's or more.
    pub const HIGH_LATENCY: &str = "HighLatency";
    /// GPU memory went through the host's memory where GPUDirect was promised.
    pub const HOST_STAGED: &str = "HostStaged";
    /// The transfer broke off; the failure's kind says how.
    pub const TRANSFER_FAILED: &str = "TransferFailed";
    /// It cannot be done on this node, whoever the partner is.
    pub const OWN_SIDE: &str = "OwnSide";
    /// No transfer was made.
    pub const UNTESTED: &str = "Untested";
    /// Failures so far, and not yet enough partners to say whose.
    pub const UNDECIDED: &str = "Undecided";
    /// Failed with one partner only, and good with others.
    pub const SUSPECT_PAIR: &str = "SuspectPair";
    /// Good with some partners and not with others.
    pub const PARTNERS_DISAGREE: &str = "PartnersDisagree";
    /// Fails on one of its ports only.
    pub const ONE_RAIL: &str = "OneRail";
}

/// Condition type on the Node.
pub const CONDITION: &str = "railbind.dev/FabricReady";

/// Stable codes of [`crate::fabric::Problem`].
pub mod problem {
    /// A file or directory exists and could not be read.
    pub const UNREADABLE: &str = "Unreadable";
    /// A file was read and its content makes no sense.
    pub const GARBLED: &str = "Garbled";
    /// A compute port is not ACTIVE.
    pub const PORT_DOWN: &str = "PortDown";
    /// A RoCE port has no GID that another subnet can reach.
    pub const NO_ROUTABLE_GID: &str = "NoRoutableGid";
    /// The GID index differs between compute ports.
    pub const GID_INDEX_DIFFERS: &str = "GidIndexDiffers";
    /// A link layer this version does not know.
    pub const UNKNOWN_LINK_LAYER: &str = "UnknownLinkLayer";
    /// An InfiniBand port without a subnet manager.
    pub const NO_SUBNET_MANAGER: &str = "NoSubnetManager";
    /// GPUs and RDMA are there and neither DMA-BUF nor peermem joins them.
    pub const NO_GPUDIRECT: &str = "NoGpuDirect";
    /// A compute device without its `/dev/infiniband/uverbsN`.
    pub const NO_UVERBS: &str = "NoUverbs";
    /// The locked-memory limit that containers get is finite.
    pub const MEMLOCK_LIMITED: &str = "MemlockLimited";
    /// No profile matches the node.
    pub const NO_PROFILE: &str = "NoProfile";
    /// A NIC or GPU trained with fewer PCIe lanes than it has.
    pub const PCIE_NARROW: &str = "PcieNarrow";
    /// Only software RDMA devices.
    pub const SOFT_RDMA: &str = "SoftRdma";
}

/// Kubernetes names that are not ours.
pub mod k8s {
    /// AWS's device plugin.
    pub const EFA_RESOURCE: &str = "vpc.amazonaws.com/efa";
    /// The capability that RDMA memory registration needs where RLIMIT_MEMLOCK is finite.
    pub const IPC_LOCK: &str = "IPC_LOCK";
    /// What the names of extended resources start with in a ResourceQuota.
    pub const QUOTA_REQUESTS: &str = "requests.";
    /// A node's own name as a label.
    pub const HOSTNAME: &str = "kubernetes.io/hostname";
    /// Zone of a node.
    pub const ZONE: &str = "topology.kubernetes.io/zone";
}
