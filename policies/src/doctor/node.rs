//! What is wrong with a node.

use super::{
    Asked, Cause, Diagnosis, Severity,
    scene::{NodeScene, Scene},
};
use crate::{
    fabric::Fact,
    names::{label, problem},
    profile::ResourceFamily,
    roles::Fabric,
};

pub(super) fn look(scene: &Scene, node: &NodeScene, found: &mut Vec<Diagnosis>) {
    let subject = format!("node {}", node.view.name);
    let matters = scene.matters(node);
    if node.ready == Some(false) && matters {
        let cause = "the node is not Ready: the kubelet does not report, or reports trouble";
        found.push(
            Diagnosis::new(Cause::NodeNotReady, Severity::Fault, &subject, cause)
                .seen(format!("{subject}: condition Ready is not True"))
                .remedy("look at `kubectl describe node`; what is said below of it may be old"),
        );
    }
    if silent(node) {
        if matters && node.has_gpus() {
            let cause = "railbind-agent reports nothing of this node";
            found.push(
                Diagnosis::new(Cause::AgentSilent, Severity::Warning, &subject, cause)
                    .seen(format!("{subject}: no label {} and no NodeFabric", label::FABRIC))
                    .remedy("see whether an agent's pod runs there: kubectl get pods -n railbind-system -o wide"),
            );
        }
        return;
    }
    problems(scene, node, &subject, found);
    plugins(node, &subject, found);
    fabric(scene, node, &subject, found);
    selftest(node, &subject, found);
    mtu(node, &subject, found);
}

fn silent(node: &NodeScene) -> bool {
    node.label(label::FABRIC).is_none() && matches!(node.fabric, Fact::Known(None) | Fact::Unknown(_))
}

/// What the agent found, in its own words.
fn problems(scene: &Scene, node: &NodeScene, subject: &str, found: &mut Vec<Diagnosis>) {
    let Some(story) = node.story() else { return };
    for told in &story.problems {
        let (code, severity) = match told.code.as_str() {
            problem::PORT_DOWN => (Cause::PortDown, Severity::Fault),
            problem::NO_SUBNET_MANAGER => (Cause::NoSubnetManager, Severity::Fault),
            problem::NO_ROUTABLE_GID => (Cause::NoRoutableGid, Severity::Fault),
            problem::NO_UVERBS => (Cause::NoUverbs, Severity::Fault),
            problem::NO_GPUDIRECT => (Cause::NoGpuDirect, Severity::Fault),
            problem::GID_INDEX_DIFFERS => (Cause::GidIndexDiffers, Severity::Warning),
            problem::SOFT_RDMA => (Cause::SoftRdma, Severity::Warning),
            problem::PCIE_NARROW => (Cause::PcieNarrow, Severity::Warning),
            // A worker that runs as root with IPC_LOCK is not touched by it: the pod's own check says whether one is.
            problem::MEMLOCK_LIMITED if scene.asked == Asked::Nodes => (Cause::MemlockLimited, Severity::Warning),
            problem::MEMLOCK_LIMITED => (Cause::MemlockLimited, Severity::Note),
            _ => (Cause::NodeProblem, Severity::Note),
        };
        let cause = match code {
            Cause::PortDown => "a compute port is not ACTIVE: its share of the bandwidth is lost".to_owned(),
            Cause::NoSubnetManager => {
                "no subnet manager configured the InfiniBand ports: nothing goes over them".into()
            }
            Cause::NoRoutableGid => "a RoCE port has no address that another node can reach".into(),
            Cause::NoGpuDirect => {
                "GPUDirect RDMA is off: KV cache is staged through host memory (+1-3 s to the first token)".into()
            }
            Cause::MemlockLimited => {
                "containers on this node may lock little memory: RDMA registration fails without IPC_LOCK".into()
            }
            _ => told.message.clone(),
        };
        found.push(
            Diagnosis::new(code, severity, subject, cause)
                .seen(format!("{subject}: {}: {} ({})", told.subject, told.message, told.code))
                .remedy(told.remedy.clone()),
        );
    }
}

/// Guide, Pre-Deployment Validation: what the device plugins offer.
fn plugins(node: &NodeScene, subject: &str, found: &mut Vec<Diagnosis>) {
    let family = match node.view.fabric() {
        Some(Fabric::Efa) => ResourceFamily::Efa,
        Some(Fabric::InfiniBand | Fabric::Roce) => ResourceFamily::Rdma,
        Some(Fabric::Tcp) | None => return,
    };
    let offers = node.view.allocatable.keys().filter(|name| family.has(name)).any(|name| node.view.count(name) > 0);
    if node.has_gpus() && !offers {
        let cause = "no RDMA resource is allocatable on a node with RDMA: pods there get no NIC, and UCX takes TCP";
        let listed: Vec<&str> =
            node.view.allocatable.keys().filter(|name| name.contains('/')).map(String::as_str).collect();
        found.push(
            Diagnosis::new(Cause::NoDevicePlugin, Severity::Fault, subject, cause)
                .seen(format!("{subject}: fabric {}, allocatable extended resources: [{}]", node.label(label::FABRIC).unwrap_or("?"), listed.join(", ")))
                .remedy("install or repair the RDMA device plugin (k8s-rdma-shared-dev-plugin, SR-IOV, aws-efa-k8s-device-plugin); with DRA this is expected"),
        );
    }
    let gpus = node.facts().and_then(|facts| facts.gpus.known().map(Vec::len)).unwrap_or(0);
    if gpus > 0 && node.view.gpus() == 0 {
        let cause = "no GPU is allocatable on a node with GPUs";
        found.push(
            Diagnosis::new(Cause::NoGpuPlugin, Severity::Note, subject, cause)
                .seen(format!("{subject}: {gpus} GPUs on the PCI bus, none in allocatable"))
                .remedy("install or repair the GPU device plugin; with DRA this is expected"),
        );
    }
}

