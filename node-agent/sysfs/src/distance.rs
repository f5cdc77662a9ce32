//! How far a GPU is from an RDMA device, from the bridges above each.
//!
//! The levels are those of `nvidia-smi topo -m`; the rule for PIX and PXB is NCCL's `pciDistance`.

use policies::fabric::{Distance, DistanceLevel, Gpu, RdmaDevice, Topology};

/// One end of a distance.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Bridges above it, host bridge first.
    pub bridges: &'a [String],
    /// NUMA node.
    pub numa: Option<u32>,
}

/// The level between two devices; `None` where the tree and the NUMA nodes do not tell.
pub fn level(a: End<'_>, b: End<'_>) -> Option<DistanceLevel> {
    if a.bridges.is_empty() || b.bridges.is_empty() {
        return None;
    }
    let shared = shared_bridges(a, b);
    match shared {
        0 => match (a.numa, b.numa) {
            (Some(left), Some(right)) if left == right => Some(DistanceLevel::Node),
            (Some(_), Some(_)) => Some(DistanceLevel::Sys),
            (None, _) | (_, None) => None,
        },
        1 => Some(DistanceLevel::Phb),
        // Below one switch each has its own downstream port, so one private bridge a side is the nearest there is.
        _ if a.bridges.len().max(b.bridges.len()) - shared <= 1 => Some(DistanceLevel::Pix),
        _ => Some(DistanceLevel::Pxb),
    }
}

fn shared_bridges(a: End<'_>, b: End<'_>) -> usize {
    a.bridges.iter().zip(b.bridges).take_while(|(left, right)| left == right).count()
}

/// All GPU–NIC distances, and whether they can be trusted: a hypervisor that hangs every function on a root bus, or hides
/// both switches and NUMA nodes, gives a flat tree, and then no distances.
pub fn between(gpus: &[Gpu], devices: &[RdmaDevice]) -> (Topology, Vec<Distance>) {
    let gpu_ends: Vec<(&Gpu, End<'_>)> = gpus
        .iter()
        .map(|gpu| (gpu, End { bridges: &gpu.pci_path, numa: gpu.numa }))
        .filter(|(_, end)| !end.bridges.is_empty())
        .collect();
    let device_ends: Vec<(&RdmaDevice, End<'_>)> = devices
        .iter()
        .filter(|device| !device.software)
        .map(|device| (device, End { bridges: &device.pci_path, numa: device.numa }))
        .filter(|(_, end)| !end.bridges.is_empty())
        .collect();
    if gpu_ends.is_empty() || device_ends.is_empty() {
        return (Topology::Unknown, Vec::new());
    }
    let mut below_one_bridge = false;
    let mut distances = Vec::new();
    for (gpu, gpu_end) in &gpu_ends {
        for (device, device_end) in &device_ends {
            below_one_bridge |= shared_bridges(*gpu_end, *device_end) > 1;
            if let Some(level) = level(*gpu_end, *device_end) {
                distances.push(Distance { gpu: gpu.pci.clone(), device: device.name.clone(), level });
            }
        }
    }
    let on_root_bus = gpu_ends
        .iter()
        .map(|(_, end)| end)
        .chain(device_ends.iter().map(|(_, end)| end))
        .all(|end| end.bridges.len() == 1);
    let no_numa =
        gpu_ends.iter().all(|(_, end)| end.numa.is_none()) || device_ends.iter().all(|(_, end)| end.numa.is_none());
    if on_root_bus || (no_numa && !below_one_bridge) {
        return (Topology::Flat, Vec::new());
    }
    (Topology::Ok, distances)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn path(bridges: &str) -> Vec<String> {
        bridges.split_whitespace().map(str::to_owned).collect()
    }

    #[rstest]
    // One switch S below root port R, a downstream port each.
    #[case("H R S D1", Some(0), "H R S D2", Some(0), Some(DistanceLevel::Pix))]
    // Two functions behind the same port.
    #[case("H R", None, "H R", None, Some(DistanceLevel::Pix))]
    #[case("H R S D1", Some(0), "H R S D2 S2 D3", Some(0), Some(DistanceLevel::Pxb))]
    #[case("H R1 S D1", Some(0), "H R2 S D2", Some(0), Some(DistanceLevel::Phb))]
    #[case("H", None, "H", None, Some(DistanceLevel::Phb))]
    #[case("H1 R", Some(0), "H2 R", Some(0), Some(DistanceLevel::Node))]
    #[case("H1 R", Some(0), "H2 R", Some(1), Some(DistanceLevel::Sys))]
    #[case("H1 R", None, "H2 R", Some(1), None)]
    #[case("", Some(0), "H R", Some(0), None)]
    fn levels(
        #[case] a: &str,
        #[case] numa_a: Option<u32>,
        #[case] b: &str,
        #[case] numa_b: Option<u32>,
        #[case] expected: Option<DistanceLevel>,
    ) {
        let (a, b) = (path(a), path(b));
        let (a, b) = (End { bridges: &a, numa: numa_a }, End { bridges: &b, numa: numa_b });
        assert_eq!(level(a, b), expected);
        assert_eq!(level(b, a), expected, "a distance has no direction");
    }

    #[rstest]
    #[case::switch("H R S D1", None, "H R S D2", None, Topology::Ok, 1)]
    #[case::two_sockets("H1 R1", Some(0), "H2 R2", Some(1), Topology::Ok, 1)]
    #[case::all_on_one_bus("H", Some(0), "H", Some(0), Topology::Flat, 0)]
    #[case::a_host_bridge_each("H1", Some(0), "H2", Some(0), Topology::Flat, 0)]
    #[case::root_ports_without_numa("H R1", None, "H R2", None, Topology::Flat, 0)]
    #[case::no_tree("", None, "", None, Topology::Unknown, 0)]
    fn topologies(
        #[case] gpu: &str,
        #[case] gpu_numa: Option<u32>,
        #[case] nic: &str,
        #[case] nic_numa: Option<u32>,
        #[case] topology: Topology,
        #[case] count: usize,
    ) {
        let gpu = Gpu { pci_path: path(gpu), numa: gpu_numa, ..Gpu::default() };
        let nic = RdmaDevice { pci_path: path(nic), numa: nic_numa, ..RdmaDevice::default() };
        let (found, distances) = between(&[gpu], &[nic]);
        assert_eq!((found, distances.len()), (topology, count));
    }

    #[test]
    fn nothing_to_compare() {
        assert_eq!(between(&[], &[]), (Topology::Unknown, Vec::new()));
    }
}
