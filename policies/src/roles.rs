//! What each RDMA port is for: compute fabric, or one of the functions that only look like it, each with its reason.

use serde::{Deserialize, Serialize};

use crate::{
    fabric::{DistanceLevel, Facts, Function, LinkLayer, NodeType, Port, PortState, RdmaDevice, Topology},
    gid::{self, GidChoice},
};

/// A fabric that carries RDMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fabric {
    /// InfiniBand.
    InfiniBand,
    /// RDMA over Converged Ethernet, v2.
    Roce,
    /// AWS Elastic Fabric Adapter.
    Efa,
    /// None: TCP only.
    Tcp,
}

impl Fabric {
    /// Of a label value.
    pub fn named(value: &str) -> Option<Self> {
        [Self::InfiniBand, Self::Roce, Self::Efa, Self::Tcp].into_iter().find(|fabric| fabric.as_str() == value)
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InfiniBand => "infiniband",
            Self::Roce => "roce",
            Self::Efa => "efa",
            Self::Tcp => "tcp",
        }
    }

    /// As people write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::InfiniBand => "InfiniBand",
            Self::Roce => "RoCE",
            Self::Efa => "EFA",
            Self::Tcp => "TCP",
        }
    }
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Carries KV cache between nodes.
    Compute,
    /// Would be compute fabric, and is not ACTIVE.
    Down,
    /// RoCE without a GID that leaves the subnet.
    NoRoutableGid,
    /// Switch-management function, or an InfiniBand function beside EFA.
    Management,
    /// A hypervisor's accelerated-networking function.
    AcceleratedNetworking,
    /// The node's front-end network: it holds the default route while other ports do not.
    FrontEnd,
    /// Far from every GPU while others of its kind are near one.
    Storage,
    /// Ethernet beside InfiniBand.
    OtherFabric,
    /// iWARP: not what UCX's InfiniBand transports speak.
    Iwarp,
    /// Cisco usNIC.
    UsNic,
    /// Omni-Path: UCX has no transport for it.
    OmniPath,
    /// Software RDMA beside hardware.
    Software,
    /// A link layer or node type that this version does not know.
    Unknown,
    /// Its state or link layer could not be read this time: nothing may be concluded from it.
    Unreadable,
}

