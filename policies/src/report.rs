//! What people read about a node: one sentence for its condition, one line for each NIC.

use serde::{Deserialize, Serialize};

use crate::{
    fabric::{DistanceLevel, Fact, Facts, LinkLayer, PortState, RdmaDevice},
    names::event,
    roles::{Fabric, PortRole, Role},
    selftest::{SelftestStatus, Standing, publish},
    verdict::{GpuDirectPath, Verdict},
};

/// Longest line: `kubectl describe` cuts an annotation's lines at 138 characters (kubectl describe.go, read in 1.36).
pub const LINE_WIDTH: usize = 137;

/// What separates the fabric's part of the condition's message from the self-test's.
const SELFTEST: &str = "; self-test ";

/// A Node condition without its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// The `FabricReady` condition.
pub fn condition(verdict: &Verdict) -> Condition {
    let of = |status: &str, reason: &str, message: String| Condition {
        status: status.into(),
        reason: reason.into(),
        message,
    };
    let fabric = match &verdict.fabric {
        Fact::Unknown(why) => return of("Unknown", "Unreadable", format!("The RDMA devices could not be read: {why}")),
        Fact::Known(fabric) => *fabric,
    };
    let down = verdict.ports.iter().filter(|port| port.role == Role::Down).count();
    let unroutable = verdict.ports.iter().filter(|port| port.role == Role::NoRoutableGid).count();
    if fabric == Fabric::Tcp {
        let (reason, why) = match (down, unroutable) {
            (0, 0) => ("NoRdmaFabric", "no RDMA compute fabric".to_owned()),
            (0, n) => ("NoRoutableGid", format!("{n} RoCE {} without a routable GID", plural(n))),
            (n, _) => ("PortDown", format!("{n} RDMA {} not ACTIVE", plural(n))),
        };
        return of("False", reason, format!("TCP only: {why}{}", profile(verdict)));
    }
    let ports: Vec<&PortRole> = verdict.compute_ports().collect();
    let rate = ports.iter().filter_map(|port| port.rate_gbps).reduce(f64::min);
    let rate = rate.map(|rate| format!(" at {rate} Gb/s")).unwrap_or_default();
    let direct = match &verdict.gpu_direct {
        Fact::Known(Some(GpuDirectPath::DmaBuf)) => ", GPUDirect over DMA-BUF",
        Fact::Known(Some(GpuDirectPath::Peermem)) => ", GPUDirect over peermem",
        Fact::Known(Some(GpuDirectPath::None)) => ", no GPUDirect",
        Fact::Known(None) => ", no GPU",
        Fact::Unknown(_) => ", GPUDirect unknown",
    };
    let lost = if down == 0 { String::new() } else { format!(", {down} {} down", plural(down)) };
    let soft = if verdict.soft { "software " } else { "" };
    let message = format!(
        "{soft}{}, {} {}{rate}{lost}{direct}{}",
        fabric.title(),
        ports.len(),
        plural(ports.len()),
        profile(verdict)
    );
    match (verdict.soft, down) {
        (true, _) => of("False", "SoftRdmaOnly", message),
        (false, 0) => of("True", "AllPortsActive", message),
        (false, _) => of("True", "SomePortsDown", message),
    }
}

/// The condition with what the self-test says: `; self-test 47.1 GB/s to node-b over rc_mlx5`.
///
/// A node whose self-test fails is not ready whatever its ports say. Announce by the condition without it: figures change.
#[must_use]
pub fn with_selftest(mut condition: Condition, selftest: &SelftestStatus) -> Condition {
    if let Some(words) = publish::sentence(selftest) {
        condition.message = format!("{}; {words}", condition.message);
    }
    match selftest.verdict {
        Standing::Failed => {
            condition.status = "False".into();
            condition.reason = event::SELFTEST_FAILED.into();
        }
        Standing::Slow if condition.status == "True" => condition.reason = "SelfTestSlow".into(),
        Standing::Slow | Standing::Passed | Standing::Untested => {}
    }
    condition
}

fn profile(verdict: &Verdict) -> String {
    verdict.profile.as_ref().map_or_else(|| ", no profile".into(), |name| format!(", profile {name}"))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "port" } else { "ports" }
}

/// An Event on the Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Whether a person should act.
    pub warning: bool,
    /// `FabricChanged` or `FabricDegraded`.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

