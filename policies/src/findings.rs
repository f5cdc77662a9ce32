//! Problems that only show when the facts of a node are seen together.

use crate::{
    fabric::{Fact, Facts, Function, Memlock, PcieLink, PortState, Problem},
    names::problem,
    roles::{Fabric, PortRole, Role},
    verdict::GpuDirectPath,
};

/// What is wrong with the node, beyond what could not be read.
pub(crate) fn findings(
    facts: &Facts,
    ports: &[PortRole],
    gpu_direct: &Fact<Option<GpuDirectPath>>,
    soft: bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let devices = facts.devices.known().map_or(&[][..], Vec::as_slice);
    let rdma = ports.iter().any(|port| port.role == Role::Compute);
    for role in ports {
        // Functions that wait for a pod are idle by nature: a node has up to 128 of them.
        let idle = rdma && matches!(role.role, Role::Down | Role::NoRoutableGid);
        let function = devices.iter().find(|device| device.name == role.device).map(|device| device.function);
        if idle && function == Some(Function::Virtual) {
            continue;
        }
        let subject = format!("{} port {}", role.device, role.port);
        let port = devices
            .iter()
            .find(|device| device.name == role.device)
            .and_then(|device| device.ports.iter().find(|port| port.number == role.port));
        match role.role {
            Role::Down => {
                let no_manager =
                    role.fabric == Some(Fabric::InfiniBand) && port.is_some_and(|port| port.state == PortState::Init);
                if no_manager {
                    problems.push(Problem::new(
                        problem::NO_SUBNET_MANAGER,
                        subject,
                        "link is up and no subnet manager configured the port (state INIT)",
                        "start a subnet manager (opensm, UFM) on this fabric or check the port's cabling to it",
                    ));
                } else {
                    problems.push(Problem::new(
                        problem::PORT_DOWN,
                        subject,
                        role.reason.clone(),
                        "check cable, switch port and `ip link`; the port is not used until it is ACTIVE",
                    ));
                }
            }
            Role::NoRoutableGid => problems.push(Problem::new(
                problem::NO_ROUTABLE_GID,
                subject,
                role.reason.clone(),
                "give the port's interface an IPv4 or global IPv6 address; until then it is not used",
            )),
            Role::Unknown => problems.push(Problem::new(
                problem::UNKNOWN_LINK_LAYER,
                subject,
                role.reason.clone(),
                "the port is not used; report it with the output of `railbind-agent survey --json`",
            )),
            Role::Unreadable => problems.push(Problem::new(
                problem::UNREADABLE,
                subject,
                role.reason.clone(),
                "labels that depend on it keep their values; look at the kernel's log if it stays so",
            )),
            Role::Compute => {
                if devices.iter().any(|device| device.name == role.device && device.uverbs.is_none()) {
                    problems.push(Problem::new(
                        problem::NO_UVERBS,
                        subject,
                        "no /dev/infiniband/uverbs device belongs to it",
                        "load ib_uverbs (`modprobe ib_uverbs`); pods cannot open the NIC without it",
                    ));
                }
            }
            Role::Management
            | Role::AcceleratedNetworking
            | Role::FrontEnd
            | Role::Storage
            | Role::OtherFabric
            | Role::Iwarp
            | Role::UsNic
            | Role::OmniPath
            | Role::Software => {}
        }
    }
    problems.extend(narrow(facts, ports));
    if rdma && gpu_direct.known() == Some(&Some(GpuDirectPath::None)) {
        problems.push(Problem::new(problem::NO_GPUDIRECT, "node", "GPUs and RDMA are here, and neither DMA-BUF (kernel 5.12 and open GPU modules) nor a peermem module joins them", "install the open NVIDIA kernel modules, or `modprobe nvidia-peermem`; transfers are staged through host memory until then"));
    }
    if soft && rdma {
        problems.push(Problem::new(
            problem::SOFT_RDMA,
            "node",
            "the only RDMA devices are software ones",
            "fit for tests only; the node is never chosen for workers unless a profile allows software RDMA",
        ));
    }
    if let (true, Some(Memlock::Limited(bytes))) = (rdma, facts.memlock.known()) {
        problems.push(Problem::new(
            problem::MEMLOCK_LIMITED,
            "container runtime",
            format!("containers get a locked-memory limit of {bytes} bytes"),
            "set LimitMEMLOCK=infinity for the container runtime's service, or run workers as root with IPC_LOCK",
        ));
    }
    problems
}

/// Compute NICs and GPUs whose PCIe link has fewer lanes than the device: half the lanes are half the bandwidth. Speed is not
/// looked at: GPUs lower theirs while they have nothing to do.
fn narrow(facts: &Facts, ports: &[PortRole]) -> Vec<Problem> {
    let compute = |name: &str| ports.iter().any(|port| port.role == Role::Compute && port.device == name);
    let devices = facts.devices.known().into_iter().flatten();
    let nics = devices.filter(|device| compute(&device.name)).map(|device| (device.name.clone(), device.pcie));
    let gpus = facts.gpus.known().into_iter().flatten().map(|gpu| (format!("GPU {}", gpu.pci), gpu.pcie));
    nics.chain(gpus)
        .filter_map(|(subject, link)| Some((subject, link.filter(PcieLink::is_narrow)?)))
        .map(|(subject, link)| {
            let lanes = |lanes: Option<u32>| lanes.map_or_else(|| "?".into(), |lanes| lanes.to_string());
            Problem::new(
                problem::PCIE_NARROW,
                subject,
                format!("PCIe link has {} of {} lanes", lanes(link.width), lanes(link.max_width)),
                "reseat the card, check the slot and riser, and look for correctable PCIe errors in the kernel's log",
            )
        })
        .collect()
}
