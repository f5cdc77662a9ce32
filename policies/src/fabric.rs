//! What a node's fabric is: the facts that readers of the kernel report, as plain values.
//!
//! Every fact that can fail to be read is a [`Fact`]: a value, or *unknown with the reason*. "Unreadable" is not "absent":
//! decisions that remove something (a label, say) may only follow a value, never an unknown.

mod rdma;

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

pub use rdma::{Efa, Function, Gid, GidType, LinkLayer, Netdev, NodeType, PcieLink, Port, PortState, RdmaDevice};

/// A value read from the machine, or why it could not be read.
///
/// On the wire: `{"known": VALUE}` or `{"unknown": "why"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fact<T> {
    /// The value, as read.
    Known(T),
    /// Not known, and why.
    Unknown(String),
}

impl<T> Fact<T> {
    /// The value, if known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> Default for Fact<T> {
    fn default() -> Self {
        Self::Unknown("not read".into())
    }
}

impl Fact<bool> {
    /// True only where the machine positively said yes.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Known(true))
    }
}

/// All facts about one node. Status of its `NodeFabric`, and the input of every decision about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Kernel release as `uname -r` prints it, from `/proc/sys/kernel/osrelease`.
    pub kernel: Fact<String>,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os: Fact<String>,
    /// RDMA devices of `/sys/class/infiniband`. Empty when the directory is absent; unknown when it is unreadable.
    pub devices: Fact<Vec<RdmaDevice>>,
    /// GPUs by PCI class and vendor.
    pub gpus: Fact<Vec<Gpu>>,
    /// What GPUDirect RDMA rests on.
    pub gpu_direct: GpuDirect,
    /// Locked-memory limit that containers inherit from the container runtime.
    pub memlock: Fact<Memlock>,
    /// RDMA network-namespace mode of `ib_core` (`netns_mode`): shared or exclusive.
    pub netns_mode: Fact<NetnsMode>,
    /// NUMA nodes that are online.
    pub numa_nodes: Fact<Vec<u32>>,
    /// IP subnets of the host's interfaces, from `/proc/net/route` and `/proc/net/if_inet6`.
    pub subnets: Vec<Subnet>,
    /// Network interfaces that carry a default route.
    pub default_route_netdevs: Vec<String>,
    /// GPU-NIC distances, one entry for each pair; empty where either is absent or the topology is unknown.
    pub distances: Vec<Distance>,
    /// Whether the PCI tree says something about distance; virtual machines often flatten it.
    pub topology: Topology,
    /// Which boot these facts are of, from `/proc/sys/kernel/random/boot_id`.
    #[serde(default)]
    pub boot_id: Fact<String>,
    /// The words of `/proc/cmdline` that concern the IOMMU or ACS (`iommu=pt`, `pci=…`); the rest is nobody's business.
    #[serde(default)]
    pub iommu_parameters: Fact<Vec<String>>,
    /// PCI bridges above GPUs whose Access Control Services send peer-to-peer traffic up to the root complex, so that a GPU and
    /// a NIC under one switch do not talk directly. From the bridges' configuration space, of which a reader without
    /// `CAP_SYS_ADMIN` gets the first 64 bytes only: unknown then. A note, never a failure: hypervisors hide the capability.
    #[serde(default)]
    pub acs_redirects: Fact<Vec<String>>,
    /// Numbers of the IMEX channels in `/dev/nvidia-caps-imex-channels`, without which GPUs of other nodes cannot be reached
    /// over NVLink (MNNVL). Empty where the driver made none.
    #[serde(default)]
    pub imex_channels: Fact<Vec<u32>>,
}

/// A GPU, by PCI class and vendor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// PCI address.
    pub pci: String,
    /// PCI bridges above it, root first.
    pub pci_path: Vec<String>,
    /// Who made it.
    pub vendor: GpuVendor,
    /// PCI device id.
    pub device: Option<u16>,
    /// NUMA node; `None` where the kernel says -1 or nothing.
    pub numa: Option<u32>,
    /// Bound driver (`nvidia`, `amdgpu`, `vfio-pci`…).
    pub driver: Option<String>,
    /// The PCIe link.
    #[serde(default)]
    pub pcie: Option<PcieLink>,
    /// Type of the IOMMU group's domain, as with [`RdmaDevice::iommu`].
    #[serde(default)]
    pub iommu: Fact<Option<String>>,
}

/// Vendor of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuVendor {
    /// PCI vendor 0x10de.
    #[default]
    Nvidia,
    /// PCI vendor 0x1002.
    Amd,
    /// PCI vendor 0x8086.
    Intel,
    /// PCI vendor 0x1da3 (Habana Gaudi).
    Habana,
}

