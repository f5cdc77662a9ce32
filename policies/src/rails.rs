//! Which NICs are near which GPU, and from that what UCX should be told on this node: devices and subnets, with the reasons.

use std::{collections::BTreeSet, net::Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{
    fabric::{DistanceLevel, Fact, Facts, Gpu, Subnet, Topology},
    profile::NodeFact,
    roles::{Fabric, PortRole, Role},
};

/// Near and far, and what follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rails {
    /// Every GPU, in the order of the facts. Empty where distances mean nothing.
    pub gpus: Vec<GpuRails>,
    /// What `UCX_NET_DEVICES` should be: the compute ports that are nearest to some GPU, in natural order; all compute ports
    /// where distances mean nothing. The variable concerns TCP devices too: with it set, UCX has no TCP left to fall back to.
    pub net_devices: Recommendation,
    /// What `UCX_IB_ROCE_SUBNETS` should be (UCX 1.18 and later, never beside `UCX_IB_GID_INDEX`): the subnets of the compute
    /// ports' addresses. It lets UCX pick a GID on each port, wherever that is in the port's table.
    pub roce_subnets: Recommendation,
}

/// The nearest compute ports of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuRails {
    /// PCI address of the GPU.
    pub gpu: String,
    /// How near they are; `None` where nothing is known for this GPU.
    pub level: Option<DistanceLevel>,
    /// `mlx5_0:1`, in natural order.
    pub ports: Vec<String>,
}

/// A value, or none, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// In the grammar of its variable.
    pub value: Option<String>,
    /// Why it is this, or why there is none.
    pub reason: String,
}

impl Recommendation {
    fn none(reason: impl Into<String>) -> Self {
        Self { value: None, reason: reason.into() }
    }

    fn checked(fact: NodeFact, words: &[String], reason: String) -> Self {
        let value = words.join(",");
        match fact.checked(&value) {
            Some(value) => Self { value: Some(value), reason },
            None => Self::none(format!("{} words, of which UCX would not take every one: {reason}", words.len())),
        }
    }
}

/// Whether `value` is what we give `UCX_NET_DEVICES`: a list of `device:port`, without wildcards, ranges or `^`.
pub fn valid_net_devices(value: &str) -> bool {
    NodeFact::NetDevices.checked(value).is_some()
}

/// Whether `value` is what we give `UCX_IB_ROCE_SUBNETS`: a list of `address/bits`, without `^`.
pub fn valid_roce_subnets(value: &str) -> bool {
    NodeFact::RoceSubnets.checked(value).is_some()
}

/// The rails of a node whose ports have these roles, in natural order as the readers give them.
pub fn find(facts: &Facts, ports: &[PortRole]) -> Rails {
    let unreadable = ports.iter().find(|port| port.role == Role::Unreadable);
    if let Some(port) = unreadable {
        let why = format!("{} could not be read in full: {}", name(port), port.reason);
        return Rails {
            gpus: Vec::new(),
            net_devices: Recommendation::none(why.clone()),
            roce_subnets: Recommendation::none(why),
        };
    }
    let compute: Vec<&PortRole> = ports.iter().filter(|port| port.role == Role::Compute).collect();
    let gpus = match facts.topology {
        Topology::Ok => {
            facts.gpus.known().map_or(&[][..], Vec::as_slice).iter().map(|gpu| near(facts, gpu, &compute)).collect()
        }
        Topology::Flat | Topology::Unknown => Vec::new(),
    };
    Rails { net_devices: net_devices(facts, &compute, &gpus), roce_subnets: roce_subnets(facts, &compute), gpus }
}

fn name(port: &PortRole) -> String {
    format!("{}:{}", port.device, port.port)
}

fn near(facts: &Facts, gpu: &Gpu, compute: &[&PortRole]) -> GpuRails {
    let level = |port: &PortRole| {
        let mut distances = facts.distances.iter();
        distances
            .find(|distance| distance.gpu == gpu.pci && distance.device == port.device)
            .map(|distance| distance.level)
    };
    let nearest = compute.iter().filter_map(|port| level(port)).min();
    let ports = compute.iter().filter(|port| nearest.is_some() && level(port) == nearest);
    GpuRails { gpu: gpu.pci.clone(), level: nearest, ports: ports.map(|port| name(port)).collect() }
}