/// What to announce when the condition goes from `old` to `new`: nothing where nothing changed.
pub fn announcement(old: Option<&Condition>, new: &Condition) -> Option<Announcement> {
    // What the self-test says has Events of its own, and is no change of the fabric.
    let fabric = |condition: &Condition| condition.message.split(SELFTEST).next().unwrap_or_default().to_owned();
    if old.is_some_and(|old| fabric(old) == fabric(new)) {
        return None;
    }
    let ready = |condition: &Condition| condition.status == "True";
    let lost = new.reason == "SomePortsDown" || (old.is_some_and(ready) && !ready(new));
    let note = match old {
        Some(old) => format!("{}; was: {}", fabric(new), fabric(old)),
        None => fabric(new),
    };
    Some(Announcement {
        warning: lost,
        reason: if lost { "FabricDegraded" } else { "FabricChanged" },
        // The API takes 1024 bytes (events.k8s.io/v1).
        note: note.chars().filter(|c| !c.is_control()).take(500).collect(),
    })
}

/// One line for each port: device, port, layer, state, rate, GID or LID, interface, nearest GPUs, NUMA node, firmware, role.
pub fn nics(facts: &Facts, verdict: &Verdict) -> String {
    let devices = facts.devices.known().map_or(&[][..], Vec::as_slice);
    let lines = devices.iter().flat_map(|device| {
        device.ports.iter().map(move |port| {
            let role = verdict.ports.iter().find(|role| role.device == device.name && role.port == port.number);
            let mut words = vec![clean(&device.name), format!("p{}", port.number), layer(&port.link_layer).into()];
            words.push(state(&port.state));
            words.extend(port.rate_gbps.map(|rate| format!("{rate}G")));
            match role.and_then(|role| role.gid) {
                Some(gid) => {
                    words.push(gid.kind.as_str().into());
                    words.extend(gid.index.map(|index| format!("gid{index}")));
                    words.extend(gid.value.map(|value| {
                        value.to_ipv4_mapped().map_or_else(|| value.to_string(), |address| address.to_string())
                    }));
                }
                None => words.extend(port.lid.map(|lid| format!("lid{lid}"))),
            }
            words.extend(device.netdevs.first().map(|netdev| clean(&netdev.name)));
            words.extend(nearest(facts, device));
            words.extend(device.numa.map(|numa| format!("numa{numa}")));
            words.extend(device.firmware.as_ref().map(|firmware| format!("fw{}", clean(firmware))));
            words.push(role.map_or_else(|| "unknown".into(), |role| role.role.word().into()));
            let line: String = words.join(" ");
            line.chars().take(LINE_WIDTH).collect::<String>()
        })
    });
    lines.collect::<Vec<String>>().join("\n")
}

/// `gpu0,gpu1=PIX`: the GPUs at the least distance, by their order on the PCI bus.
fn nearest(facts: &Facts, device: &RdmaDevice) -> Option<String> {
    let gpus = facts.gpus.known()?;
    let mine = || facts.distances.iter().filter(|distance| distance.device == device.name);
    let level = mine().map(|distance| distance.level).min()?;
    if level > DistanceLevel::Phb {
        return None;
    }
    let names: Vec<String> = mine()
        .filter(|distance| distance.level == level)
        .filter_map(|distance| gpus.iter().position(|gpu| gpu.pci == distance.gpu))
        .map(|index| format!("gpu{index}"))
        .collect();
    let level = level.word();
    Some(format!("{}={level}", names.join(",")))
}

/// Printable ASCII without blanks: a device's name or firmware must not break a line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(40).collect()
}

fn layer(layer: &LinkLayer) -> &'static str {
    match layer {
        LinkLayer::InfiniBand => "infiniband",
        LinkLayer::Ethernet => "ethernet",
        LinkLayer::Unspecified => "unspecified",
        LinkLayer::Other(_) | LinkLayer::Unknown => "unknown-layer",
    }
}

fn state(state: &PortState) -> String {
    match state {
        PortState::Nop => "NOP".into(),
        PortState::Down => "DOWN".into(),
        PortState::Init => "INIT".into(),
        PortState::Armed => "ARMED".into(),
        PortState::Active => "ACTIVE".into(),
        PortState::ActiveDefer => "ACTIVE_DEFER".into(),
        PortState::Other(text) => clean(text),
        PortState::Unknown => "UNKNOWN".into(),
    }
}