fn fabric(scene: &Scene, node: &NodeScene, subject: &str, found: &mut Vec<Diagnosis>) {
    let broken = node.story().is_some_and(|story| story.problems.iter().any(|told| told.code == problem::PORT_DOWN));
    if node.label(label::FABRIC) == Some("tcp") && node.has_gpus() && !broken && scene.matters(node) {
        let cause = "the node has no RDMA fabric: KV cache goes over TCP (+90-100 s to the first token)";
        found.push(
            Diagnosis::new(Cause::TcpOnly, Severity::Fault, subject, cause)
                .seen(format!("{subject}: {}", said(node)))
                .remedy("run disaggregated workers on nodes with InfiniBand, RoCE or EFA, or keep prefill and decode together here"),
        );
    }
    if node.view.fabric() == Some(Fabric::Efa) && node.label(label::PROFILE) == Some("efa-host-staged") {
        let cause = "AWS EFA on this kernel stages GPU memory through the host: about 3x slower than aggregated (a known limitation of the guide's UCX settings)";
        found.push(
            Diagnosis::new(Cause::EfaHostStaged, Severity::Note, subject, cause)
                .seen(format!("{subject}: kernel {}", node.label(label::KERNEL).unwrap_or("?")))
                .remedy("accept it, or use NIXL's libfabric backend (railbind.dev/profile-set: nixl), or a kernel before 6.8"),
        );
    }
}

/// The condition's sentence, or the label.
fn said(node: &NodeScene) -> String {
    node.condition.as_ref().map_or_else(
        || format!("label {}={}", label::FABRIC, node.label(label::FABRIC).unwrap_or("?")),
        |condition| condition.message.clone(),
    )
}

/// Guide, checklist: transfer bandwidth > 1 GB/s.
fn selftest(node: &NodeScene, subject: &str, found: &mut Vec<Diagnosis>) {
    let Some(test) = &node.selftest else { return };
    let (code, severity, cause) = match test.verdict.as_str() {
        "failed" => (
            Cause::SelftestFailed,
            Severity::Fault,
            "the node's self-test failed: real transfers do not work as promised",
        ),
        "slow" => (Cause::SelftestSlow, Severity::Warning, "the node's self-test is slower than its fabric should be"),
        _ => return,
    };
    let mut diagnosis = Diagnosis::new(code, severity, subject, cause);
    for reason in test.reasons.iter().take(4) {
        diagnosis = diagnosis.seen(format!("{subject}: {reason} ({})", test.code));
    }
    let remedy = if test.remedy.is_empty() { "kubectl railbind matrix shows with whom" } else { &test.remedy };
    found.push(diagnosis.remedy(remedy));
}

/// RoCE ports of one node with different MTU.
fn mtu(node: &NodeScene, subject: &str, found: &mut Vec<Diagnosis>) {
    if node.view.fabric() != Some(Fabric::Roce) {
        return;
    }
    let mtus = mtus(node);
    let (Some(least), Some(most)) = (mtus.iter().map(|(_, mtu)| mtu).min(), mtus.iter().map(|(_, mtu)| mtu).max())
    else {
        return;
    };
    if least != most {
        let cause = "RoCE interfaces have different MTU: large messages between them are dropped or slow";
        let lines: Vec<String> = mtus.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect();
        found.push(
            Diagnosis::new(Cause::MtuDiffers, Severity::Fault, subject, cause)
                .seen(format!("{subject}: {}", lines.join(", ")))
                .remedy("give all RoCE interfaces, and the switch ports, one MTU (9000 where the fabric takes it)"),
        );
    }
}

/// Interfaces of the compute ports and their MTU.
pub(super) fn mtus(node: &NodeScene) -> Vec<(String, u32)> {
    let (Some(facts), Some(story)) = (node.facts(), node.story()) else { return Vec::new() };
    let compute = |name: &str| story.ports.iter().any(|port| port.device == name && port.role == "compute");
    let devices = facts.devices.known().into_iter().flatten().filter(|device| compute(&device.name));
    devices
        .filter_map(|device| {
            let netdev = device.netdevs.first()?;
            Some((netdev.name.clone(), netdev.mtu?))
        })
        .collect()
}