fn net_devices(facts: &Facts, compute: &[&PortRole], gpus: &[GpuRails]) -> Recommendation {
    let all: Vec<String> = compute.iter().map(|port| name(port)).collect();
    let of_all = |why: &str| {
        Recommendation::checked(NodeFact::NetDevices, &all, format!("all {} compute ports: {why}", all.len()))
    };
    if let Fact::Unknown(why) = &facts.devices {
        return Recommendation::none(format!("the RDMA devices could not be read: {why}"));
    }
    if all.is_empty() {
        return Recommendation::none("no RDMA compute port");
    }
    match (&facts.gpus, facts.topology) {
        (Fact::Unknown(_), _) => return of_all("the GPUs could not be read"),
        (Fact::Known(gpus), _) if gpus.is_empty() => return of_all("no GPU to be near to"),
        (Fact::Known(_), Topology::Flat) => {
            return of_all("the PCI tree is flat, as hypervisors show it, and tells no distance");
        }
        (Fact::Known(_), Topology::Unknown) => return of_all("the PCI tree tells no distance"),
        (Fact::Known(_), Topology::Ok) => {}
    }
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.ports.is_empty()) {
        return of_all(&format!("nothing is known about the distances of GPU {}", gpu.gpu));
    }
    let chosen: BTreeSet<&String> = gpus.iter().flat_map(|gpu| &gpu.ports).collect();
    let (near, far): (Vec<String>, Vec<String>) = all.iter().cloned().partition(|port| chosen.contains(port));
    let farthest = gpus.iter().filter_map(|gpu| gpu.level).max().unwrap_or(DistanceLevel::Sys);
    let left_out =
        if far.is_empty() { String::new() } else { format!("; left out, nearest to none: {}", far.join(" ")) };
    let reason = format!("nearest to the {} GPUs, each within {}{left_out}", gpus.len(), farthest.word());
    Recommendation::checked(NodeFact::NetDevices, &near, reason)
}

fn roce_subnets(facts: &Facts, compute: &[&PortRole]) -> Recommendation {
    let roce: Vec<&&PortRole> = compute.iter().filter(|port| port.fabric == Some(Fabric::Roce)).collect();
    if roce.is_empty() {
        return Recommendation::none("no RoCE compute port");
    }
    let mut words: Vec<String> = Vec::new();
    let mut indexes = BTreeSet::new();
    for port in &roce {
        let Some(address) = port.gid.and_then(|gid| gid.value) else {
            return Recommendation::none(format!("{} has no GID", name(port)));
        };
        indexes.insert(port.gid.and_then(|gid| gid.index));
        // UCX would find no GID at all on a port whose subnet is missing from the list.
        let Some(subnet) =
            facts.subnets.iter().filter(|subnet| holds(subnet, address)).max_by_key(|subnet| subnet.prefix_len)
        else {
            return Recommendation::none(format!(
                "{} has an address in no subnet of the host's: {address}",
                name(port)
            ));
        };
        let word = cidr(subnet);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let index = match indexes.len() {
        0 | 1 => "the GID index is the same on all of them, so that would do as well",
        _ => "the GID index differs between them, so no single one would be right",
    };
    let ports =
        if roce.len() == 1 { "1 RoCE compute port".to_owned() } else { format!("{} RoCE compute ports", roce.len()) };
    Recommendation::checked(NodeFact::RoceSubnets, &words, format!("subnets of {ports}; {index}"))
}

fn holds(subnet: &Subnet, address: Ipv6Addr) -> bool {
    let (v4, bits) = (subnet.network.to_ipv4_mapped().is_some(), u32::from(subnet.prefix_len));
    let bits = if v4 { bits.saturating_add(96) } else { bits }.min(128);
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    // A default route is no subnet.
    subnet.prefix_len > 0 && (subnet.network.to_bits() ^ address.to_bits()) & mask == 0
}

fn cidr(subnet: &Subnet) -> String {
    match subnet.network.to_ipv4_mapped() {
        Some(network) => format!("{network}/{}", subnet.prefix_len),
        None => format!("{}/{}", subnet.network, subnet.prefix_len),
    }
}

#[cfg(test)]
mod tests;
