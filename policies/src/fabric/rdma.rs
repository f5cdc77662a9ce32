//! RDMA devices: what they are, their ports and GIDs, and where they are plugged in.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::Fact;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_below_their_best() {
        let link = PcieLink { speed_gts: Some(32.0), max_speed_gts: Some(32.0), width: Some(8), max_width: Some(16) };
        assert!(link.is_narrow() && !link.is_slow());
        assert!(PcieLink { speed_gts: Some(16.0), ..link }.is_slow());
        assert!(!PcieLink { width: None, speed_gts: None, ..link }.is_narrow());
    }
}
