//! The plan for a pod: what it gets and why; and for a binding: the values of the chosen node.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    intent::{ContainerIntent, Placement, PodIntent, Requirement},
    names::{annotation, k8s, label},
    profile::{EnvLine, NodeFact, Profiles, ResourceCount, ResourceFamily, TransportProfile},
    roles::Fabric,
    select::{self, NodeView},
};

/// What a pod gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Name of the profile; `None`: nothing is known about the nodes, so nothing is set.
    pub profile: Option<String>,
    /// Environment of every container that takes part, in this order.
    pub env: Vec<EnvPlan>,
    /// Capabilities to add.
    pub capabilities: Vec<String>,
    /// Size of `/dev/shm`.
    pub shared_memory: Option<String>,
    /// Extended resources by container name.
    pub resources: BTreeMap<String, (String, u64)>,
    /// Node affinity to add, and how.
    pub affinity: Vec<Requirement>,
    /// Whether that affinity is required or preferred.
    pub placement: Placement,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// What a person should act on.
    pub warnings: Vec<String>,
}

/// One variable of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvPlan {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// The same on every node of the class.
    Constant(String),
    /// The node's, through the annotation `env.railbind.dev/NAME`, which starts with this value.
    Late(String),
}

/// The plan for a pod among these nodes.
pub fn plan<'n>(profiles: &Profiles, nodes: impl IntoIterator<Item = &'n NodeView>, intent: &PodIntent) -> Plan {
    let all: Vec<&NodeView> = nodes.into_iter().collect();
    let candidates = select::candidates(all.iter().copied(), intent);
    let mut plan = Plan { placement: intent.placement, ..Plan::default() };
    let decided = intent.decided.as_deref().and_then(|name| profiles.get(name));
    let choice = match decided {
        Some(profile) => {
            let nodes = candidates
                .iter()
                .copied()
                .filter(|node| node.labels.get(label::PROFILE) == Some(&profile.metadata.name));
            Some(select::Choice { profile, nodes: nodes.collect() })
        }
        None => select::best(profiles, &candidates),
    };
    let Some(choice) = choice else {
        plan.warnings.push(if candidates.is_empty() {
            format!("railbind: none of {} nodes fits this pod's selectors, taints and GPU count; admitted without UCX settings", all.len())
        } else {
            format!("railbind: none of the {} nodes this pod can land on reports a fabric (is railbind-agent running?); admitted without UCX settings", candidates.len())
        });
        plan.reasons.push("no candidate node carries railbind.dev/profile".into());
        return plan;
    };
    let profile = choice.profile;
    plan.profile = Some(profile.metadata.name.clone());
    plan.reasons.push(format!(
        "{}: {}; {} of {} candidate nodes",
        profile.metadata.name,
        profile.spec.description,
        choice.nodes.len(),
        candidates.len()
    ));
    let fabric = choice
        .nodes
        .iter()
        .find_map(|node| fabric_of(node))
        .or_else(|| profile.spec.when.fabric.first().copied())
        .unwrap_or(Fabric::Tcp);
    if fabric == Fabric::Tcp {
        plan.warnings.push(format!("railbind: no RDMA on any node this pod can land on: KV cache goes over TCP, expect a time to first token of {}", profile.spec.expect.ttft_overhead.value));
    }
    environment(profile, fabric, intent, &mut plan);
    privileges(profile, intent, &choice.nodes, &mut plan);
    memory(profile, intent, &mut plan);
    for container in &intent.containers {
        resources(profile, &choice.nodes, container, &mut plan);
    }
    if intent.placement != Placement::None && intent.node_name.is_none() {
        plan.affinity.push(Requirement {
            key: label::PROFILE.into(),
            operator: "In".into(),
            values: vec![profile.metadata.name.clone()],
        });
    }
    plan
}

fn fabric_of(node: &NodeView) -> Option<Fabric> {
    let value = node.labels.get(label::FABRIC)?;
    [Fabric::InfiniBand, Fabric::Roce, Fabric::Efa, Fabric::Tcp].into_iter().find(|fabric| fabric.as_str() == value)
}