/// What GPUDirect RDMA rests on, each part as the kernel shows it. UCX looks at exactly the peermem files named here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuDirect {
    /// `/sys/module/nvidia_peermem` is there.
    pub nvidia_peermem: Fact<bool>,
    /// `/sys/module/nv_peer_mem` (its out-of-tree predecessor) is there.
    pub nv_peer_mem: Fact<bool>,
    /// `/sys/module/efa_nv_peermem` is there.
    pub efa_nv_peermem: Fact<bool>,
    /// `/sys/kernel/mm/memory_peers/nv_mem` or `/sys/kernel/mm/memory_peers/amdkfd` is there: the peer API has a registered client.
    pub memory_peers: Fact<bool>,
    /// `/dev/gdrdrv` is there (GDRCopy).
    pub gdrdrv: Fact<bool>,
    /// CUDA really exported memory of every GPU as a DMA-BUF: what the CUDA probe found, which beats what the driver's flavour
    /// promises. Unknown where nobody probed.
    #[serde(default)]
    pub exported: Fact<bool>,
    /// NVIDIA driver version (`/proc/driver/nvidia/version`); known-empty where no driver is loaded.
    pub nvidia_driver: Fact<Option<NvidiaDriver>>,
}

/// The loaded NVIDIA kernel driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NvidiaDriver {
    /// Version, such as `570.86.15`.
    pub version: String,
    /// True for the open kernel modules, which DMA-BUF export of CUDA memory needs.
    pub open: bool,
}

/// Locked-memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memlock {
    /// No limit.
    Unlimited,
    /// Soft limit in bytes.
    Limited(u64),
}

/// RDMA network-namespace mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetnsMode {
    /// Every namespace sees every device (the kernel's default).
    Shared,
    /// A device is in one namespace.
    Exclusive,
}

/// An IP subnet that an interface is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// Interface.
    pub netdev: String,
    /// Network address; an IPv4 one is IPv4-mapped.
    pub network: Ipv6Addr,
    /// Prefix length in bits of the family the address is in (0-32 for IPv4, 0-128 for IPv6).
    pub prefix_len: u8,
}

/// How far a GPU is from an RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distance {
    /// PCI address of the GPU.
    pub gpu: String,
    /// Name of the RDMA device.
    pub device: String,
    /// The distance.
    pub level: DistanceLevel,
}

/// Distance between two PCI devices, in the words of `nvidia-smi topo -m`, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DistanceLevel {
    /// At most one PCIe bridge between them.
    Pix,
    /// Several PCIe bridges, no host bridge.
    Pxb,
    /// Through a PCIe host bridge.
    Phb,
    /// Between host bridges of one NUMA node.
    Node,
    /// Between NUMA nodes.
    Sys,
}

impl DistanceLevel {
    /// As `nvidia-smi topo -m` writes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pix => "PIX",
            Self::Pxb => "PXB",
            Self::Phb => "PHB",
            Self::Node => "NODE",
            Self::Sys => "SYS",
        }
    }
}

/// Whether the PCI tree can be trusted for distances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// The tree has bridges: distances mean something.
    Ok,
    /// Everything hangs on one bus, as hypervisors show it: distances mean nothing.
    Flat,
    /// Nothing to compare.
    #[default]
    Unknown,
}

/// Something wrong with the node, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Stable CamelCase code (`PortDown`, `Unreadable`…), from [`crate::names::problem`].
    pub code: String,
    /// What it is about: a file, a device, a port.
    pub subject: String,
    /// One sentence: what was seen.
    pub message: String,
    /// One sentence: what to do next.
    pub remedy: String,
}

impl Problem {
    /// A problem with its four parts.
    pub fn new(code: &str, subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: code.into(), subject: subject.into(), message: message.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_an_older_agent_are_read() {
        let older = r#"{
            "kernel": {"known": "6.8.0"}, "os": {"unknown": "absent"}, "gpuDirect": {"nvidiaPeermem": {"known": false},
            "nvPeerMem": {"known": false}, "efaNvPeermem": {"known": false}, "memoryPeers": {"known": false},
            "gdrdrv": {"known": false}, "nvidiaDriver": {"known": null}}, "memlock": {"known": "unlimited"},
            "netnsMode": {"known": "shared"}, "numaNodes": {"known": [0]}, "subnets": [], "defaultRouteNetdevs": [],
            "distances": [], "topology": "ok",
            "gpus": {"known": [{"pci": "0000:1b:00.0", "pciPath": [], "vendor": "nvidia", "device": 9008, "numa": 0, "driver": null}]},
            "devices": {"known": [{"name": "mlx5_0", "driver": null, "driverVersion": null, "pci": null, "pciPath": [],
              "vendor": null, "device": null, "numa": null, "nodeType": "ca", "firmware": null, "hcaType": null, "boardId": null,
              "function": "physical", "software": false, "management": {"known": false}, "netdevs": [], "uverbs": null,
              "ports": [{"number": 1, "state": "active", "physState": null, "linkLayer": "ethernet", "rateGbps": 400.0,
                "rate": null, "lid": null, "smLid": null, "gids": [], "pkeys": []}]}]}
        }"#;
        let facts: Facts = serde_json::from_str(older).expect("what an older agent wrote");
        let device = &facts.devices.known().expect("devices")[0];
        assert_eq!((device.pcie, device.ports[0].traffic_class), (None, None));
        assert_eq!(facts.boot_id, Fact::Unknown("not read".into()));
        let again: Facts = serde_json::from_str(&serde_json::to_string(&facts).expect("JSON")).expect("facts");
        assert_eq!(again, facts);
    }
}
