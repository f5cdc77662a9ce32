//! The status of a `NodeFabric`: the whole story of a node's fabric, as objects and `survey --json` carry it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fabric::{Fact, Facts, Function, Problem},
    probe::{CudaFacts, UcxFacts},
    rails,
    report::Condition,
    roles::Role,
    selftest::SelftestStatus,
    verdict::Verdict,
};

/// GID entries kept for each port: a table may have 256, and an object in etcd should stay far below a megabyte.
const GIDS_KEPT: usize = 16;

/// What is known about a node's fabric. Everything in it is observed; nothing is read back as an instruction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
// An agent that is newer than the CRD must not be refused for what it says more.
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct NodeFabricStatus {
    /// Best compute fabric with an ACTIVE port: infiniband, roce, efa or tcp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// What must be equal for two nodes to reach each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric_domain: Option<String>,
    /// How GPU memory reaches the NIC: dmabuf, peermem or none; absent without a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_direct: Option<String>,
    /// Transport profile that the node qualifies for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The only RDMA devices are software ones.
    pub soft: bool,
    /// ACTIVE compute ports.
    pub rdma_ports: u32,
    /// Rate of the slowest of them, in Gb/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gbps: Option<f64>,
    /// RoCE GID index that UCX would pick, where it is the same on every compute port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid_index: Option<u32>,
    /// Kind of that GID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid_kind: Option<String>,
    /// `UCX_NET_DEVICES` for this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_devices: Option<String>,
    /// `UCX_IB_ROCE_SUBNETS` for this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roce_subnets: Option<String>,
    /// The compute ports that are nearest to each GPU; empty where the topology says nothing.
    pub rails: Vec<RailStatus>,
    /// The `FabricReady` condition's parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyStatus>,
    /// Every port and what it is for.
    pub ports: Vec<PortStatus>,
    /// What is wrong, with a remedy each.
    pub problems: Vec<ProblemStatus>,
    /// Why it was decided so; profiles tried and why each was or was not chosen.
    pub reasons: Vec<String>,
    /// What UCX says of itself on this node, where the agent has probed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub ucx: Option<UcxFacts>,
    /// What CUDA says of this node's GPUs, where the agent has probed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub cuda: Option<CudaFacts>,
    /// What the self-test found, where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<SelftestStatus>,
    /// Where this node's agent takes part in self-tests, and how it is known there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest_endpoint: Option<EndpointStatus>,
    /// All facts as they were read, with long GID tables cut.
    #[schemars(schema_with = "anything")]
    pub facts: serde_json::Value,
}

/// Where an agent takes part in self-tests. Other agents trust this certificate and no other: only this node's agent may write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Address and port.
    pub address: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits; new with each start of the agent.
    pub certificate: String,
    /// Version of what is said there.
    pub protocol: u32,
}

/// The `FabricReady` condition's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyStatus {
    /// True, False or Unknown.
    pub status: String,
    /// CamelCase word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

impl From<Condition> for ReadyStatus {
    fn from(Condition { status, reason, message }: Condition) -> Self {
        Self { status, reason, message }
    }
}

/// The nearest compute ports of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RailStatus {
    /// PCI address of the GPU.
    pub gpu: String,
    /// How near they are, as `nvidia-smi topo -m` writes it: PIX, PXB, PHB, NODE or SYS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// `mlx5_0:1`, in natural order.
    pub ports: Vec<String>,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// RDMA device.
    pub device: String,
    /// Port number.
    pub port: u32,
    /// What it is for: compute, down, management, storage…
    pub role: String,
    /// Why.
    pub reason: String,
    /// Rate in Gb/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gbps: Option<f64>,
    /// The GID that UCX would take (RoCE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<String>,
    /// Its index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid_index: Option<u32>,
}

/// Something wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemStatus {
    /// Stable CamelCase code.
    pub code: String,
    /// A file, a device, a port.
    pub subject: String,
    /// What was seen.
    pub message: String,
    /// What to do next.
    pub remedy: String,
}