fn applies(line: &EnvLine, fabric: Fabric) -> bool {
    line.fabric.is_empty() || line.fabric.contains(&fabric)
}

fn environment(profile: &TransportProfile, fabric: Fabric, intent: &PodIntent, plan: &mut Plan) {
    for line in profile.spec.env.iter().filter(|line| applies(line, fabric)) {
        if let Some(range) = line.ucx {
            match intent.ucx {
                Some(ucx) if range.contains(ucx) => {}
                Some(ucx) => {
                    plan.reasons.push(format!("{} left out: UCX {ucx} does not know it", line.name));
                    continue;
                }
                None => {
                    plan.reasons.push(format!(
                        "{} left out: only for UCX {}, and the image's UCX is not known ({})",
                        line.name,
                        range_text(range),
                        annotation::UCX_VERSION
                    ));
                    continue;
                }
            }
        }
        let value = match (&line.value, &line.default) {
            (Some(value), _) => EnvValue::Constant(value.clone()),
            (None, default) => EnvValue::Late(default.clone().unwrap_or_default()),
        };
        plan.env.push(EnvPlan { name: line.name.clone(), value });
    }
    for container in &intent.containers {
        for planned in &plan.env {
            if container.env.contains_key(&planned.name) {
                plan.reasons.push(format!("{}: {} is the user's and stays", container.name, planned.name));
            }
        }
        for fatal in &profile.spec.fatal {
            if let Some(Some(value)) = container.env.get(&fatal.name)
                && fatal.values.contains(value)
            {
                plan.warnings
                    .push(format!("railbind: {}={value} in container {}: {}", fatal.name, container.name, fatal.why));
            }
        }
    }
    if !intent.opaque_env.is_empty() && !plan.env.is_empty() {
        let names: Vec<&str> = intent.opaque_env.iter().map(String::as_str).collect();
        plan.warnings.push(format!("railbind: envFrom {} cannot be seen here and `env` wins over it: settings of the same names are overridden", names.join(", ")));
    }
}

fn range_text(range: crate::profile::Range) -> String {
    match (range.min, range.below) {
        (Some(min), Some(below)) => format!("{min} up to before {below}"),
        (Some(min), None) => format!("{min} and later"),
        (None, Some(below)) => format!("before {below}"),
        (None, None) => "of any version".into(),
    }
}

fn privileges(profile: &TransportProfile, intent: &PodIntent, nodes: &[&NodeView], plan: &mut Plan) {
    for capability in &profile.spec.needs.capabilities {
        if let (k8s::IPC_LOCK, Some(level)) = (capability.value.as_str(), &intent.refuses_ipc_lock) {
            let unlimited = !nodes.is_empty()
                && nodes.iter().all(|node| node.labels.get(label::MEMLOCK).is_some_and(|value| value == "unlimited"));
            plan.reasons.push(format!("IPC_LOCK left out: Pod Security level `{level}` would refuse the pod"));
            if !unlimited {
                plan.warnings.push(format!("railbind: Pod Security level `{level}` refuses IPC_LOCK; RDMA needs it unless the nodes give containers unlimited locked memory"));
            }
            continue;
        }
        plan.capabilities.push(capability.value.clone());
    }
    let limited = nodes.iter().any(|node| node.labels.get(label::MEMLOCK).is_some_and(|value| value == "limited"));
    if limited && !profile.spec.needs.capabilities.is_empty() {
        for container in intent.containers.iter().filter(|container| container.non_root) {
            plan.warnings.push(format!(
                "railbind: container {} is not root: IPC_LOCK has no effect, and nodes of {} limit locked memory",
                container.name, profile.metadata.name
            ));
        }
    }
}

