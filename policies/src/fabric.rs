//! What a node's fabric is: the facts that readers of the kernel report, as plain values.
//!
//! Every fact that can fail to be read is a [`Fact`]: a value, or *unknown with the reason*. "Unreadable" is not "absent":
//! decisions that remove something (a label, say) may only follow a value, never an unknown.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

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

/// One RDMA device (`/sys/class/infiniband/NAME`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdmaDevice {
    /// Kernel name. Arbitrary: it proves nothing about the fabric.
    pub name: String,
    /// Base name of the PCI device's `driver` link (`mlx5_core`, `efa`, `bnxt_en`, `ice`…).
    pub driver: Option<String>,
    /// Version of that driver's module, where the module states one.
    pub driver_version: Option<String>,
    /// PCI address `DDDD:BB:DD.F`; the domain may have five digits.
    pub pci: Option<String>,
    /// PCI bridges above the device, root first (`pci0000:80`, `0000:80:01.1`, …), for distances.
    pub pci_path: Vec<String>,
    /// PCI vendor id (0x15b3 NVIDIA/Mellanox, 0x1d0f Amazon…).
    pub vendor: Option<u16>,
    /// PCI device id.
    pub device: Option<u16>,
    /// NUMA node; `None` where the kernel says -1 or nothing.
    pub numa: Option<u32>,
    /// `node_type`, which tells iWARP and usNIC from InfiniBand verbs.
    pub node_type: NodeType,
    /// Firmware version.
    pub firmware: Option<String>,
    /// `hca_type`, such as `MT4129`.
    pub hca_type: Option<String>,
    /// `board_id` (PSID).
    pub board_id: Option<String>,
    /// Physical or virtual function.
    pub function: Function,
    /// Software device (rxe, siw): no hardware under it.
    pub software: bool,
    /// A switch-management function (`SMDL=SW_MNG` in its VPD): never compute fabric, and its counters are never read.
    pub management: Fact<bool>,
    /// Network interfaces of the same PCI function.
    pub netdevs: Vec<Netdev>,
    /// `/dev/infiniband/uverbsN` of this device, as a name; `None` where there is none.
    pub uverbs: Option<String>,
    /// Ports, in order of number.
    pub ports: Vec<Port>,
    /// The PCIe link; `None` for virtual functions, which have none of their own, and where the kernel says nothing.
    #[serde(default)]
    pub pcie: Option<PcieLink>,
    /// Type of the IOMMU group's domain (`identity`, `DMA`, `DMA-FQ`…: `iommu_group/type`, kernel 5.11 and later);
    /// known-empty where the device is in no group: no IOMMU, or it is off.
    #[serde(default)]
    pub iommu: Fact<Option<String>>,
    /// Virtual functions in use (`sriov_numvfs`); `None` where the device cannot have any.
    #[serde(default)]
    pub virtual_functions: Option<u32>,
    /// What is special about an EFA device; `None` for all others.
    #[serde(default)]
    pub efa: Option<Efa>,
}

/// A PCIe link, as trained and as the device could.
///
/// Width less than the device's own is a slot or a lane that does not keep up, at any time. A lower speed is one too on a NIC;
/// GPUs lower theirs while they have nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PcieLink {
    /// Speed now, in GT/s for each lane (`current_link_speed`).
    pub speed_gts: Option<f64>,
    /// The device's highest speed (`max_link_speed`).
    pub max_speed_gts: Option<f64>,
    /// Lanes now (`current_link_width`).
    pub width: Option<u32>,
    /// The device's lanes (`max_link_width`).
    pub max_width: Option<u32>,
}

impl PcieLink {
    /// Fewer lanes than the device has.
    pub fn is_narrow(&self) -> bool {
        matches!((self.width, self.max_width), (Some(now), Some(most)) if now < most)
    }

    /// A lower speed than the device has.
    pub fn is_slow(&self) -> bool {
        matches!((self.speed_gts, self.max_speed_gts), (Some(now), Some(most)) if now < most)
    }
}

/// What is special about an EFA device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Efa {
    /// By PCI device id: `efa0` (0xefa0) to `efa3` and on, in the words of the kernel's driver; `None` where the id is not readable.
    pub generation: Option<String>,
    /// Whether the hardware does RDMA read. Only `efadv_query_device` tells: see [`Self::counts_reads`].
    pub rdma_read: Fact<bool>,
    /// Whether the hardware does RDMA write. Only `efadv_query_device` tells.
    pub rdma_write: Fact<bool>,
    /// Whether the driver has a counter for RDMA reads (`hw_counters/rdma_read_bytes`; its name is looked for, its value is
    /// not read): what the driver knows of, not what the hardware does.
    pub counts_reads: Fact<bool>,
    /// The same for RDMA writes (`rdma_write_bytes`).
    pub counts_writes: Fact<bool>,
}