/// Any JSON, kept as it is.
fn anything(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The status that a survey gives.
pub fn status(facts: &Facts, verdict: &Verdict, condition: Condition, problems: &[Problem]) -> NodeFabricStatus {
    let compute: Vec<_> = verdict.compute_ports().collect();
    let labels = verdict.labels_on(&std::collections::BTreeMap::new());
    let label = |key: &str| labels.get(key).cloned();
    let rails = rails::find(facts, &verdict.ports);
    let recommended = [("UCX_NET_DEVICES", &rails.net_devices), ("UCX_IB_ROCE_SUBNETS", &rails.roce_subnets)]
        .map(|(name, found)| format!("{name}: {}", found.reason));
    NodeFabricStatus {
        fabric: verdict.fabric.known().map(|fabric| fabric.as_str().into()),
        fabric_domain: label(crate::names::label::FABRIC_DOMAIN),
        gpu_direct: label(crate::names::label::GPUDIRECT),
        profile: verdict.profile.clone(),
        soft: verdict.soft,
        rdma_ports: u32::try_from(compute.len()).unwrap_or(u32::MAX),
        rate_gbps: compute.iter().filter_map(|port| port.rate_gbps).reduce(f64::min),
        gid_index: label(crate::names::label::GID_INDEX).and_then(|index| index.parse().ok()),
        gid_kind: label(crate::names::label::GID_KIND),
        net_devices: rails.net_devices.value.clone(),
        roce_subnets: rails.roce_subnets.value.clone(),
        rails: rails
            .gpus
            .iter()
            .map(|gpu| RailStatus {
                gpu: gpu.gpu.clone(),
                level: gpu.level.map(|level| level.word().into()),
                ports: gpu.ports.clone(),
            })
            .collect(),
        ready: Some(condition.into()),
        ports: verdict
            .ports
            .iter()
            .filter(|port| !idle_function(facts, &port.device, port.role))
            .map(|port| PortStatus {
                device: port.device.clone(),
                port: port.port,
                role: port.role.word().into(),
                reason: port.reason.clone(),
                rate_gbps: port.rate_gbps,
                gid: port.gid.and_then(|gid| gid.value).map(|value| value.to_string()),
                gid_index: port.gid.and_then(|gid| gid.index),
            })
            .collect(),
        problems: problems
            .iter()
            .map(|Problem { code, subject, message, remedy }| ProblemStatus {
                code: code.clone(),
                subject: subject.clone(),
                message: message.clone(),
                remedy: remedy.clone(),
            })
            .collect(),
        reasons: verdict.reasons.iter().cloned().chain(recommended).collect(),
        ucx: None,
        cuda: None,
        selftest: None,
        selftest_endpoint: None,
        facts: serde_json::to_value(trimmed(facts, verdict)).unwrap_or_default(),
    }
}

/// A virtual function that waits for a pod: a node has up to 128 of them, and they say nothing.
fn idle_function(facts: &Facts, device: &str, role: Role) -> bool {
    let devices = facts.devices.known().map_or(&[][..], Vec::as_slice);
    let function = devices.iter().find(|found| found.name == device).map(|found| found.function);
    function == Some(Function::Virtual) && matches!(role, Role::Down | Role::NoRoutableGid)
}

/// The facts without what would only fill the object: the ends of long GID tables, and idle virtual functions.
fn trimmed(facts: &Facts, verdict: &Verdict) -> Facts {
    let mut facts = facts.clone();
    let idle: Vec<String> = verdict
        .ports
        .iter()
        .filter(|port| idle_function(&facts, &port.device, port.role))
        .map(|port| port.device.clone())
        .collect();
    // GPUs lower their link's speed while they have nothing to do: an object that follows it would be written all day.
    if let Fact::Known(gpus) = &mut facts.gpus {
        for link in gpus.iter_mut().filter_map(|gpu| gpu.pcie.as_mut()) {
            link.speed_gts = None;
        }
    }
    facts.distances.retain(|distance| !idle.contains(&distance.device));
    if let Fact::Known(devices) = &mut facts.devices {
        devices.retain(|device| !idle.contains(&device.name));
        for port in devices.iter_mut().flat_map(|device| &mut device.ports) {
            port.gids.truncate(GIDS_KEPT);
        }
    }
    facts
}

/// Whether two statuses say the same: the facts are compared as facts, since an API server writes `400.0` as `400` and may leave
/// out nulls.
pub fn same(one: &NodeFabricStatus, other: &NodeFabricStatus) -> bool {
    let facts = |status: &NodeFabricStatus| serde_json::from_value::<Facts>(status.facts.clone()).ok();
    let rest = |status: &NodeFabricStatus| NodeFabricStatus { facts: serde_json::Value::Null, ..status.clone() };
    match (facts(one), facts(other)) {
        (Some(left), Some(right)) => left == right && rest(one) == rest(other),
        _ => false,
    }
}