fn memory(profile: &TransportProfile, intent: &PodIntent, plan: &mut Plan) {
    let Some(engine) = intent.engine else {
        plan.reasons.push("/dev/shm left alone: engine not recognised".into());
        return;
    };
    match profile.spec.needs.shared_memory.get(&engine) {
        Some(_) if intent.has_shm => plan.reasons.push("/dev/shm left alone: the pod mounts it itself".into()),
        Some(size) => {
            plan.reasons.push(format!("/dev/shm of {} for {}", size.value, engine.title()));
            plan.shared_memory = Some(size.value.clone());
        }
        None => plan.reasons.push(format!("/dev/shm left alone: the profile names no size for {}", engine.title())),
    }
}

fn resources(profile: &TransportProfile, nodes: &[&NodeView], container: &ContainerIntent, plan: &mut Plan) {
    let Some(need) = &profile.spec.needs.resource else {
        return;
    };
    if let Some((name, count)) =
        container.resources.iter().find(|(name, _)| ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name))
    {
        plan.reasons.push(format!("{}: requests {name}: {count} itself", container.name));
        return;
    }
    if container.gpus == 0 {
        return;
    }
    let Some(name) = offered(need.family, nodes) else {
        plan.warnings.push(format!("railbind: no {} resource on the nodes of profile {}: is the device plugin installed? Without it the pod sees no NIC", match need.family { ResourceFamily::Rdma => "RDMA", ResourceFamily::Efa => k8s::EFA_RESOURCE }, profile.metadata.name));
        return;
    };
    let ceiling = nodes.iter().map(|node| node.count(&name)).max().unwrap_or(0);
    let wanted = match need.count {
        ResourceCount::Gpus => container.gpus,
        ResourceCount::NodeRatio => nodes
            .iter()
            .filter(|node| node.gpus() > 0)
            .map(|node| node.count(&name) * container.gpus / node.gpus())
            .filter(|count| *count > 0)
            .min()
            .unwrap_or(1),
    };
    let count = wanted.min(ceiling);
    plan.reasons.push(match (need.count, count < wanted) {
        (_, true) => format!("{}: {name}: {count}, all that a node gives, for {} GPUs", container.name, container.gpus),
        (ResourceCount::Gpus, false) => {
            format!("{}: {name}: {count}, one for each GPU", container.name)
        }
        (ResourceCount::NodeRatio, false) => {
            format!("{}: {name}: {count} for {} GPUs, the nodes' ratio", container.name, container.gpus)
        }
    });
    plan.resources.insert(container.name.clone(), (name, count));
}

/// The resource of a family that most of the nodes offer; of two that are level, `rdma/…` and then the first by name.
fn offered(family: ResourceFamily, nodes: &[&NodeView]) -> Option<String> {
    let mut offers: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        for name in node.allocatable.keys().filter(|name| family.has(name) && node.count(name) > 0) {
            *offers.entry(name).or_default() += 1;
        }
    }
    let best =
        offers.into_iter().min_by_key(|(name, count)| (std::cmp::Reverse(*count), !name.starts_with("rdma/"), *name));
    best.map(|(name, _)| name.to_owned())
}

/// The late-bound variables of a node, by name: what a Binding to it carries under `env.railbind.dev/`.
///
/// Only names that a profile lists, only on the fabrics it lists them for, and each value checked against its fact's grammar:
/// a node may lie, and must not choose what runs in a pod.
pub fn bind_values(profiles: &Profiles, node: &NodeView) -> BTreeMap<String, String> {
    let Some(fabric) = fabric_of(node) else {
        return BTreeMap::new();
    };
    let lines = profiles
        .iter()
        .filter(|profile| profile.spec.when.fabric.contains(&fabric))
        .flat_map(|profile| profile.spec.env.iter())
        .filter(|line| applies(line, fabric));
    lines
        .filter_map(|line| line.from.and_then(|fact| node_fact(fact, node)).map(|value| (line.name.clone(), value)))
        .collect()
}

fn node_fact(fact: NodeFact, node: &NodeView) -> Option<String> {
    match fact {
        NodeFact::GidIndex => node.labels.get(label::GID_INDEX)?.parse::<u16>().ok().map(|index| index.to_string()),
    }
}