/// What the kernel's `node_type` says (`enum rdma_node_type`, include/rdma/ib_verbs.h).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeType {
    /// 1: channel adapter: InfiniBand or RoCE.
    Ca,
    /// 2: switch.
    Switch,
    /// 3: router.
    Router,
    /// 4: RNIC: iWARP.
    Rnic,
    /// 5: usNIC.
    UsNic,
    /// 6: usNIC over UDP.
    UsNicUdp,
    /// 7: unspecified (EFA).
    Unspecified,
    /// Something this version does not know, kept as read.
    Other(String),
    /// Not readable.
    #[default]
    Unknown,
}

/// PCI function kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// Physical function.
    Physical,
    /// Virtual function: the device has a `physfn` link.
    Virtual,
    /// No PCI device, or not readable.
    #[default]
    Unknown,
}

/// A network interface that belongs to an RDMA device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netdev {
    /// Interface name.
    pub name: String,
    /// Interface that this one is enslaved to: a bond, or the synthetic NIC of a Hyper-V guest.
    pub master: Option<String>,
    /// Driver of that master's device (`hv_netvsc` marks Azure's accelerated networking), where it has one.
    pub master_driver: Option<String>,
    /// `operstate` (`up`, `down`…).
    pub operstate: Option<String>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
}

/// One port of an RDMA device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Port number, from 1.
    pub number: u32,
    /// Logical state.
    pub state: PortState,
    /// Physical state as the kernel words it (`LinkUp`, `Polling`…).
    pub phys_state: Option<String>,
    /// Link layer.
    pub link_layer: LinkLayer,
    /// Rate in Gb/s; `None` where unreadable or not understood.
    pub rate_gbps: Option<f64>,
    /// Rate as read (`400 Gb/sec (4X NDR)`).
    pub rate: Option<String>,
    /// Local identifier (InfiniBand).
    pub lid: Option<u16>,
    /// Subnet manager's LID (InfiniBand); 0 means that no subnet manager answered.
    pub sm_lid: Option<u16>,
    /// GID table without its empty entries.
    pub gids: Vec<Gid>,
    /// P_Key table without its empty entries.
    pub pkeys: Vec<u16>,
    /// Traffic class that the driver forces on all RoCE traffic of the port (`tc/PORT/traffic_class`, MLNX_OFED and DOCA only);
    /// `None` where nothing forces one.
    #[serde(default)]
    pub traffic_class: Option<u8>,
}

/// Logical port state (`ports/N/state`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// 0
    Nop,
    /// 1
    Down,
    /// 2
    Init,
    /// 3
    Armed,
    /// 4: the only state in which a port carries data.
    Active,
    /// 5
    ActiveDefer,
    /// Something this version does not know, kept as read.
    Other(String),
    /// Not readable.
    #[default]
    Unknown,
}

/// Link layer (`ports/N/link_layer`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE, or iWARP by the device's node type.
    Ethernet,
    /// What EFA says.
    Unspecified,
    /// Something this version does not know, kept as read.
    Other(String),
    /// Not readable.
    #[default]
    Unknown,
}

/// One non-empty entry of a GID table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gid {
    /// Index in the port's table: indexes move, holes occur.
    pub index: u32,
    /// The 128-bit value.
    pub value: Ipv6Addr,
    /// Type from `gid_attrs/types/INDEX`.
    pub kind: GidType,
    /// Interface from `gid_attrs/ndevs/INDEX`.
    pub netdev: Option<String>,
}

/// Type of a GID entry (`gid_attrs/types/N`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GidType {
    /// `IB/RoCE v1`: the two share one word; the link layer tells them apart. Also what UCX assumes where the file is missing.
    IbOrRoceV1,
    /// `RoCE v2`.
    RoceV2,
    /// Something this version does not know, kept as read.
    Other(String),
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

    #[test]
    fn links_below_their_best() {
        let link = PcieLink { speed_gts: Some(32.0), max_speed_gts: Some(32.0), width: Some(8), max_width: Some(16) };
        assert!(link.is_narrow() && !link.is_slow());
        assert!(PcieLink { speed_gts: Some(16.0), ..link }.is_slow());
        assert!(!PcieLink { width: None, speed_gts: None, ..link }.is_narrow());
    }
}