impl Role {
    /// As people read it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Down => "down",
            Self::NoRoutableGid => "no-routable-gid",
            Self::Management => "management",
            Self::AcceleratedNetworking => "accelerated-networking",
            Self::FrontEnd => "front-end",
            Self::Storage => "storage",
            Self::OtherFabric => "other-fabric",
            Self::Iwarp => "iwarp",
            Self::UsNic => "usnic",
            Self::OmniPath => "omni-path",
            Self::Software => "software",
            Self::Unknown => "unknown",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A port with its role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRole {
    /// Device name.
    pub device: String,
    /// Port number.
    pub port: u32,
    /// Fabric it belongs to, where that much is known.
    pub fabric: Option<Fabric>,
    /// What it is for.
    pub role: Role,
    /// Why.
    pub reason: String,
    /// Rate in Gb/s.
    pub rate_gbps: Option<f64>,
    /// The GID that UCX would take; RoCE only.
    pub gid: Option<GidChoice>,
}

/// Roles of all ports, in the order of `facts`. Empty where the devices are unknown.
pub fn assign(facts: &Facts) -> Vec<PortRole> {
    let devices = facts.devices.known().map_or(&[][..], Vec::as_slice);
    let mut roles: Vec<PortRole> =
        devices.iter().flat_map(|device| device.ports.iter().map(move |port| alone(device, port))).collect();
    together(facts, devices, &mut roles);
    roles
}

/// Whether the device is an EFA one. PCI ids from rdma-core (providers/efa): vendor 0x1d0f, devices 0xefa0 and up; ENA is 0xec20.
pub fn is_efa(device: &RdmaDevice) -> bool {
    device.driver.as_deref() == Some("efa")
        || (device.vendor == Some(0x1d0f) && device.device.is_some_and(|id| id & 0xfff0 == 0xefa0))
}

/// The role of a port by itself.
fn alone(device: &RdmaDevice, port: &Port) -> PortRole {
    let mut found = PortRole {
        device: device.name.clone(),
        port: port.number,
        fabric: None,
        role: Role::Unknown,
        reason: String::new(),
        rate_gbps: port.rate_gbps,
        gid: None,
    };
    let (fabric, role, reason) = kind(device, port);
    found.fabric = fabric;
    if fabric == Some(Fabric::Roce) {
        found.gid = Some(gid::choose(&port.gids));
    }
    let (role, reason) = match (role, &port.state, found.gid) {
        (Role::Compute, PortState::Active, Some(gid)) if !gid.kind.routable() => {
            (Role::NoRoutableGid, format!("RoCE port whose best GID is {}", gid.kind.as_str()))
        }
        (Role::Compute, PortState::Active, _) => (role, reason),
        (Role::Compute, PortState::Unknown, _) => (Role::Unreadable, "state not readable".into()),
        (Role::Compute, state, _) => (Role::Down, format!("{reason}, state {state:?}")),
        _ => (role, reason),
    };
    (found.role, found.reason) = (role, reason);
    found
}

/// Fabric and role by device and link layer, without regard to state.
fn kind(device: &RdmaDevice, port: &Port) -> (Option<Fabric>, Role, String) {
    let driver = device.driver.as_deref().unwrap_or_default();
    if is_efa(device) {
        return (Some(Fabric::Efa), Role::Compute, "EFA device".into());
    }
    match &device.node_type {
        NodeType::Rnic => return (None, Role::Iwarp, "node type RNIC: iWARP".into()),
        NodeType::UsNic | NodeType::UsNicUdp => {
            return (None, Role::UsNic, "node type usNIC".into());
        }
        NodeType::Switch | NodeType::Router => {
            return (None, Role::Management, "a switch or router, not a channel adapter".into());
        }
        NodeType::Ca | NodeType::Unspecified | NodeType::Other(_) | NodeType::Unknown => {}
    }
    if driver == "hfi1" {
        return (None, Role::OmniPath, "Omni-Path (driver hfi1)".into());
    }
    if device.management.is_yes() {
        return (None, Role::Management, "switch management function (SMDL=SW_MNG in its VPD)".into());
    }
    match &port.link_layer {
        LinkLayer::InfiniBand => (Some(Fabric::InfiniBand), Role::Compute, "InfiniBand port".into()),
        LinkLayer::Ethernet => {
            let synthetic = device.netdevs.iter().find(|netdev| netdev.master_driver.as_deref() == Some("hv_netvsc"));
            match synthetic {
                Some(netdev) => (
                    Some(Fabric::Roce),
                    Role::AcceleratedNetworking,
                    format!("accelerated networking of {}", netdev.master.as_deref().unwrap_or("hv_netvsc")),
                ),
                None => (Some(Fabric::Roce), Role::Compute, "RoCE port".into()),
            }
        }
        LinkLayer::Unspecified => (None, Role::Unknown, "link layer unspecified, and not EFA".into()),
        LinkLayer::Other(text) => (None, Role::Unknown, format!("unknown link layer `{text}`")),
        LinkLayer::Unknown => (None, Role::Unreadable, "link layer not readable".into()),
    }
}

/// What a port is in the company of the others: only a *relative* rule may demote a port that would do by itself.
fn together(facts: &Facts, devices: &[RdmaDevice], roles: &mut [PortRole]) {
    let device = |name: &str| devices.iter().find(|device| device.name == name);
    let software = |role: &PortRole| device(&role.device).is_some_and(|device| device.software);
    let any = |roles: &[PortRole], test: &dyn Fn(&PortRole) -> bool| {
        roles.iter().any(|role| role.role == Role::Compute && test(role))
    };

    if any(roles, &|role| !software(role)) {
        demote(roles, &software, Role::Software, "software RDMA beside hardware");
    }
    if any(roles, &|role| role.fabric == Some(Fabric::Efa)) {
        demote(
            roles,
            &|role| role.fabric == Some(Fabric::InfiniBand),
            Role::Management,
            "InfiniBand function beside EFA: the node's fabric is EFA",
        );
        demote(
            roles,
            &|role| role.fabric == Some(Fabric::Roce),
            Role::OtherFabric,
            "Ethernet beside EFA: the node's fabric is EFA",
        );
    }
    if any(roles, &|role| role.fabric == Some(Fabric::InfiniBand)) {
        let roce = |role: &PortRole| role.fabric == Some(Fabric::Roce);
        let virtual_function =
            |role: &PortRole| device(&role.device).is_some_and(|device| device.function == Function::Virtual);
        demote(
            roles,
            &|role| roce(role) && virtual_function(role),
            Role::AcceleratedNetworking,
            "Ethernet virtual function beside InfiniBand",
        );
        demote(roles, &roce, Role::OtherFabric, "Ethernet beside InfiniBand: the node's fabric is InfiniBand");
    }
    let default_route = |role: &PortRole| {
        device(&role.device).is_some_and(|device| {
            device.netdevs.iter().any(|netdev| {
                let on = |name: &String| facts.default_route_netdevs.contains(name);
                on(&netdev.name) || netdev.master.as_ref().is_some_and(on)
            })
        })
    };
    if any(roles, &|role| role.fabric == Some(Fabric::Roce) && !default_route(role)) {
        demote(
            roles,
            &|role| role.fabric == Some(Fabric::Roce) && default_route(role),
            Role::FrontEnd,
            "carries the default route while other RoCE ports do not",
        );
    }
    let near = |role: &PortRole| {
        facts.distances.iter().any(|distance| distance.device == role.device && distance.level <= DistanceLevel::Phb)
    };
    if facts.topology == Topology::Ok && any(roles, &|role| role.fabric == Some(Fabric::Roce) && near(role)) {
        demote(
            roles,
            &|role| role.fabric == Some(Fabric::Roce) && !near(role),
            Role::Storage,
            "far from every GPU while other RoCE ports are near one",
        );
    }
}

/// Turns the compute (or down) ports that `test` picks into `role`.
fn demote(roles: &mut [PortRole], test: &dyn Fn(&PortRole) -> bool, role: Role, reason: &str) {
    for port in roles {
        if matches!(port.role, Role::Compute | Role::Down | Role::NoRoutableGid) && test(port) {
            port.role = role;
            port.reason = reason.into();
        }
    }
}
